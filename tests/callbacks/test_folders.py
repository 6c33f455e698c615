"""Folders that callbacks write to: shared, full, remote, or in someone else's use."""

import errno
import os
import pathlib
import re
import shutil
import sys

import keras
import numpy as np
import pytest

from keras_lrs import averages, checkpoints, ensembles
from keras_lrs import schedules as S  # noqa: N812
from keras_lrs._storage import locks
from keras_lrs.callbacks import (
    HyperparameterLogger,
    PosthocAveraging,
    ReduceOnPlateau,
    ResumableTraining,
    SnapshotEnsemble,
    WeightAveraging,
)
from tests import processes
from tests.callbacks import full_disk, references
from tests.callbacks.references import STEPS, linear_model
from tests.storage import objects
from tests.warned import warns

WRITERS = {
    "SnapshotEnsemble": lambda folder: SnapshotEnsemble(folder, schedule=[5, 15]),
    "ResumableTraining": lambda folder: ResumableTraining(folder, verbose=0),
    "PosthocAveraging": lambda folder: PosthocAveraging(folder),
}
LOGS = {"HyperparameterLogger": lambda folder: HyperparameterLogger(log_dir=folder)}
STATES = {"ReduceOnPlateau": lambda path: ReduceOnPlateau("loss", state_path=path)}

posix = pytest.mark.skipif(os.name != "posix", reason="locks and limits of POSIX")


def model():
    return linear_model(keras.optimizers.SGD(0.002))


class Break(keras.callbacks.Callback):
    def __init__(self, epoch, error=KeyboardInterrupt):
        super().__init__()
        self.epoch, self.error = epoch, error

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise self.error


class NoStep(keras.callbacks.Callback):
    """Notes whether anything was trained."""

    steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1


# --- Paths ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WRITERS, *STATES])
@pytest.mark.parametrize(
    "path",
    [
        "hdfs://host/run",
        "simplecache::s3://bucket/run",
        pathlib.Path("sftp://host/run"),
    ],
    ids=str,
)
def test_a_storage_that_is_not_supported_is_refused(tmp_path, monkeypatch, name, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"or begin with one of .*: mount the `"):
        (WRITERS | STATES)[name](path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*WRITERS, *STATES])
@pytest.mark.parametrize(
    "path", ["gs://bucket/run", pathlib.Path("s3://bucket/run")], ids=str
)
def test_a_storage_without_its_package_is_refused(tmp_path, monkeypatch, name, path):
    monkeypatch.chdir(tmp_path)
    for package in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"pip install \"keras-lrs\[remote\]\""):
        (WRITERS | STATES)[name](path)
    assert list(tmp_path.iterdir()) == []


def test_readers_refuse_it_too():
    for directory in ("hdfs://host/run", "gcs:/bucket\0/run"):
        with pytest.raises(ValueError, match="Argument `directory` must "):
            ensembles.load(directory, model())
        with pytest.raises(ValueError, match="Argument `directory` must "):
            averages.posthoc(directory, 0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HyperparameterLogger(log_dir="s3://bucket/logs"),
        lambda: WeightAveraging(
            averages.ExponentialAverage(0.9, debias=False),
            initial="s3://bucket/teacher.weights.h5",
        ),
    ],
    ids=["log_dir", "initial"],
)
def test_what_reads_and_writes_here_alone_says_so(make):
    with pytest.raises(ValueError, match="must be a local path: mount the `"):
        make()


def test_the_state_beside_a_remote_backup_needs_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    backup.backup_dir = "gs://bucket/run"
    with pytest.raises(ValueError, match="Argument `state_path` must be a local path"):
        references.fit(model(), [ReduceOnPlateau("loss"), backup], 1)
    assert list(tmp_path.iterdir()) == []


def test_a_url_of_a_file_and_the_home_folder_are_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = tmp_path / "a run"
    for path in (f"file://{tmp_path}/a%20run", "~/a run", expected):
        assert SnapshotEnsemble(path).directory == expected


@pytest.mark.parametrize("name", [*WRITERS, *STATES])
@pytest.mark.parametrize("url", ["file://runs/a", "file://", "file://~/a", "FILE:://a"])
def test_a_url_of_a_file_on_another_machine_is_refused(name, url):
    message = "three slashes and an absolute path .*Received: .*" + re.escape(url)
    with pytest.raises(ValueError, match=message):
        (WRITERS | STATES)[name](url)


