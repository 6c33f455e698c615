"""A folder has the files that its manifest lists; what was released still loads."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import warnings

import numpy as np
import pytest

from keras_lrs._storage import manifest
from keras_lrs._storage.checkpoints import Checkpoint, Checkpoints
from keras_lrs._storage.manifest_file import DamagedError
from keras_lrs.ensembles.store import Record, Store
from tests.storage import objects, writers
from tests.warned import warns


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


def three_letters(folder, keep_last=None):
    letters = Letters(folder)
    for to in ("Ada", "Bob", "Cy"):
        letters.add(Letter(0, to), f"Dear {to}".encode(), keep_last)
    letters.close()
    return letters


class TestALostManifest:
    """A file says what it is, so that the manifest can be rebuilt."""

    @pytest.mark.parametrize("keep_last", [None, 2])
    def test_is_rebuilt_from_the_files(self, tmp_path, keep_last):
        written = three_letters(tmp_path, keep_last)
        written.manifest.unlink()
        with warns(r"manifest.json` is missing. It is rebuilt from the \d files"):
            letters = Letters(tmp_path)
        assert letters.records == written.records
        assert letters.read(letters.records[-1]) == b"Dear Cy"
        letters.add(Letter(0, "Dan"), b"Dear Dan")
        again = Letters(tmp_path)
        assert again.records == letters.records
        assert again.records[-1].number == 4

    def test_is_rebuilt_in_the_order_of_the_numbers(self, tmp_path):
        """Numbers grow beyond the digits that they are padded to."""
        written = Letters(tmp_path)
        written._first = 998
        for to in ("Ada", "Bob", "Cy"):
            written.add(Letter(0, to), f"Dear {to}".encode())
        written.close()
        written.manifest.unlink()
        with warns("is rebuilt"):
            letters = Letters(tmp_path)
        assert letters.records == written.records
        assert letters.records[-1].file == "letter-1000.txt"
        letters.relist()
        assert letters.records == written.records
        letters.add(Letter(0, "Dan"), b"Dear Dan")
        assert [record.number for record in letters.records] == [998, 999, 1000, 1001]

    def test_that_is_damaged_is_rebuilt_once_it_is_removed(self, tmp_path):
        written = three_letters(tmp_path)
        manifest = written.manifest
        manifest.write_bytes(b"")
        with pytest.raises(ValueError, match=r"is damaged.*checkpoints.rebuild` rebui"):
            Letters(tmp_path)
        manifest.unlink()
        with warns("is rebuilt"):
            assert Letters(tmp_path).records == written.records

    @pytest.mark.parametrize("damage", ["cut off", "altered", "renamed", "unlabelled"])
    def test_is_not_rebuilt_from_other_files_which_are_kept(self, tmp_path, damage):
        written = three_letters(tmp_path)
        written.manifest.unlink()
        path = tmp_path / "letter-002.txt"
        content = path.read_bytes()
        if damage == "cut off":
            path.write_bytes(content[:-1])
        elif damage == "altered":
            path.write_bytes(b"F" + content[1:])
        elif damage == "unlabelled":
            path.write_bytes(b"Dear Bob")
        else:
            path = path.rename(tmp_path / "letter-009.txt")
        with pytest.raises(ValueError, match=f"is missing.*`{path}` cannot be listed"):
            Letters(tmp_path)
        assert len(names(tmp_path)) == 3

    def test_no_altered_byte_of_a_file_goes_unnoticed(self, tmp_path):
        written = three_letters(tmp_path)
        written.manifest.unlink()
        path = tmp_path / "letter-002.txt"
        whole = path.read_bytes()
        for index in range(len(whole)):
            altered = bytearray(whole)
            altered[index] ^= 1
            path.write_bytes(altered)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    records = Letters(tmp_path).records
            except ValueError:
                continue
            # Then it was the label: what it says of the content is checked, not itself.
            assert index >= len(b"Dear Bob")
            assert records[1].sha256 == hashlib.sha256(altered).hexdigest()

    def test_of_a_folder_that_was_emptied_lists_nothing(self, tmp_path):
        three_letters(tmp_path).remove()
        assert Letters(tmp_path).records == []

    @pytest.mark.parametrize("operation", ["replace", "unlink", "fsync"])
    def test_emptying_that_is_interrupted_brings_nothing_back(
        self, tmp_path, monkeypatch, operation
    ):
        """Whatever is left then, no run resumes from a part of it."""
        for number in range(5):
            folder, count = tmp_path / str(number), [0]
            letters = three_letters(folder)
            before = letters.records
            letters.lock()
            real = getattr(os, operation)

            def fail(*arguments, at=number, count=count, real=real, **keywords):
                count[0] += 1
                if count[0] > at:
                    raise OSError(errno.EIO, "Input/output error")
                return real(*arguments, **keywords)

            with monkeypatch.context() as patch:
                patch.setattr(os, operation, fail)
                with contextlib.suppress(OSError):
                    letters.remove()
            assert Letters(folder).records in ([], before)


class TestTwoKinds:
    """Snapshots and checkpoints share a folder, and each has a manifest."""

    def both(self, folder, first):
        store, checkpoints = Store(folder), Checkpoints(folder)
        if first == "checkpoints":
            checkpoints.save(Checkpoint(0, 1, 0, 10), {"epoch": 1})
        store.begin([[2]], lambda record: False)
        for epoch in (2, 3, 4):
            store.add(Record(0, epoch, epoch, True, 0.1, {}), b"weights")
            checkpoints.save(Checkpoint(0, epoch, 0, 10), {"epoch": epoch})
        return store, checkpoints

    @pytest.mark.parametrize("first", ["store", "checkpoints"])
    def test_neither_loses_anything(self, tmp_path, first):
        store, checkpoints = self.both(tmp_path, first)
        assert store.manifest != checkpoints.manifest
        assert [record.step for record in Store(tmp_path).records] == [2, 3, 4]
        assert Checkpoints(tmp_path).newest()[1]["epoch"] == 4

    @pytest.mark.parametrize("first", ["store", "checkpoints"])
    def test_a_run_that_is_over_leaves_the_snapshots(self, tmp_path, first):
        store, checkpoints = self.both(tmp_path, first)
        checkpoints.remove()
        assert [record.step for record in Store(tmp_path).records] == [2, 3, 4]
        assert not list(tmp_path.glob("generation*"))
        store.add(Record(0, 5, 5, True, 0.1, {}), b"weights")
        assert [record.step for record in Store(tmp_path).records] == [2, 3, 4, 5]

    @pytest.mark.parametrize("first", ["store", "checkpoints"])
    @pytest.mark.parametrize("lost", ["store", "checkpoints"])
    def test_the_manifest_of_each_is_rebuilt(self, tmp_path, first, lost):
        store, checkpoints = self.both(tmp_path, first)
        (store if lost == "store" else checkpoints).manifest.unlink()
        with warns("is rebuilt"):
            found = Store(tmp_path), Checkpoints(tmp_path)
        assert [record.step for record in found[0].records] == [2, 3, 4]
        assert found[1].newest()[1]["epoch"] == 4


FOREIGN = {
    "dictionary": '{"name": "app", "icons": []}',
    "empty dictionary": "{}",
    "list": '[{"path": "a.tar"}]',
    "lines": '{"a": 1}\n{"a": 2}\n',
    "table": "a,b\n1,2\n",
    "empty": "",
    "format": '{"name": "data", "format": "parquet", "files": ["a"]}',
    "sha256": '{"sha256": "ab", "size": 4}',
    "versions": '{"backend": "torch", "keras": "3.0", "keras_lrs": "0.2.0"}',
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_manifest_of_another_program_is_called_that(tmp_path, kind):
    (tmp_path / "manifest.json").write_text(FOREIGN[kind])
    with pytest.raises(ValueError, match=r"was not written by keras_lrs.*Choose ano"):
        Letters(tmp_path)
    if kind != "empty":
        (tmp_path / "letter-001.txt").write_bytes(b"Dear Ada")
        with pytest.raises(ValueError, match=r"was not written by .*Move it elsewhere"):
            Letters(tmp_path)


def test_a_damaged_manifest_is_not_taken_for_that_of_another_program(tmp_path):
    letters = Letters(tmp_path)
    letters.add(Letter(0, "Ada"), b"Dear Ada")
    path = letters.manifest
    whole = path.read_bytes()
    altered = [bytearray(whole) for _ in whole]
    for index, content in enumerate(altered):
        content[index] ^= 1
    cut = [whole[:length] for length in range(len(whole))]
    converted = [whole.replace(b"\n", b"\r\n"), whole.replace(b"\n", b"\n ")]
    for content in [*altered, *cut, *converted, bytes(len(whole))]:
        path.write_bytes(content)
        with pytest.raises(DamagedError, match="is damaged"):
            Letters(tmp_path)


def test_a_folder_in_the_place_of_the_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(ValueError, match=r"manifest.json` cannot be read"):
        Letters(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_a_second_writer_is_refused_and_damages_nothing(tmp_path):
    with writers.writing(writers.checkpoints, tmp_path) as (process, sent):
        for _ in range(20):
            saved = sent.recv()
            second = Checkpoints(tmp_path)
            with pytest.raises(ValueError, match=f"which process {process.pid} on "):
                second.save(Checkpoint(0, -1, 0, 0), {"epoch": -1})
    # Whenever it was killed: the lock of a dead process keeps nobody out.
    found, state = Checkpoints(tmp_path).newest()
    assert found.epoch == state["epoch"] >= saved
    assert (state["values"] == found.epoch).all()
    third = Checkpoints(tmp_path)
    third.save(Checkpoint(0, 7, 0, 0), {"epoch": 7})
    assert third.records[-1].number == found.number + 1


# --- Folders that someone removed while a run writes to them --------------------------


def save(found, epoch):
    found.save(Checkpoint(0, epoch, 0, 10 * epoch), {"epoch": epoch})


def removed_while_it_is_written(folder):
    """Checkpoints that a run has begun to write, whose folder someone removed."""
    found = Checkpoints(folder)
    save(found, 1)
    shutil.rmtree(folder)
    return found


def test_a_folder_that_someone_removed_is_written_to_again(tmp_path):
    found = removed_while_it_is_written(tmp_path / "run")
    save(found, 2)
    save(found, 3)
    assert [one.epoch for one in Checkpoints(tmp_path / "run").records] == [2, 3]
    found.remove()
    found.close()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
@pytest.mark.parametrize("moved", [(1, 2), (2,), (1,)])
def test_what_someone_moved_away_is_no_longer_listed(tmp_path, moved):
    letters = Letters(tmp_path / "folder")
    letters.add(Letter(0, "Ada"), b"Dear Ada")
    letters.add(Letter(0, "Bob"), b"Dear Bob")
    gone = (tmp_path / "folder").rename(tmp_path / "elsewhere")
    (tmp_path / "folder").mkdir()
    for name in ["manifest.json", *(f"letter-00{n}.txt" for n in {1, 2} - {*moved})]:
        shutil.copy(gone / name, tmp_path / "folder" / name)
    letters.add(Letter(0, "Cy"), b"Dear Cy")
    letters.close()
    again = Letters(tmp_path / "folder")
    assert [record.number for record in again.records] == [*{1, 2} - {*moved}, 3]
    assert again.read(again.records[-1]) == b"Dear Cy"


def test_a_folder_that_cannot_be_read_again_is_not_kept_locked(tmp_path):
    letters = Letters(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="was not written by"):
        letters.lock()
    assert names(tmp_path) == ["manifest.json"]
    assert not letters._lock.is_held


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("write", [Checkpoints.remove, lambda found: save(found, 5)])
def test_what_another_run_wrote_there_since_is_kept(tmp_path, ended, write):
    old, new = removed_while_it_is_written(tmp_path), Checkpoints(tmp_path)

    def begin_again():
        save(new, 7)
        if ended:
            new.close()

    assert objects.in_thread(begin_again) == []
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for _ in range(2):
        with pytest.raises(ValueError, match=r"` has been taken over by .*was removed"):
            write(old)
    old.close()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
