"""The folder of a run that can be resumed, with its last two checkpoints."""

import contextlib
import dataclasses
import itertools
import warnings
from typing import Any

from keras_lrs._storage import files, listing, run_state, tree
from keras_lrs._storage.fits import Fit
from keras_lrs._storage.manifest import GENERATIONS, KINDS, Folder, Record
from keras_lrs._storage.remote import Path

_KEPT = 2


@dataclasses.dataclass(frozen=True)
class Checkpoint(Record):
    """The manifest's entry of a checkpoint.

    Args:
        number: The number in the file's name, from 1.
        epoch: The epoch in which the run resumes, from 0.
        batch: The number of batches of this epoch that are done.
        iterations: The number of updates (micro-batches) of the optimizer.
        sha256: The hash of the file.
    """

    # Files and manifests still use the word "generation" from version 0.1.0.
    pattern = KINDS[GENERATIONS]
    digits = 8

    number: int
    epoch: int
    batch: int
    iterations: int
    sha256: str = ""


class Checkpoints(Folder[Checkpoint]):
    """The checkpoints in a folder."""

    record = Checkpoint
    listed_as = GENERATIONS
    newest_first = True
    optional = ("first_batches",)

    def save(self, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
        """Writes a checkpoint, and keeps only the one before it.

        Args:
            checkpoint: The checkpoint, whose number and hash are filled in.
            state: As for `tree.written`.
        """
        self.add(checkpoint, tree.written(state), _KEPT)

    def newest(self) -> tuple[Checkpoint, dict[str, Any]] | None:
        """Returns the newest undamaged checkpoint and its state; None if there is none.

        It warns if this is not the last checkpoint that was written. Those after it are
        no longer listed while the folder stays locked: the next `save` keeps this one,
        and replaces them.

        Raises:
            ValueError: If there are checkpoints and all are damaged.
        """
        errors = []
        for checkpoint in reversed(self.records):
            try:
                state = self._state(checkpoint)
            except ValueError as error:
                errors.append(str(error))
                continue
            if errors:
                warnings.warn(
                    f"{errors[0]} Training resumes from the previous checkpoint.",
                    stacklevel=4,
                )
            self.records = self.records[: len(self.records) - len(errors)]
            return checkpoint, state
        if errors:
            raise ValueError(" ".join(errors))
        return None

    def _state(self, checkpoint):
        content = self.read(checkpoint)
        try:
            return tree.read(content)
        except ValueError as error:
            raise ValueError(
                f"`{self.path(checkpoint)}` is damaged: {error}."
            ) from error


Newest = tuple[Checkpoint, dict[str, Any]] | None


def of_fit(
    directory: Path,
    updates: int,
    writes: bool,
    fit: Fit | None = None,
    of_any: bool = False,
) -> tuple[Checkpoints, Newest]:
    """Finds the checkpoints of a fit, and the newest of them.

    A program may call `fit` several times with one folder. If it was killed in a later
    `fit` and runs again, it first comes to an earlier one. The earlier `fit` must
    neither use nor replace the checkpoints of the later one, so it gets a folder of its
    own within this folder.

    Args:
        directory: The folder.
        updates: The optimizer's iterations when the fit begins.
        writes: Whether to lock the folder.
        fit: The fit; None if nothing else is known of it.
        of_any: Whether to use the checkpoints of any fit.
    """
    fit = fit or Fit(updates)
    found, newest = _opened(directory, writes)
    if newest is None or of_any or fit.wrote(newest[1]):
        return found, newest
    found.close()
    if newest[1].get("initial") not in fit.before:
        _tell(directory, newest[1].get("began", 0), updates)
    for path in inner(directory):
        found, newest = _opened(path, writes)
        if newest is not None and fit.wrote(newest[1]):
            return found, newest
        found.close()
    for number in itertools.count():
        suffix = f"-{number}" if number else ""
        found, newest = _opened(directory / f"fit-from-{updates}{suffix}", writes)
        if newest is None:
            break
        found.close()
    return found, None


def _tell(directory, began, updates):
    """Warns that checkpoints belong to a fit that this process has not seen."""
    warnings.warn(
        f"The checkpoints in `{directory}` are from a `fit` that began after {began} "
        f"updates. They are kept for it, and this `fit`, which begins after {updates}, "
        "does not use them."
        + (
            "" if began > updates else " With `accept='fit'` it would resume from them."
        ),
        stacklevel=5,
    )


def remove(checkpoints: Checkpoints) -> None:
    """Removes the checkpoints of a fit that is over, and the folder of an inner one."""
    checkpoints.remove()
    checkpoints.close()
    if checkpoints.directory in inner(checkpoints.directory.parent):
        with contextlib.suppress(OSError):  # It holds something else.
            checkpoints.directory.rmdir()


def _opened(directory, writes):
    found = Checkpoints(directory)
    try:
        if writes:
            found.lock()
        newest = found.newest()
        if newest is not None:
            run_state.check(found.path(newest[0]), newest[1])
    except BaseException:
        found.close()  # The error may be kept, and the folder would stay locked.
        raise
    return found, newest


def inner(directory: Any) -> list[Any]:
    """Finds the folders of earlier fits within a folder."""
    paths = sorted(listing.matching(directory, "fit-from-*"))
    return [path for path in paths if files.is_number(path.name.rpartition("-")[2])]
