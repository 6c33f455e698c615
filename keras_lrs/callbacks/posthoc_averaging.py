"""`PosthocAveraging`: averages from which those of any length can be made later."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_lrs import training
from keras_lrs._storage import files
from keras_lrs.averages import snapshots
from keras_lrs.averages.posthoc import power_function
from keras_lrs.callbacks import fit as fits
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.callbacks.fit import Fit, build_to_average
from keras_lrs.schedules import fields


class PosthocAveraging(FitCallback):
    """Keeps snapshots of power-function averages of two widths (post-hoc EMA).

    After the training `keras_lrs.averages.posthoc` makes the average of any width
    between them, after any number of updates: the length of the average need not be
    chosen before. The averages are taken in the compiled step, of every update; model
    and optimizer stay as they are, which takes one more copy of the weights in memory
    per width.

    With `initial_epoch` or after `BackupAndRestore` it goes on from the snapshot of the
    epoch's beginning; later ones are deleted.

    Args:
        directory: Where the snapshots go: `averages-<updates>.npz`. Each is written
            whole or not at all.
        sigma_rels: The relative widths to keep, as in `PowerFunctionAverage`.
        every: How many epochs from one snapshot to the next, > 0.

    Raises:
        ValueError: If an argument is out of range; and before the first step, if the
            model is not built, if the directory holds snapshots of another training, or
            lacks the one that this training must go on from.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> from keras_lrs import averages
        >>> from keras_lrs.callbacks import PosthocAveraging
        >>> model = keras.Sequential(
        ...     [keras.Input((1,)), keras.layers.Dense(1, use_bias=False)]
        ... )
        >>> model.compile("sgd", "mse")
        >>> x = np.ones((8, 1), "float32")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     history = model.fit(
        ...         x, x, batch_size=1, epochs=4, verbose=0,
        ...         callbacks=[PosthocAveraging(folder)],
        ...     )
        ...     (kernel,) = averages.posthoc(folder, sigma_rel=0.07)
        >>> kernel.shape
        (1, 1)

    Reference: Karras et al., "Analyzing and Improving the Training Dynamics of
    Diffusion Models", 2024, arXiv:2312.02696, section 3.2.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        sigma_rels: Sequence[float] = (0.05, 0.1),
        every: int = 1,
    ):
        super().__init__()
        self.directory = fields.path("directory", directory)
        self.sigma_rels = tuple(
            fields.real("sigma_rels", sigma)
            for sigma in fields.items("sigma_rels", sigma_rels)
        )
        if len(set(self.sigma_rels)) != len(self.sigma_rels) or not self.sigma_rels:
            fields.refuse("sigma_rels", "be different widths", sigma_rels)
        self.averagings = tuple(
            training.Averaging(power_function("sigma_rels", sigma))
            for sigma in self.sigma_rels
        )
        self.every = fields.count("every", every, 1)

    def prepare(self, fit: Fit) -> None:
        """Asks for the averages."""
        build_to_average(self, fit)
        fit.average_besides(self)

    def fit_begins(self, epoch: int) -> None:
        """Looks at what there is from before."""
        found = snapshots.paths(self.directory)
        resumable = any(fits.backs_up(other) for other in self._fit.siblings)
        if epoch == 0 and found and not resumable:
            fields.refuse(
                "directory",
                "not hold snapshots of another training",
                str(self.directory),
            )
        self._goes_on = epoch > 0
        self._given: list[list[np.ndarray]] | None = None

    def get_state(self) -> dict[str, Any]:
        """The averages."""
        return {"averages": self._values}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on with them, when there are variables for them."""
        self._given, self._goes_on = state["averages"], False

    @property
    def _values(self):
        return [[average.value for average in k] for k in self._fit.free_averages]

    def epoch_begins(self, epoch: int) -> None:
        """Goes on from a snapshot, in the first epoch."""
        updates = self._fit.updates
        paths = snapshots.paths(self.directory)
        files.remove([path for step, path in paths.items() if step > updates])
        if self._given is not None:
            self._set(self._given)
            self._given = None
        if not self._goes_on:
            return
        self._goes_on = False
        if updates not in paths:
            raise ValueError(
                f"Argument `directory` must hold the snapshot after {updates} updates, "
                "with which this training goes on. Received: "
                f"directory={str(self.directory)!r}"
            )
        stored = snapshots.read(paths[updates])
        self._set([stored[sigma_rel] for sigma_rel in self.sigma_rels])

    def _set(self, values):
        for averages, stored in zip(self._fit.free_averages, values, strict=True):
            for average, value in zip(averages, stored, strict=True):
                average.set(value)

    def epoch_ends(self, epoch: int, logs: dict) -> None:
        """Writes a snapshot."""
        last = epoch + 1 == self._fit.params["epochs"]
        if (epoch + 1) % self.every == 0 or last or self._model.stop_training:
            snapshot = dict(zip(self.sigma_rels, self._values, strict=True))
            snapshots.write(self.directory, self._fit.updates, snapshot)