@pytest.mark.parametrize("name", ["run#1", "run?x=2", "100%", "a;b"])
def test_a_url_of_a_file_has_no_other_parts(tmp_path, name):
    for url in (f"file://{tmp_path}/{name}", f"file://localhost{tmp_path}/{name}"):
        assert SnapshotEnsemble(url).directory == tmp_path / name


def test_a_url_that_is_decoded_is_checked_as_well(tmp_path):
    with pytest.raises(ValueError, match="which holds no null character"):
        SnapshotEnsemble(f"file://{tmp_path}/a%00b")


READERS = {
    "load": lambda path: ensembles.load(path, model()),
    "posthoc": lambda path: averages.posthoc(path, 0.1),
    "files": checkpoints.files,
    "verify": checkpoints.verify,
    "rebuild": checkpoints.rebuild,
    "prune": lambda path: checkpoints.prune(path, 1),
}


@pytest.mark.parametrize("name", [*WRITERS, *STATES, *LOGS, *READERS])
def test_an_empty_path_is_refused(name):
    with pytest.raises(ValueError, match="must be a path, which is not empty"):
        (WRITERS | STATES | LOGS | READERS)[name]("")


@pytest.mark.parametrize("name", [*WRITERS, *STATES, *LOGS, *READERS])
@pytest.mark.parametrize("path", ["a\ud800b", "memory://a\ud800b"])
def test_a_path_with_half_a_character_is_refused(name, path):
    if "://" in path:
        pytest.importorskip("fsspec")
        if name in LOGS:
            pytest.skip("It is local.")
    with pytest.raises(ValueError, match=r"Argument `\w+` must .* be encoded\. Rec"):
        (WRITERS | STATES | LOGS | READERS)[name](path)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files may be text")
