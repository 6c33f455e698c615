"""A folder has the files that its manifest lists; what was released still loads."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from keras_lrs._storage import manifest
from keras_lrs._storage.checkpoints import Checkpoint, Checkpoints
from keras_lrs.ensembles.store import Store


@dataclasses.dataclass(frozen=True)
class Letter(manifest.Record):
    pattern = "letter-*.txt"
    digits = 3

    number: int
    to: str
    sha256: str = ""


class Letters(manifest.Folder[Letter]):
    record = Letter
    listed_as = "letters"


def names(folder):
    """The files in a folder, without the lock of who is writing to it."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def written_by_hand(path, content):
    """Writes a manifest as version 0.1.0 did."""

    def text(content):
        return json.dumps(content, indent=1) + "\n"

    digest = hashlib.sha256(text(content).encode()).hexdigest()
    path.write_text(text({**content, "sha256": digest}))


def by_hand(**content):
    version = {"format": 1, "keras_lrs": "0.1.0", "keras": "3.0", "backend": "torch"}
    return {**version, "written": "2025-01-01T00:00:00+00:00", **content}


class TestFolder:
    def test_a_new_one_is_empty_and_writes_nothing(self, tmp_path):
        assert Letters(tmp_path / "new").records == []
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("kind", [Store, Checkpoints])
    def test_the_manifest_of_another_callback_is_called_that(self, kind, tmp_path):
        letters = Letters(tmp_path)
        letters.add(Letter(0, "Ada"), b"Dear Ada")
        with pytest.raises(ValueError, match=f"`{letters.manifest}` lists no"):
            kind(tmp_path)
        assert names(tmp_path) == ["letter-001.txt", "manifest.json"]

    def test_reads_what_it_wrote(self, tmp_path):
        letters = Letters(tmp_path)
        letters.add(Letter(0, "Ada"), b"Dear Ada")
        letters.add(Letter(0, "Bob"), memoryview(b"Dear Bob"))
        again = Letters(tmp_path)
        assert again.records == letters.records
        assert [(r.number, r.to) for r in again.records] == [(1, "Ada"), (2, "Bob")]
        assert [again.read(r) for r in again.records] == [b"Dear Ada", b"Dear Bob"]
        assert names(tmp_path) == ["letter-001.txt", "letter-002.txt", "manifest.json"]

    def test_keeps_the_last_files_and_those_of_others(self, tmp_path):
        (tmp_path / "notes.txt").write_bytes(b"of the user")
        (tmp_path / "letter-draft.txt").write_bytes(b"of the user")
        letters = Letters(tmp_path)
        letters.add(Letter(0, "Ada"), b"Ada")
        (tmp_path / "letter-009.txt").write_bytes(b"orphan")
        (tmp_path / ".letter-001.txt.0123abcd").write_bytes(b"half")
        for to in ("Bob", "Cy"):
            letters.add(Letter(0, to), to.encode(), keep_last=2)
        assert [record.number for record in letters.records] == [2, 3]
        kept = ["letter-002.txt", "letter-003.txt", "letter-draft.txt"]
        assert names(tmp_path) == [*kept, "manifest.json", "notes.txt"]

    def test_remove_leaves_only_what_is_not_its_own(self, tmp_path):
        (tmp_path / "notes.txt").write_bytes(b"of the user")
        letters = Letters(tmp_path)
        letters.add(Letter(0, "Ada"), b"Dear Ada")
        letters.remove()
        assert names(tmp_path) == ["notes.txt"]
        assert Letters(tmp_path).records == []

    @pytest.mark.parametrize("damage", [None, b"Dear Eve"], ids=["missing", "altered"])
    def test_a_file_that_is_not_what_was_written_is_not_read(self, tmp_path, damage):
        letters = Letters(tmp_path)
        letters.add(Letter(0, "Ada"), b"Dear Ada")
        path = tmp_path / "letter-001.txt"
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"letter-001.txt` (cannot be|is damaged)"):
            letters.read(letters.records[0])

    @pytest.mark.parametrize(
        "entry",
        [
            {"number": 1, "to": "Ada"},
            {"number": 1, "to": "Ada", "sha256": "", "cc": "Bob"},
            {"number": "1", "to": "Ada", "sha256": ""},
            {"number": 1, "to": "Ada", "sha256": "", "file": "letter-002.txt"},
        ],
        ids=["too few fields", "too many", "number", "file"],
    )
    def test_an_entry_of_another_kind_is_refused(self, tmp_path, entry):
        written_by_hand(tmp_path / "manifest.json", by_hand(letters=[entry]))
        with pytest.raises(ValueError, match=r"manifest.json` has an entry of another"):
            Letters(tmp_path)


class TestReleasedFiles:
    """Folders that version 0.1.0 wrote still load."""

    def test_of_an_ensemble(self, tmp_path):
        member = {
            "file": "snapshot-0002.weights.h5",
            "number": 2,
            "step": 20,
            "cycle": 2,
            "complete": True,
            "learning_rate": 0.1,
            "metrics": {"loss": float("nan")},
            "sha256": hashlib.sha256(b"content").hexdigest(),
        }
        content = by_hand(shapes=[[3, 2]], members=[member])
        written_by_hand(tmp_path / "manifest.json", content)
        (tmp_path / "snapshot-0002.weights.h5").write_bytes(b"content")
        store = Store(tmp_path)
        (record,) = store.records
        assert store.shapes == [[3, 2]]
        assert (record.step, record.cycle, record.learning_rate) == (20, 2, 0.1)
        assert store.read(record) == b"content"

    def test_of_a_run_that_can_be_resumed(self, tmp_path):
        entries = []
        for number in (8, 7):  # The newest came first.
            path = tmp_path / f"generation-{number:08d}.npz"
            array = {"__array__": "array-0", "dtype": "float32", "shape": [2]}
            tree = json.dumps({"epoch": number, "values": [array]})
            bits = np.array([1.0, number], "float32").view(np.uint8)
            np.savez(path, **{"array-0": bits, "tree": np.array(tree)})
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            entry = {"number": number, "epoch": number, "batch": 3, "iterations": 50}
            entries.append({**entry, "sha256": digest})
        content = by_hand(generations=entries)
        written_by_hand(tmp_path / "manifest.json", content)
        checkpoint, state = Checkpoints(tmp_path).newest()
        assert dataclasses.asdict(checkpoint) == entries[0]
        assert state["epoch"] == 8
        np.testing.assert_array_equal(state["values"][0], np.float32([1.0, 8.0]))

    def test_of_a_later_version_do_not(self, tmp_path):
        content = {**by_hand(letters=[]), "format": 2, "keras_lrs": "9.0"}
        written_by_hand(tmp_path / "manifest.json", content)
        with pytest.raises(ValueError, match=r"format 2, written by keras_lrs 9\.0"):
            Letters(tmp_path)


def test_a_checkpoint_is_written_as_version_0_1_0_reads_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for epoch in range(3):
        checkpoints.save(Checkpoint(0, epoch, 0, 10 * epoch), {"epoch": epoch})
    content = json.loads((tmp_path / "manifest.json").read_bytes())
    entries = content["generations"]
    assert [entry["number"] for entry in entries] == [3, 2]
    assert [*entries[0]] == ["number", "epoch", "batch", "iterations", "sha256"]
    written = ["generation-00000002.npz", "generation-00000003.npz", "manifest.json"]
    assert names(tmp_path) == written
