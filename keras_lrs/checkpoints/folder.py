"""Lists, verifies, rebuilds and prunes folders of snapshots and checkpoints.

All callbacks may share a folder, and `ResumableTraining` keeps folders for earlier fits
of a program in its own. All functions here include these.
"""

import contextlib
import dataclasses
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_lrs._storage import checkpoints, leases, listing, temporaries
from keras_lrs._storage import files as stored
from keras_lrs._storage.checkpoints import Checkpoints
from keras_lrs.averages import snapshots as averages
from keras_lrs.ensembles.store import Store
from keras_lrs.schedules import fields

KINDS = ("checkpoints", "snapshots", "averages")
_FOLDERS: dict[str, Any] = {"checkpoints": Checkpoints, "snapshots": Store}


@dataclasses.dataclass(frozen=True)
class File:
    """A file that a callback wrote.

    Args:
        kind: `"checkpoints"` of `ResumableTraining`, `"snapshots"` of
            `SnapshotEnsemble`, or `"averages"` of `PosthocAveraging`.
        name: Its path within the folder.
        step: The number of updates (micro-batches, under gradient accumulation) before
            it was written.
        size: Its size in bytes; None if it is missing.
        entry: Its entry in the manifest, such as the epoch of a checkpoint or the
            metrics of a snapshot. Averages have no manifest.
    """

    kind: str
    name: str
    step: int
    size: int | None
    entry: dict[str, Any]


def files(directory: str | os.PathLike) -> list[File]:
    """Lists the files that callbacks wrote to a folder.

    A run may write to the folder at the same time.

    Args:
        directory: The folder, local or a bucket as for the callbacks.

    Returns:
        The files, sorted by kind and from the oldest to the newest. A file that a
        manifest lists and that is missing has the size None.

    Raises:
        FileNotFoundError: If there is no such folder.
        OSError: If the folder cannot be listed.
        ValueError: If a manifest is damaged or cannot be rebuilt. Call `rebuild`.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> from keras_lrs import checkpoints
        >>> from keras_lrs.callbacks import SnapshotEnsemble
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x = np.ones((10, 1), "float32")
        >>> directory = tempfile.mkdtemp()
        >>> snapshots = SnapshotEnsemble(directory, schedule=[5, 10, 15, 20])
        >>> history = model.fit(x, x, 1, 2, verbose=0, callbacks=[snapshots])
        >>> [(file.name, file.step) for file in checkpoints.files(directory)][-1]
        ('snapshot-0004.weights.h5', 20)
        >>> checkpoints.prune(directory, keep_last=3)
        ['snapshot-0001.weights.h5']
        >>> checkpoints.verify(directory)
        []
    """
    found: list[File] = []
    for place, prefix in _places(directory):
        listed, wrong = _while_it_changes(functools.partial(_listed, place, prefix))
        if listed is None:
            raise ValueError(wrong[0])
        found += listed
    return sorted(found, key=lambda file: KINDS.index(file.kind))


def _listed(place, prefix):
    """Returns the files, and what is wrong; None if a manifest cannot be read."""
    found = []
    try:
        for kind, make in _FOLDERS.items():
            folder = make(place)
            for record in folder.records:
                entry = dataclasses.asdict(record)
                step = entry["iterations" if kind == "checkpoints" else "step"]
                size = _size(folder.path(record))
                found.append(File(kind, prefix + record.file, step, size, entry))
    except ValueError as error:
        return None, [str(error)]
    for step, path in averages.paths(place).items():
        found.append(File("averages", prefix + path.name, step, _size(path), {}))
    return found, [file.name for file in found if file.size is None]


def _size(path):
    try:
        return stored.size(path)
    except FileNotFoundError:
        return None


def verify(directory: str | os.PathLike) -> list[str]:
    """Verifies every byte that callbacks wrote to a folder.

    A run may write to the folder at the same time.

    Args:
        directory: The folder.

    Returns:
        A sentence for each file that is missing or altered; an empty list if none is.

    Raises:
        FileNotFoundError: If there is no such folder.
        OSError: If the folder cannot be listed, or its storage cannot be reached.
    """
    found: list[str] = []
    for place, _ in _places(directory):
        for make in _FOLDERS.values():
            found += _while_it_changes(functools.partial(_damage, make, place))[1]
        found += _while_it_changes(functools.partial(_damaged_averages, place))[1]
    return list(dict.fromkeys(found))  # Two kinds may have one manifest.


def rebuild(directory: str | os.PathLike) -> list[File]:
    """Rewrites the manifests of a folder from the files that are there.

    A damaged manifest is replaced, and a copy of it remains under its name followed by
    `.damaged`. Every undamaged file is listed, even if an interrupted run had not
    listed it yet. Missing files are no longer listed. Entries of an undamaged manifest
    are kept. Temporary files of killed processes are removed.

    Args:
        directory: The folder.

    Returns:
        The files, as `files` returns them.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a file is damaged. The error names the file, which is kept:
            remove it or move it elsewhere. Also if a run is writing to the folder, or
            if a `manifest.json` there comes from another program. Then nothing is
            changed.
    """
    places = list(_places(directory))
    with _locked(places, KINDS):
        with contextlib.ExitStack() as opened:
            folders = [
                opened.enter_context(contextlib.closing(make(place, repairs=True)))
                for place, _ in places
                for make in _FOLDERS.values()
            ]
            # Nothing is changed before it is certain that all can be listed.
            for folder in folders:
                folder.relist()
            # Two kinds may have lost one manifest, which those with files share.
            for folder in sorted(folders, key=lambda folder: not folder.records):
                folder.rewrite()
        for place, _ in places:
            stored.remove(temporaries.found(place, averages.PATTERN))
    return files(directory)


