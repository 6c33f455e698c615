"""Folders of snapshots, checkpoints and averages: listed, verified, rebuilt, pruned."""

import contextlib
import errno
import io
import os
import runpy
import sys

import keras
import numpy as np
import pytest

from keras_lrs import checkpoints
from keras_lrs._storage import files
from keras_lrs._storage.checkpoints import Checkpoint, Checkpoints
from keras_lrs._storage.remote import RemotePath
from keras_lrs.averages import snapshots as averages
from keras_lrs.callbacks import PosthocAveraging, ResumableTraining, SnapshotEnsemble
from keras_lrs.ensembles.store import Record, Store
from tests.storage import objects
from tests.warned import warns

SNAPSHOTS = [f"snapshot-000{number}.weights.h5" for number in (1, 2, 3)]
CHECKPOINTS = ["generation-00000002.npz", "generation-00000003.npz"]
AVERAGES = ["averages-0000000010.npz", "averages-0000000020.npz"]
INNER = ["fit-from-0/generation-00000001.npz"]

pytestmark = pytest.mark.only("torch")


def write(folder):
    """Writes what runs with all kinds of callbacks leave."""
    store, found = Store(folder), Checkpoints(folder)
    store.begin([[2]], lambda record: False)
    for step in (10, 20, 30):
        metrics = {"loss": 1.0 / step}
        store.add(Record(0, step, step // 10, True, 0.1, metrics), b"weights%d" % step)
        # Which the label of the file, written before, does not know.
        store.set_metrics(step, {**metrics, "val_loss": 2.0 / step})
        found.save(Checkpoint(0, step // 10, 0, step), {"epoch": step // 10})
    earlier = Checkpoints(folder / "fit-from-0")
    earlier.save(Checkpoint(0, 1, 0, 10), {"epoch": 1})
    for each in (store, found, earlier):
        each.close()
    for step in (10, 20):
        averages.write(folder, step, {0.05: [np.full(2, step)]}, "a run")


@pytest.fixture(params=["here", "in memory"])
def folder(request, tmp_path):
    if request.param == "here":
        write(tmp_path)
        yield tmp_path
    else:
        pytest.importorskip("fsspec")
        with objects.in_memory() as found:
            write(found)
            yield found


@pytest.fixture
def here(tmp_path):
    write(tmp_path)
    return tmp_path


def names(found):
    return [file.name for file in found]


def put(path, content):
    (path.put if isinstance(path, RemotePath) else path.write_bytes)(content)


def alter(path):
    """Turns a bit in the middle of the content."""
    content = bytearray(path.read_bytes())
    content[4] ^= 1
    put(path, bytes(content))


def test_everything_is_listed(folder):
    found = checkpoints.files(str(folder))
    assert sorted(names(found)) == sorted(SNAPSHOTS + CHECKPOINTS + AVERAGES + INNER)
    by_name = {file.name: file for file in found}
    snapshot = by_name[SNAPSHOTS[1]]
    assert (snapshot.kind, snapshot.step) == ("snapshots", 20)
    assert snapshot.entry["metrics"] == {"loss": 0.05, "val_loss": 0.1}
    assert snapshot.size == len((folder / SNAPSHOTS[1]).read_bytes())
    assert by_name[CHECKPOINTS[1]].entry["epoch"] == 3
    assert (by_name[AVERAGES[0]].kind, by_name[AVERAGES[0]].step) == ("averages", 10)


@pytest.mark.parametrize("name", [*SNAPSHOTS, *CHECKPOINTS, *AVERAGES, *INNER])
@pytest.mark.parametrize("damage", ["altered", "missing", "cut off"])
def test_what_is_not_as_it_was_written_is_named(here, name, damage):
    assert checkpoints.verify(here) == []
    path = here / name
    if damage == "altered":
        alter(path)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-150])
    if damage == "missing" and name in AVERAGES:  # Which nothing lists.
        assert checkpoints.verify(here) == []
    else:
        (wrong,) = checkpoints.verify(here)
        assert str(path) in wrong


@pytest.mark.parametrize("name", ["manifest.json", "manifest-generations.json"])
@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_a_manifest_is_rebuilt(folder, name, content):
    before = checkpoints.files(folder)
    (folder / name).unlink() if content is None else put(folder / name, content)
    if content is not None:
        assert f"{name}` is damaged" in checkpoints.verify(folder)[0]
        with pytest.raises(ValueError, match=f"{name}` is damaged"):
            checkpoints.files(folder)
    after = checkpoints.rebuild(folder)
    assert names(after) == names(before)
    assert checkpoints.verify(folder) == []
    assert checkpoints.files(folder) == after
    if name == "manifest.json":  # Of the snapshots: a label knows its moment alone.
        metrics = [f.entry["metrics"] for f in after if f.kind == "snapshots"]
        assert metrics == [{"loss": 1.0 / step} for step in (10, 20, 30)]
    else:
        assert after == before


def test_a_manifest_that_is_whole_keeps_what_it_knows(folder):
    """Files that it lists in vain go from it, and those that it does not know come."""
    content = (folder / "manifest.json").read_bytes()
    store = Store(folder)
    store.add(Record(0, 40, 4, True, 0.1, {"loss": 0.0}), b"weights40")
    store.close()
    put(folder / "manifest.json", content)
    (folder / SNAPSHOTS[0]).unlink()
    found = [f for f in checkpoints.rebuild(folder) if f.kind == "snapshots"]
    assert [file.step for file in found] == [20, 30, 40]
    metrics = [file.entry["metrics"] for file in found]
    assert metrics[0] == {"loss": 0.05, "val_loss": 0.1}
    assert metrics[2] == {"loss": 0.0}
    assert checkpoints.verify(folder) == []


@pytest.mark.parametrize("listed", [True, False])
def test_a_damaged_file_is_named_and_kept(here, listed):
    alter(here / SNAPSHOTS[1])
    if not listed:
        (here / "manifest.json").unlink()
    with pytest.raises(ValueError, match=f"{SNAPSHOTS[1]}` "):
        checkpoints.rebuild(here)
    assert all((here / name).exists() for name in SNAPSHOTS)
    (here / SNAPSHOTS[1]).unlink()
    left = [SNAPSHOTS[0], SNAPSHOTS[2]]
    found = [f for f in checkpoints.rebuild(here) if f.kind == "snapshots"]
    assert names(found) == left


def contents(folder):
    """The bytes of all files, however deep."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("content", ['{"name": "app"}', '[{"format": 1}]', "a,b", ""])
def test_the_manifest_of_another_program_is_kept(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="was not written by keras_lrs"):
        checkpoints.rebuild(tmp_path)
    assert path.read_text() == content


@pytest.mark.parametrize("damage", ["altered", "unlabelled"])
def test_nothing_is_changed_if_a_manifest_cannot_be_rebuilt(here, damage):
    """Version 0.1.0 wrote no labels: only the manifest holds the hashes."""
    alter(here / "manifest.json")
    alter(here / "manifest-generations.json")
    path = here / SNAPSHOTS[1]
    alter(path) if damage == "altered" else path.write_bytes(b"weights20")
    before = contents(here)
    with pytest.raises(ValueError, match=f"{SNAPSHOTS[1]}` cannot be listed"):
        checkpoints.rebuild(here)
    assert contents(here) == before


def test_a_damaged_manifest_is_kept_as_a_copy(folder):
    path = folder / "manifest.json"
    alter(path)
    damaged = path.read_bytes()
    checkpoints.rebuild(folder)
    assert (folder / "manifest.json.damaged").read_bytes() == damaged
    assert checkpoints.verify(folder) == []


def test_a_damaged_manifest_without_files_is_put_aside(here):
    for path in here.glob("*.*"):
        if path.name != "manifest.json":
            path.unlink()
    alter(here / "manifest.json")
    assert names(checkpoints.rebuild(here)) == INNER
    assert [path.name for path in here.glob("*.*")] == ["manifest.json.damaged"]


def test_two_kinds_that_lost_one_manifest_get_two(here):
    (here / "manifest-generations.json").unlink()
    alter(here / "manifest.json")
    found = names(checkpoints.rebuild(here))
    assert sorted(found) == sorted(SNAPSHOTS + CHECKPOINTS + AVERAGES + INNER)
    assert checkpoints.verify(here) == []


def test_the_last_files_are_kept(folder):
    put(folder / ("." + SNAPSHOTS[0] + ".0123abcd"), b"half")
    put(folder / "snapshot-0009.weights.h5", b"orphan")
    put(folder / "notes.txt", b"of the user")
    removed = checkpoints.prune(folder, 1)
    assert sorted(removed) == sorted(
        ["snapshot-0009.weights.h5", *SNAPSHOTS[:2], CHECKPOINTS[0], AVERAGES[0]]
    )
    kept = [SNAPSHOTS[2], CHECKPOINTS[1], AVERAGES[1], *INNER]
    assert sorted(names(checkpoints.files(folder))) == sorted(kept)
    assert checkpoints.verify(folder) == []
    assert (folder / "notes.txt").read_bytes() == b"of the user"
    if not isinstance(folder, RemotePath):  # There are no half-written objects there.
        assert not list(folder.glob(".*"))
    assert Checkpoints(folder).newest()[1] == {"epoch": 3}


@pytest.mark.parametrize(
    ("kind", "files"),
    [("checkpoints", CHECKPOINTS), ("snapshots", SNAPSHOTS), ("averages", AVERAGES)],
)
@pytest.mark.parametrize("damage", ["altered", "empty", "missing"])
def test_a_damaged_file_is_not_counted_among_those_to_keep(here, kind, files, damage):
    path = here / files[-1]
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"") if damage == "empty" else alter(path)
    listed = damage != "missing" or kind != "averages"  # Which no manifest lists.
    with warns(f"not counted.*{files[-1]}") if listed else contextlib.nullcontext():
        assert checkpoints.prune(here, 1, kind) == files[:-2]
    assert (here / files[-2]).exists()
    # Once there are enough, it is removed.
    if listed and kind == "snapshots" and damage != "missing":
        store = Store(here)
        store.add(Record(0, 40, 4, True, 0.1, {}), b"weights40")
        store.close()
        assert checkpoints.prune(here, 1, kind) == files[1:]


def test_nothing_is_pruned_if_all_is_damaged(here):
    for path in here.rglob("*[0-9]*.*"):
        path.write_bytes(b"")
    before = contents(here)
    with pytest.warns(UserWarning, match="not counted"):
        assert checkpoints.prune(here, 1) == []
    assert contents(here).keys() == before.keys()


@pytest.mark.parametrize("name", [*SNAPSHOTS, *CHECKPOINTS, *INNER])
def test_a_missing_file_is_listed_as_missing(folder, name):
    before = checkpoints.files(folder)
    path = folder
    for part in name.split("/"):
        path = path / part
    path.unlink()
    found = {file.name: file.size for file in checkpoints.files(folder)}
    assert found == {f.name: None if f.name == name else f.size for f in before}


def test_files_that_a_run_replaces_are_listed_as_they_are_then(here, monkeypatch):
    run, size = Checkpoints(here), files.size

    def meanwhile(path):
        if path.name == CHECKPOINTS[0] and path.exists():
            run.save(Checkpoint(0, 4, 0, 40), {"epoch": 4})
        return size(path)

    monkeypatch.setattr(files, "size", meanwhile)
    found = [f for f in checkpoints.files(here) if f.kind == "checkpoints"]
    assert [file.step for file in found] == [30, 40, 10]
    assert all(file.size for file in found)


def test_a_manifest_that_a_run_removes_is_not_missed(here, monkeypatch):
    """A run that is over removes its checkpoints and their manifest."""
    run, bytes_of = Checkpoints(here), files.bytes_of

    def meanwhile(path):
        if path.name == "manifest-generations.json" and run.records:
            run.remove()
        return bytes_of(path)

    run.lock()
    monkeypatch.setattr(files, "bytes_of", meanwhile)
    found = names(checkpoints.files(here))
    assert sorted(found) == sorted(SNAPSHOTS + AVERAGES + INNER)


@pytest.mark.parametrize("name", [SNAPSHOTS[0], CHECKPOINTS[0], AVERAGES[0]])
@pytest.mark.parametrize(
    "change", [checkpoints.rebuild, lambda path: checkpoints.prune(path, 3)]
)
def test_temporary_files_of_killed_processes_are_removed(here, name, change):
    left = [here / f".{name}.0123abcd", here / ".manifest.json.0123abcd"]
    for path in left:
        path.write_bytes(b"half")
    (here / f".{name}.swp").write_bytes(b"of an editor")
    change(here)
    assert [path.name for path in here.glob(".*")] == [f".{name}.swp"]


def test_one_kind_can_be_pruned_alone(here):
    assert checkpoints.prune(here, 2, kind="snapshots") == SNAPSHOTS[:1]
    assert checkpoints.prune(here, 2, kind="snapshots") == []
    assert len(checkpoints.files(here)) == 7


def test_a_folder_in_use_is_not_changed(here):
    with pytest.raises(ValueError, match="`keep_last` must be > 0"):
        checkpoints.prune(here, 0)
    with pytest.raises(ValueError, match="`kind` must be one of"):
        checkpoints.prune(here, 1, "members")
    before = sorted(here.rglob("*"))
    store = Store(here)
    store.lock()
    # A thread stands for another process: a lock is taken over within one.
    for change in (checkpoints.rebuild, lambda path: checkpoints.prune(path, 1)):
        (error,) = objects.in_thread(lambda change=change: change(here))
        assert "must be written by one run at a time" in str(error)
    assert checkpoints.verify(here) == []
    store.close()
    assert sorted(here.rglob("*")) == before


class Calls(keras.callbacks.Callback):
    """Calls a function in a run, which raises an error that the run survives."""

    def __init__(self, function):
        super().__init__()
        self.function, self.error = function, None

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            with pytest.raises(ValueError, match="in use by a run of this") as caught:
                self.function()
            self.error = str(caught.value)


MAKE = {
    "checkpoints": lambda path: ResumableTraining(path, delete_at_end=False),
    "snapshots": lambda path: SnapshotEnsemble(path, schedule=[2, 4, 6]),
    "averages": PosthocAveraging,
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("change", ["rebuild", "prune"])
def test_a_folder_that_the_calling_run_uses_is_not_changed(tmp_path, kind, change):
    seen = []

    def function():
        before = sorted(tmp_path.iterdir())
        try:
            if change == "rebuild":
                checkpoints.rebuild(tmp_path)
            else:
                checkpoints.prune(tmp_path, 1)
        finally:
            seen.append(before == sorted(tmp_path.iterdir()))

    model, x = keras.Sequential([keras.layers.Dense(1)]), np.ones((4, 1), "float32")
    model.build((None, 1))
    model.compile("sgd", "mse")
    calls = Calls(function)
    callbacks = [MAKE[kind](tmp_path), calls]
    model.fit(x, x, batch_size=2, epochs=3, verbose=0, callbacks=callbacks)
    assert seen == [True]
    assert str(tmp_path) in calls.error
    assert checkpoints.verify(tmp_path) == []
    assert checkpoints.files(tmp_path)[-1].step == 6
    assert checkpoints.prune(tmp_path, 1)


@pytest.mark.parametrize("inner", [False, True])
def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(
    here, monkeypatch, inner
):
    place = here / "fit-from-0" if inner else here
    plain = os.listdir

    def refuse(path="."):
        if str(path) == str(place):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "listdir", refuse)
    for function in (
        checkpoints.files,
        checkpoints.verify,
        checkpoints.rebuild,
        lambda path: checkpoints.prune(path, 1),
    ):
        with pytest.raises(PermissionError, match=f"'{place}'"):
            function(here)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
@pytest.mark.parametrize("name", [AVERAGES[0], SNAPSHOTS[0], "manifest.json"])
def test_a_pipe_is_named_and_not_waited_for(here, name):
    (here / name).unlink()
    os.mkfifo(here / name)
    (wrong,) = checkpoints.verify(here)
    assert f"{name}` cannot be read: it is not a regular file" in wrong


def test_a_folder_that_is_not_there_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "none", tmp_path / "file"):
        for function in (checkpoints.files, checkpoints.verify, checkpoints.rebuild):
            with pytest.raises(FileNotFoundError, match=f"no folder `{path}`"):
                function(path)
        with pytest.raises(FileNotFoundError, match=f"no folder `{path}`"):
            checkpoints.prune(path, 1)
    assert len(list(tmp_path.iterdir())) == 1
    assert checkpoints.files(tmp_path) == []


class TestTerminal:
    @pytest.fixture
    def run(self, monkeypatch, capsys):
        def run(*arguments):
            monkeypatch.setattr(sys, "argv", ["checkpoints", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                runpy.run_module("keras_lrs.checkpoints", run_name="__main__")
            printed = capsys.readouterr()
            return ended.value.code, printed.out, printed.err

        return run

    def test_lists_and_prunes(self, here, run):
        status, out, _ = run("list", here)
        assert status == 0
        lines = [line.split() for line in out.splitlines()]
        size = str((here / SNAPSHOTS[1]).stat().st_size)
        assert ["snapshots", "20", size, SNAPSHOTS[1]] in lines
        assert len(lines) == 8
        status, out, _ = run("prune", here, "--keep-last", 2, "--kind", "snapshots")
        assert (status, out) == (0, f"removed {SNAPSHOTS[0]}\n")
        assert run("prune", here, "--keep-last", 2, "--kind", "snapshots")[1] == ""
        (here / SNAPSHOTS[1]).unlink()
        status, out, _ = run("list", here)
        assert status == 0
        lines = [line.split() for line in out.splitlines()]
        assert ["snapshots", "20", "missing", SNAPSHOTS[1]] in lines

    def test_verifies_and_rebuilds(self, here, run):
        assert run("verify", here) == (0, "Everything is whole.\n", "")
        (here / "manifest.json").write_bytes(b"")
        status, out, _ = run("verify", here)
        assert status == 1
        assert "manifest.json` is damaged" in out
        status, _, error = run("list", here)
        assert status == 2
        assert "manifest.json` is damaged" in error
        assert run("rebuild", here)[0] == 0
        assert run("verify", here)[0] == 0

    def test_names_what_the_terminal_cannot_show(self, here, monkeypatch, run):
        terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
        folder = here.rename(here.with_name("é"))
        (folder / SNAPSHOTS[1]).unlink()
        monkeypatch.setattr(sys, "stdout", terminal)
        assert run("verify", folder)[0] == 1
        terminal.seek(0)
        assert rf"\xe9/{SNAPSHOTS[1]}` cannot be read" in terminal.read()

    def test_says_what_it_cannot_do(self, tmp_path, run):
        status, _, error = run("list", tmp_path / "none")
        assert status == 2
        assert "There is no folder" in error
        assert run("prune", tmp_path)[0] == 2


def test_names_with_other_digits_are_foreign(here):
    """`"²".isdigit()` is true, and `int("²")` raises an error."""
    whole = checkpoints.files(here)
    for name in ("averages-²", "generation-²", "snapshot-².weights", "averages-٣"):
        (here / f"{name}.npz").write_bytes(b"")
    (here / "snapshot-².weights.h5").write_bytes(b"")
    (here / "fit-from-²").mkdir()
    assert checkpoints.files(here) == whole
