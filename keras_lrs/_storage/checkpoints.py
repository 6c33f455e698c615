"""The folder of a training run that can be resumed: its last two checkpoints."""

import dataclasses
import warnings
from typing import Any

from keras_lrs._storage import tree
from keras_lrs._storage.manifest import Folder, Record

_KEPT = 2


@dataclasses.dataclass(frozen=True)
class Checkpoint(Record):
    """What the manifest says about a checkpoint.

    Args:
        number: The number in the file's name, from 1.
        epoch: The epoch in which the run resumes, from 0.
        batch: How many batches of this epoch are done.
        iterations: How many updates (micro-batches) the optimizer had made.
        sha256: The hash of the file.
    """

    # Files and manifests say "generation", as those of version 0.1.0 do.
    pattern = "generation-*.npz"
    digits = 8

    number: int
    epoch: int
    batch: int
    iterations: int
    sha256: str = ""


class Checkpoints(Folder[Checkpoint]):
    """The checkpoints in a folder."""

    record = Checkpoint
    listed_as = "generations"
    newest_first = True

    def save(self, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
        """Writes a checkpoint, and drops all but the one before it.

        Args:
            checkpoint: Its number and hash are filled in.
            state: As for `tree.written`.
        """
        self.add(checkpoint, tree.written(state), _KEPT)

    def newest(self) -> tuple[Checkpoint, dict[str, Any]] | None:
        """Returns the newest undamaged checkpoint and its state; None without any.

        Warns if it is not the last one that was written.

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
                    f"{errors[0]} Training resumes from the checkpoint before it.",
                    stacklevel=4,
                )
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
