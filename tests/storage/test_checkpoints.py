"""Whatever fails while checkpoints are written, the last one that was is there."""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest

from keras_lrs._storage import (
    checkpoints,
    files,
    fits,
    labels,
    manifest,
    run_state,
    tree,
)
from keras_lrs._storage.checkpoints import Checkpoint, Checkpoints
from tests.ensembles import faults
from tests.warned import warns

# What `ResumableTraining` has written since the first version.
FIRST = {
    **{"backend": "torch", "epoch": 1, "batch": 0, "steps": 10, "stopped": False},
    **{"starts": [0], "products": [{}], "shapes": [[[50], "float64"]], "buffers": []},
    **{"metrics": [], "logs": [], "callbacks": [["History", {"epoch": [0]}]]},
    **{"random": {"python": []}, "random_at_epoch": None, "values": [np.zeros(50)]},
}
LATER = {
    **{"began": 0, "initial": "0a", "before": ["0b", None], "count": 1, "nth": 0},
    **{"configs": {"model": {}}, "rates": [0.1], "paces": ["1/2", None], "data": None},
    **{"rates_set": [None], "trained": {"two": [0]}, "adapted": [{"boundaries": []}]},
    **{"first_batches": {"0": [1, 2]}, "attributes": {"model": "[]"}},
}


def state(epoch, began=0):
    return {
        **FIRST,
        "epoch": epoch,
        "began": began,
        "values": [np.full(50, float(epoch))],
    }


def save(found, epoch, began=0):
    found.save(Checkpoint(0, epoch, 0, 10 * epoch), state(epoch, began))


def run(folder, saved, before):
    """Saves four checkpoints; calls a function before each operation on files."""
    with faults.watched(before):
        found = Checkpoints(folder)
        for epoch in (1, 2, 3, 4):
            save(found, epoch)
            saved.append(epoch)
        checkpoints.remove(found)
        saved.append(None)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_fault_at_any_operation_loses_nothing(tmp_path, error):
    count = [0]

    def counted():
        count[0] += 1

    run(tmp_path / "whole", [], counted)
    assert count[0] > 40
    for number in range(count[0]):
        folder, saved, left = tmp_path / str(number), [], [number]

        def before(left=left):
            left[0] -= 1
            if left[0] < 0:  # A full disk stays full.
                raise error

        with contextlib.suppress(type(error)):
            run(folder, saved, before)
        newest = Checkpoints(folder).newest()
        last = saved[-1] if saved else 0
        if newest is None:  # Only when the first was not whole, or the run was over.
            assert last in (0, 4, None)
            continue
        found, content = newest
        assert found.epoch == content["epoch"]
        assert found.epoch in (last, last + 1)
        again = Checkpoints(folder)
        save(again, 9)
        assert Checkpoints(folder).newest()[0].epoch == 9


def npz(content, **arrays):
    buffer = io.BytesIO()
    np.savez(buffer, tree=np.array(content), **arrays)
    return buffer.getvalue()


def compressed():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, tree=np.array("{}"), zeros=np.zeros(1_000_000))
    return buffer.getvalue()


class Trap:
    def __reduce__(self):
        return pytest.fail, ("It was run.",)


