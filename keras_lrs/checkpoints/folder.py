"""What is in a folder of snapshots and checkpoints: listed, verified, rebuilt, pruned.

All callbacks may share a folder, and `ResumableTraining` has folders in its own for
earlier fits of a program: everything here looks at all of it.
"""

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from keras_lrs._storage import checkpoints, leases, manifest
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
        name: Its path, in the folder.
        step: How many updates (under gradient accumulation, micro-batches) had been
            made.
        size: In bytes.
        entry: What the manifest says about it, such as the epoch of a checkpoint or
            the metrics of a snapshot. Averages have no manifest.
    """

    kind: str
    name: str
    step: int
    size: int
    entry: dict[str, Any]


def files(directory: str | os.PathLike) -> list[File]:
    """Lists the files that callbacks wrote to a folder.

    Args:
        directory: The folder; like those of the callbacks, it may be on S3 and the
            like.

    Returns:
        The files, by their kind and from the oldest to the newest.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a manifest is damaged or cannot be rebuilt: `rebuild` mends that.

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
    found = []
    for place, prefix in _places(directory):
        for kind, make in _FOLDERS.items():
            folder = make(place)
            for record in folder.records:
                entry = dataclasses.asdict(record)
                step = entry["iterations" if kind == "checkpoints" else "step"]
                size = stored.size(folder.path(record))
                found.append(File(kind, prefix + record.file, step, size, entry))
        for step, path in averages.paths(place).items():
            name = prefix + path.name
            found.append(File("averages", name, step, stored.size(path), {}))
    return sorted(found, key=lambda file: KINDS.index(file.kind))


def verify(directory: str | os.PathLike) -> list[str]:
    """Reads every byte of what callbacks wrote to a folder.

    A run may be writing to it meanwhile.

    Args:
        directory: The folder.

    Returns:
        What is wrong, a sentence for each file that is missing or altered; nothing if
        all is whole.

    Raises:
        FileNotFoundError: If there is no such folder.
        OSError: If the storage that it is in cannot be reached.
    """
    found: list[str] = []
    for place, _ in _places(directory):
        for make in _FOLDERS.values():
            found += _while_it_changes(functools.partial(_damage, make, place))
        found += _while_it_changes(functools.partial(_damaged_averages, place))
    return list(dict.fromkeys(found))  # Two kinds may have one manifest.


def rebuild(directory: str | os.PathLike) -> list[File]:
    """Writes the manifests of a folder anew, from the files that are there.

    A damaged manifest is replaced. Every file that is whole is listed, also one that an
    interrupted run had not listed yet; files that are missing are no longer. Entries of
    a manifest that is whole are kept.

    Args:
        directory: The folder.

    Returns:
        What `files` returns then.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a file is damaged, which is named and kept: remove it, or put it
            elsewhere. If a run is writing to the folder, or a `manifest.json` there is
            of another program.
    """
    places = list(_places(directory))
    with _locked(places, KINDS):
        for place, _ in places:
            for make in _FOLDERS.values():
                _remove_damaged_manifest(make, place)
            for make in _FOLDERS.values():
                with _quietly():
                    folder = make(place)
                with contextlib.closing(folder):
                    folder.relist()
    return files(directory)


def prune(
    directory: str | os.PathLike, keep_last: int, kind: str | None = None
) -> list[str]:
    """Removes all but the last files of each kind from a folder.

    Files that interrupted runs left behind, and that no manifest lists, go as well.

    Args:
        directory: The folder.
        keep_last: How many files of each kind to keep, > 0.
        kind: `"checkpoints"`, `"snapshots"` or `"averages"`; None is all of them.
            With fewer averages, `averages.posthoc` reconstructs fewer widths well.

    Returns:
        The names of the files that were removed.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If an argument is out of range, if a manifest is damaged, or if a
            run is writing to the folder.
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
        going = [*averages.paths(place).values()][:-keep_last]
        stored.remove(going)
        return [path.name for path in going]
    folder = _FOLDERS[kind](place)
    if not folder.manifest.exists() and not folder.records:
        return []
    with contextlib.closing(folder):
        folder.lock()
        before = folder.unlisted() + list(map(folder.path, folder.records))
        folder.records = folder.records[-keep_last:]
        folder.write()
        folder.clean()
        kept = list(map(folder.path, folder.records))
    return [path.name for path in before if path not in kept]


def _remove_damaged_manifest(make, place):
    with _quietly():
        try:
            make(place)
        except manifest.DamagedError as error:
            stored.remove([error.path])
        except ValueError:
            pass  # `relist` says what is wrong with a file.


@contextlib.contextmanager
def _locked(places, kinds):
    """Keeps runs from writing: to none of the folders, before one is changed."""
    with contextlib.ExitStack() as held:
        for place, _ in places:
            for kind in kinds:
                name = _FOLDERS.get(kind, averages).LOCK
                lock = leases.lock(place / name)
                lock.acquire()
                held.callback(lock.release)
        yield


def _places(directory) -> Iterator[tuple[Any, str]]:
    """The folder, and the folders of earlier fits in it, with their names."""
    directory = fields.any_path("directory", directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"There is no folder `{directory}`.")
    yield directory, ""
    for place in sorted(checkpoints.inner(directory)):
        yield place, f"{place.name}/"


def _while_it_changes(look: Callable[[], tuple[Any, list[str]]]) -> list[str]:
    """What is wrong, unless a run replaced the files while they were read."""
    before, wrong = look()
    while wrong:
        after, again = look()
        if after == before:
            return wrong
        before, wrong = after, again
    return wrong


def _damage(make, place):
    """What a folder lists, and what is wrong with it."""
    try:
        with _quietly():
            folder = make(place)
    except ValueError as error:
        return None, [str(error)]
    wrong = []
    for record in folder.records:
        try:
            folder.read(record)
        except ValueError as error:
            wrong.append(str(error))
    return [record.sha256 for record in folder.records], wrong


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
    """Without the warning that a manifest is missing, which is rebuilt here anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is missing. It is rebuilt", UserWarning)
        yield