def prune(
    directory: str | os.PathLike, keep_last: int, kind: str | None = None
) -> list[str]:
    """Removes all but the last files of each kind from a folder.

    The files to keep are read and verified. A damaged or missing file is not counted: a
    warning names it, and an earlier file is kept instead. A damaged file is removed
    only once enough undamaged ones are newer. Files that interrupted runs left behind
    and that no manifest lists are removed too.

    Args:
        directory: The folder.
        keep_last: How many undamaged files of each kind to keep, > 0.
        kind: `"checkpoints"`, `"snapshots"` or `"averages"`; None means all kinds. With
            fewer averages, `averages.posthoc` reconstructs fewer widths accurately.

    Returns:
        The names of the files that were removed.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If an argument is out of range, if a manifest is damaged, or if a
            run is writing to the folder.
        OSError: If the storage of the folder cannot be reached.
    """
    keep_last = fields.count("keep_last", keep_last, 1)
    kinds = KINDS if kind is None else (fields.one_of("kind", kind, KINDS),)
    places, removed = list(_places(directory)), []
    with _locked(places, kinds):
        for place, prefix in places:
            for each in kinds:
                names = _prune(each, place, keep_last)
                removed += [prefix + name for name in names]
    return removed


def _prune(kind, place, keep_last):
    if kind == "averages":
        paths = [*averages.paths(place).values()]
        going = paths[: _first_kept(paths, keep_last, averages.read)]
        stored.remove(going + temporaries.found(place, averages.PATTERN))
        return [path.name for path in going]
    folder = _FOLDERS[kind](place)
    with contextlib.closing(folder):
        folder.lock()
        if not folder.manifest.exists() and not folder.records:
            # Not those of a manifest, which may be the other kind's.
            stored.remove(temporaries.found(place, folder.record.pattern))
            return []
        before = folder.unlisted() + list(map(folder.path, folder.records))
        first = _first_kept(folder.records, keep_last, folder.read)
        folder.records = folder.records[first:]
        folder.write()
        folder.clean()
        kept = list(map(folder.path, folder.records))
    return [path.name for path in before if path not in kept]


def _first_kept(items, keep_last, read):
    """Returns the index of the first file to keep, so that enough can be read."""
    undamaged = 0
    for index in reversed(range(len(items))):
        try:
            read(items[index])
        except (FileNotFoundError, ValueError) as error:
            text = f"A file is not counted among those to keep: {error}"
            warnings.warn(text, stacklevel=4)
        else:
            undamaged += 1
        if undamaged == keep_last:
            return index
    return 0


@contextlib.contextmanager
def _locked(places, kinds):
    """Locks all folders before one of them is changed."""
    names = [_FOLDERS.get(kind, averages).LOCK for kind in kinds]
    locks = [leases.lock(place / name) for place, _ in places for name in names]
    if _is_in_a_run():
        for lock in locks:
            lock.refuse_own()
    with contextlib.ExitStack() as held:
        for lock in locks:
            lock.acquire()
            held.callback(lock.release)
        yield


def _is_in_a_run():
    """Whether a caller has a list of callbacks, which `fit` and custom loops have.

    An interrupted `fit` is no caller, even if its traceback keeps its locks.
    """
    frame = inspect.currentframe()
    while frame is not None and (frame := frame.f_back) is not None:
        kinds = map(type, list(frame.f_locals.values()))
        if any(issubclass(kind, keras.callbacks.CallbackList) for kind in kinds):
            return True
    return False


def _places(directory) -> Iterator[tuple[Any, str]]:
    """Yields the folder, and the folders of earlier fits in it, with their names."""
    directory = fields.any_path("directory", directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"There is no folder `{directory}`.")
    inner = sorted(checkpoints.inner(directory))
    yield directory, ""
    for place in inner:
        listing.matching(place, "")  # Raises if it cannot be listed.
        yield place, f"{place.name}/"


def _while_it_changes(
    look: Callable[[], tuple[Any, list[str]]],
) -> tuple[Any, list[str]]:
    """Returns what is there, and what is wrong even if one looks again.

    A run may have replaced the files while they were read.
    """
    found, wrong = look()
    while wrong:
        before = wrong
        found, wrong = look()
        if wrong == before:
            break
    return found, wrong


def _damage(make, place):
    """Returns the records of a folder, and what is wrong with it."""
    try:
        with _quietly():
            folder = make(place)
    except ValueError as error:
        return [], [str(error)]
    wrong = []
    for record in folder.records:
        try:
            folder.read(record)
        except ValueError as error:
            wrong.append(str(error))
    return folder.records, wrong


def _damaged_averages(place):
    paths, wrong = averages.paths(place), []
    for path in paths.values():
        try:
            averages.read(path)
        except (FileNotFoundError, ValueError) as error:
            wrong.append(str(error))
    return paths, wrong


@contextlib.contextmanager
def _quietly():
    """Silences the warning that a manifest is missing, which is rebuilt here anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is missing. It is rebuilt", UserWarning)
        yield