DAMAGED = {
    "no archive": b"text",
    "cut off": npz("{}")[:40],
    "empty": b"",
    "deep": npz("[" * 20_000 + "]" * 20_000),
    "no JSON": npz("x"),
    "no dictionary": npz("[]"),
    "no tree": zipfile.ZipFile,
    "an array that is missing": npz('{"a": {"__array__": "b", "dtype": "f4"}}'),
    "another type": npz(
        json.dumps({"a": {"__array__": "b", "dtype": "O", "shape": [1]}}),
        b=np.zeros(8, np.uint8),
    ),
    "objects": npz("{}", objects=np.array([Trap()], object)),
    "compressed zeros": compressed(),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_holds_no_state_is_damaged_whatever_its_hash(tmp_path, kind):
    content = DAMAGED[kind]
    if kind == "no tree":
        buffer = io.BytesIO()
        np.savez(buffer, other=np.zeros(3))
        content = buffer.getvalue()
    found = Checkpoints(tmp_path)
    save(found, 1)
    found.add(Checkpoint(0, 2, 0, 20), content)
    if kind == "objects":  # They are not read, as nothing of the tree is in them.
        assert found.newest()[1] == {}
        return
    with warns(r"generation-00000002.npz` is damaged.*from the previous checkpoint"):
        checkpoint, content = Checkpoints(tmp_path).newest()
    assert checkpoint.epoch == content["epoch"] == 1
    found.path(checkpoint).unlink()
    with pytest.raises(ValueError, match=r"02.npz` is damaged.*01.npz` cannot be"):
        Checkpoints(tmp_path).newest()


def test_a_damaged_one_is_not_counted_among_those_that_are_kept(tmp_path):
    run = Checkpoints(tmp_path)
    for epoch in (1, 2, 3):
        save(run, epoch)
    run.close()
    (tmp_path / "generation-00000003.npz").write_bytes(b"")
    with warns("from the previous checkpoint"):
        again, newest = checkpoints.of_fit(tmp_path, 0, writes=True)
    assert newest[0].epoch == 2
    save(again, 4)
    again.close()
    found = Checkpoints(tmp_path)
    assert found.newest()[0].epoch == 4
    states = [tree.read(found.read(record)) for record in found.records]
    assert [state["epoch"] for state in states] == [2, 4]
    assert len(list(tmp_path.glob("generation-*"))) == 2


def test_a_label_leaves_the_file_to_other_readers(tmp_path):
    """A checkpoint is a `.npz` file as before, for NumPy and for version 0.1.0."""
    found = Checkpoints(tmp_path)
    save(found, 3)
    path = tmp_path / "generation-00000001.npz"
    with np.load(path, allow_pickle=False) as arrays:
        assert json.loads(str(arrays["tree"]))["epoch"] == 3
    label = labels.read(path.read_bytes())
    entry = {"number": 1, "epoch": 3, "batch": 0, "iterations": 30}
    assert label == {"format": manifest.FORMAT, "entry": entry}
    assert files.read(path, found.records[0].sha256) == path.read_bytes()
    assert tree.read(found.read(found.records[0]))["epoch"] == 3


class TestSeveralFits:
    """One folder for several fits of a program, which begin after more updates each."""

    def test_an_earlier_one_leaves_the_checkpoints_of_a_later(self, tmp_path):
        later = Checkpoints(tmp_path)
        save(later, 2, began=40)
        with warns(r"from a `fit` that began after 40 updates.*begins after 0,"):
            earlier, newest = checkpoints.of_fit(tmp_path, 0, writes=True)
        assert newest is None
        save(earlier, 1)
        with warns("began after 40"):
            earlier, newest = checkpoints.of_fit(tmp_path, 0, writes=True)
        assert newest[0].epoch == 1
        checkpoints.remove(earlier)
        assert not earlier.directory.exists()
        later, newest = checkpoints.of_fit(tmp_path, 40, writes=True)
        assert newest[0].epoch == 2

    def test_of_one_that_broke_off_the_model_may_be_further(self, tmp_path):
        save(Checkpoints(tmp_path), 2, began=40)
        with warns("began after 40"):
            earlier, _ = checkpoints.of_fit(tmp_path, 0, writes=True)
        save(earlier, 1)
        with warns("began after 40"):
            _, newest = checkpoints.of_fit(tmp_path, 15, writes=True)
        assert newest[0].epoch == 1

    def test_a_state_that_does_not_say_where_it_began_is_taken_up(self, tmp_path):
        Checkpoints(tmp_path).save(Checkpoint(0, 5, 0, 50), {**FIRST, "epoch": 5})
        _, newest = checkpoints.of_fit(tmp_path, 0, writes=False)
        assert newest[0].epoch == 5


@pytest.mark.parametrize("damage", ["altered", "of another program", "manifest"])
def test_a_folder_that_is_refused_is_not_kept_locked(tmp_path, monkeypatch, damage):
    found = Checkpoints(tmp_path)
    save(found, 1)
    found.close()
    if damage == "altered":
        (tmp_path / "generation-00000001.npz").write_bytes(b"")
    elif damage == "of another program":
        found.save(Checkpoint(0, 1, 0, 10), {"other": 1})
        found.close()
    else:
        plain = Checkpoints.lock

        def lock(self):
            (tmp_path / "manifest.json").write_text("{}")  # Since it was first read.
            plain(self)

        monkeypatch.setattr(Checkpoints, "lock", lock)
    with pytest.raises(ValueError, match="`") as kept:
        checkpoints.of_fit(tmp_path, 0, writes=True)
    assert kept.tb is not None
    assert not list(tmp_path.glob("*.lock"))


def test_a_folder_that_is_a_circle_of_links_is_still_a_folder(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(link)
    assert fits.begins(link, type("Model", (), {})(), 0, "hash", None).count == 0
    with pytest.raises(OSError, match=r"link'"):
        checkpoints.of_fit(link, 0, writes=True)


class TestStatesOfOtherPrograms:
    """Files whose hashes are right, but which `ResumableTraining` did not write."""

    def test_those_of_this_one_are_accepted(self):
        run_state.check("file", FIRST)
        run_state.check("file", {**FIRST, **LATER})

    @pytest.mark.parametrize("key", [*FIRST, *LATER])
    def test_a_value_of_another_kind_is_refused_by_name(self, key):
        whole = {**FIRST, **LATER}
        for value in (-1.5, np.zeros(2), [b"x"]):
            with pytest.raises(ValueError, match=f"`file` is damaged: its '{key}'"):
                run_state.check("file", {**whole, key: value})

    @pytest.mark.parametrize("key", [*FIRST, "before", "count", "nth"])
    def test_what_is_missing_is_named(self, key):
        lacking = {k: v for k, v in {**FIRST, **LATER}.items() if k != key}
        with pytest.raises(ValueError, match=f"`file` is no .* it lacks {key}"):
            run_state.check("file", lacking)

    def test_descriptions_of_other_callbacks_are_refused(self):
        other = {**FIRST, "callbacks_described": []}
        with pytest.raises(ValueError, match="`file` is damaged: it describes other"):
            run_state.check("file", other)

    def test_values_of_other_shapes_are_refused(self, tmp_path):
        other = {**FIRST, "values": [np.zeros((5, 10))]}
        Checkpoints(tmp_path).save(Checkpoint(0, 1, 0, 10), other)
        with pytest.raises(ValueError, match=r"1.npz` is damaged: its values have"):
            checkpoints.of_fit(tmp_path, 0, writes=False)