def test_a_path_may_hold_any_bytes(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff\x80")
    references.fit(model(), [PosthocAveraging(os.fsdecode(path))], 1)
    assert os.listdir(path) == [b"averages-0000000010.npz"]


@pytest.mark.parametrize("name", [*WRITERS, *STATES, *LOGS])
def test_the_home_folder_is_written_to(tmp_path, monkeypatch, name):
    """And no folder `~` is made here."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = "~/run/state.json" if name in STATES else "~/run"
    references.fit(model(), [(WRITERS | STATES | LOGS)[name](path)], 2)
    assert (tmp_path / "home" / "run").is_dir()
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("name", READERS)
def test_the_home_folder_is_read_from(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        READERS[name]("~/none")


class Wander(keras.callbacks.Callback):
    """Changes the current folder from epoch to epoch."""

    def __init__(self, monkeypatch, *folders):
        super().__init__()
        self.go = monkeypatch.chdir
        self.folders = folders

    def on_epoch_begin(self, epoch, logs=None):
        self.go(self.folders[epoch % len(self.folders)])


@pytest.fixture
def here_and_there(tmp_path, monkeypatch):
    """Two folders; the first is the current one."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here", tmp_path / "there"


@pytest.mark.parametrize("name", [*WRITERS, *STATES, *LOGS])
def test_a_run_stays_where_its_program_was(here_and_there, monkeypatch, name):
    """At the time of `SnapshotEnsemble("run")`, whose path is relative."""
    here, there = here_and_there
    path = "run/state.json" if name in STATES else "run"
    callback = (WRITERS | STATES | LOGS)[name](path)
    wander = Wander(monkeypatch, there, here)
    with pytest.raises(KeyboardInterrupt):
        references.fit(model(), [callback, wander, Break(3)], 4)
    assert list((here / "run").iterdir())
    assert list(there.iterdir()) == []


def test_the_state_beside_a_backup_stays_where_the_run_began(
    here_and_there, monkeypatch
):
    """Keras's own callback writes to the folder that is current."""
    here, there = here_and_there
    callbacks = [ReduceOnPlateau("loss"), keras.callbacks.BackupAndRestore("backup")]
    with pytest.raises(KeyboardInterrupt):
        references.fit(model(), [*callbacks, Wander(monkeypatch, there), Break(2)], 4)
    assert (here / "backup" / "reduce_on_plateau.json").exists()
    assert not (there / "backup" / "reduce_on_plateau.json").exists()


def test_the_weights_of_a_teacher_are_found_from_elsewhere(here_and_there, monkeypatch):
    teacher = model()
    teacher.save_weights("teacher.weights.h5")
    average = averages.ExponentialAverage(0.9, debias=False)
    averaging = WeightAveraging(average, initial="teacher.weights.h5")
    monkeypatch.chdir(here_and_there[1])
    references.fit(model(), [averaging], 1)


def test_a_relative_path_needs_a_current_folder(here_and_there):
    here_and_there[0].rmdir()
    with pytest.raises(ValueError, match="because the current folder has been removed"):
        SnapshotEnsemble("run")


def spellings(folder):
    """The same folder, written in other ways."""
    link = folder.with_name("link")
    link.symlink_to(folder)
    return {"link": link, "dots": folder / ".." / folder.name}


@pytest.mark.parametrize("spelling", ["link", "dots"])
def test_a_folder_is_the_same_however_it_is_written(tmp_path, spelling):
    """The second `fit` of a program is not the first one, which is complete."""
    found, folder = model(), tmp_path / "run"
    for path, labels in (
        (folder, references.Y),
        (spellings(folder)[spelling], -references.Y),
    ):
        resumable = ResumableTraining(path, delete_at_end=False, verbose=0)
        x = references.X
        found.fit(x, labels, 4, 2, verbose=0, shuffle=False, callbacks=[resumable])
        assert resumable.resumed_from is None
    assert found.optimizer.iterations == 4 * STEPS


@pytest.mark.parametrize("spelling", ["link", "dots"])
def test_a_state_is_the_same_however_it_is_written(tmp_path, spelling):
    (tmp_path / "run").mkdir()
    other = spellings(tmp_path / "run")[spelling]
    paths = tmp_path / "run" / "p.json", other / "p.json"
    two = [ReduceOnPlateau("loss", state_path=path) for path in paths]
    with pytest.raises(ValueError, match="another one for each `ReduceOnPlateau`"):
        references.fit(model(), two, 1)


def test_a_link_to_a_state_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    path, target = tmp_path / "state.json", tmp_path / "disk" / "s.json"
    path.symlink_to(target)
    plateau = ReduceOnPlateau("loss", state_path=path)
    references.fit(model(), [plateau], 1)
    assert path.is_symlink()
    assert target.exists()
    references.fit(model(), [ReduceOnPlateau("loss", state_path=path)], 1)
    assert [file.name for file in (tmp_path / "disk").iterdir()] == ["s.json"]


@pytest.mark.parametrize("name", ["SnapshotEnsemble", "PosthocAveraging"])
def test_a_link_that_leads_to_itself_is_named(tmp_path, name):
    (tmp_path / "link").symlink_to("link")
    two = [WRITERS[name](tmp_path / path) for path in ("link", "other")]
    with pytest.raises(OSError, match=r"'.*/link'"):
        references.fit(model(), two, 1)


def test_states_in_a_link_that_leads_to_itself_are_named(tmp_path):
    (tmp_path / "link").symlink_to("link")
    paths = tmp_path / "link" / "a", tmp_path / "link" / "b"
    two = [ReduceOnPlateau("loss", state_path=path) for path in paths]
    with pytest.raises(OSError, match=r"'.*/link/a'"):
        references.fit(model(), two, 1)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", [*WRITERS, *STATES, *LOGS])
def test_a_file_in_the_place_of_a_folder_is_named_before_the_first_step(
    tmp_path, name, deep
):
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "in" if deep or name in STATES else tmp_path / "file"
    callback, steps = (WRITERS | STATES | LOGS)[name](path), NoStep()
    with pytest.raises(OSError, match=r"'.*/file"):
        references.fit(model(), [callback, steps], 1)
    assert steps.steps == 0


@posix
@pytest.mark.parametrize("name", [*WRITERS, *STATES, *LOGS])
def test_a_folder_that_takes_no_files_is_named_before_the_first_step(name):
    """As one of another user, or on a disk that is mounted to be read."""
    callback, steps = (WRITERS | STATES | LOGS)[name]("/proc/self/task/x"), NoStep()
    with pytest.raises(OSError, match=r"'/proc/self/task"):
        references.fit(model(), [callback, steps], 1)
    assert steps.steps == 0


# --- Full disks -----------------------------------------------------------------------


def check_full(tmp_path, kind, how, code):
    raised, found, left = processes.call(full_disk.train, tmp_path, kind, how)
    files = {
        "snapshots": "snapshot-0003.weights.h5",
        "checkpoints": "generation-00000003.npz",
        "averages": "averages-0000000030.npz",
        "plateau": "p.json",
    }
    assert raised == ["OSError", code, str(tmp_path / files[kind])]
    assert not any(name.startswith(".") for name in found)
    if kind == "snapshots":
        assert left == [10, 20]
    return left


@posix
@pytest.mark.slow
@pytest.mark.parametrize("kind", full_disk.KINDS)
def test_a_file_that_may_not_grow_is_one_error_that_names_it(tmp_path, kind):
    left = check_full(tmp_path, kind, "limited", errno.EFBIG)
    if kind == "checkpoints":
        assert left == 2


@posix
@pytest.mark.slow
@pytest.mark.parametrize("kind", full_disk.KINDS)
def test_a_full_disk_is_one_error_that_names_the_file(tmp_path, kind):
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    try:
        with full_disk.mounted(tmp_path):
            pass
    except Exception:
        pytest.skip("this system mounts no disk")
    check_full(tmp_path, kind, "mounted", errno.ENOSPC)


# --- Two writers ----------------------------------------------------------------------


@posix
@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_second_run_is_refused_before_its_first_step(tmp_path, name):
    """Another process asks for the folder, while this one trains."""

    class Second(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                refusals.append(processes.call(second_run, tmp_path, name))

    refusals = []
    references.fit(model(), [WRITERS[name](tmp_path), Second()], 3)
    ((message, steps),) = refusals
    assert re.search(f"one run at a time.*which process {os.getpid()} on", message)
    assert steps == 0
    assert not list(tmp_path.glob(".*"))


def second_run(folder, name):
    steps = NoStep()
    try:
        references.fit(model(), [WRITERS[name](folder), steps], 3)
    except ValueError as error:
        return str(error), steps.steps
    return "", steps.steps


@pytest.mark.parametrize("name", WRITERS)
def test_a_run_that_broke_off_lets_the_folder_go(tmp_path, name):
    with pytest.raises(KeyboardInterrupt) as kept:
        references.fit(model(), [WRITERS[name](tmp_path), Break(1)], 3)
    assert not list(tmp_path.glob(".*"))
    del kept


@pytest.mark.parametrize("name", ["SnapshotEnsemble", "ResumableTraining"])
def test_a_run_whose_data_broke_off_is_no_second_one(tmp_path, name):
    """`fit` tells callbacks nothing then, and a traceback keeps them alive."""

    def batches():
        yield np.ones((4, 3), "float32"), np.ones((4, 1), "float32")
        raise OSError("The data is gone.")

    kept = []
    try:
        model().fit(batches(), verbose=0, callbacks=[WRITERS[name](tmp_path)])
    except Exception as error:
        kept.append(error)
    assert kept
    references.fit(model(), [WRITERS[name](tmp_path)], 2)


LATER = {
    "SnapshotEnsemble": (".members.lock", "snapshot-0009.weights.h5"),
    "ResumableTraining": (".generations.lock", "generation-00000009.npz"),
    "PosthocAveraging": (".averages.lock", "averages-0000000999.npz"),
}


class Within(keras.callbacks.Callback):
    """Calls a function once in the first epoch, when no thread is writing."""

    def __init__(self, function, batch):
        super().__init__()
        self.function, self.batch = function, batch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.batch:
            self.batch = None
            self.function()

    def on_epoch_end(self, epoch, logs=None):
        self.on_train_batch_begin(STEPS)


@posix
@pytest.mark.parametrize(
    ("name", "batch"), [*((name, 2) for name in WRITERS), ("PosthocAveraging", STEPS)]
)
def test_a_run_ends_whose_folder_another_has_taken_over(tmp_path, name, batch):
    """Someone removes the folder and starts the job again, without ending the first."""
    lock_name, file = LATER[name]
    folder = tmp_path / "run"
    lock = locks.Lock(folder / lock_name)

    def remove_and_begin():
        shutil.rmtree(folder)
        assert objects.in_thread(lock.acquire) == []
        (folder / file).write_bytes(b"of the second run")

    again = Within(remove_and_begin, batch)
    with pytest.raises(ValueError, match=r"run` has been taken over by .*was removed"):
        references.fit(model(), [WRITERS[name](folder), again], 3)
    assert sorted(path.name for path in folder.iterdir()) == [lock_name, file]
    lock.release()


@posix
@pytest.mark.parametrize("name", WRITERS)
def test_a_run_goes_on_whose_folder_was_only_removed(tmp_path, name):
    steps, remove = NoStep(), Within(lambda: shutil.rmtree(tmp_path / "run"), 2)
    references.fit(model(), [WRITERS[name](tmp_path / "run"), remove, steps], 3)
    assert steps.steps == 3 * STEPS
    assert not list((tmp_path / "run").glob(".*"))


@posix
@pytest.mark.parametrize(
    ("name", "epochs", "batch"),
    [
        ("SnapshotEnsemble", 3, 2),
        *(("PosthocAveraging", *when) for when in ((3, 2), (3, STEPS), (1, STEPS))),
    ],
)
def test_a_run_ends_whose_folder_another_used_until_it_ended(
    tmp_path, name, epochs, batch
):
    """The other one may have written files of the same names."""
    other, folder = model(), tmp_path / "run"
    if epochs == 1:
        other.trainable_variables[0].assign(other.trainable_variables[0] + 1.0)
    references.fit(other, [WRITERS[name](tmp_path / "other")], epochs)
    written = {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()}

    def replace():
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "other", folder)

    with pytest.raises(
        ValueError, match=r"run` has been taken over by .*which has end"
    ):
        references.fit(model(), [WRITERS[name](folder), Within(replace, batch)], 3)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written


@posix
def test_a_run_goes_on_among_its_own_snapshots_if_only_the_lock_was_removed(tmp_path):
    def remove():
        (tmp_path / ".averages.lock").unlink()

    found = model()
    references.fit(found, [PosthocAveraging(tmp_path)], 1)
    again = [PosthocAveraging(tmp_path), Within(remove, 2)]
    references.fit(found, again, 3, initial_epoch=1)
    assert len(list(tmp_path.iterdir())) == 3


# --- Shared folders -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SnapshotEnsemble", "PosthocAveraging"])
def test_two_of_a_kind_in_one_folder_are_refused(tmp_path, name):
    two = [WRITERS[name](tmp_path), WRITERS[name](tmp_path / ".." / tmp_path.name)]
    with pytest.raises(ValueError, match=f"another one for each `{name}`"):
        references.fit(model(), two, 1)


@pytest.mark.parametrize("order", [1, -1])
def test_one_folder_serves_all_kinds(tmp_path, order):
    def train(folder, *more):
        writers = [make(folder) for make in WRITERS.values()][::order]
        writers.append(ReduceOnPlateau("loss", state_path=folder / "plateau.json"))
        found = model()
        references.fit(found, [*writers, *more], 4)
        return found

    straight = train(tmp_path / "straight")
    folder = tmp_path / "resumed"
    with pytest.raises(KeyboardInterrupt):
        train(folder, Break(2))
    resumed = train(folder)
    np.testing.assert_array_equal(
        references.weights(resumed), references.weights(straight)
    )
    for each in (tmp_path / "straight", folder):
        ensemble = ensembles.load(each, resumed)
        assert [member.step for member in ensemble] == [5, 15]
        assert averages.posthoc(each, 0.1, step=4 * STEPS)
        assert not list(each.glob("generation*"))


def test_checkpoints_of_a_later_fit_are_kept_for_it(tmp_path):
    """A program that trains twice is killed in its second `fit`, and run again."""

    def program(folder, *more):
        found = linear_model(keras.optimizers.SGD(S.LinearDecay(0.002, 80)))
        x, y = references.X, references.Y
        for labels, extra in ((y, ()), (-y, more)):
            callbacks = [ResumableTraining(folder, verbose=0), *extra]
            found.fit(x, labels, 4, 4, verbose=0, shuffle=False, callbacks=callbacks)
        return references.weights(found)

    straight = program(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        program(tmp_path / "resumed", Break(2))
    with warns("from a `fit` that began after 40 updates"):
        resumed = program(tmp_path / "resumed")
    np.testing.assert_array_equal(resumed, straight)
    assert list((tmp_path / "resumed").iterdir()) == []
