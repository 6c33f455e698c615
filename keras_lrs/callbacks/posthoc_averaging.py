"""`PosthocAveraging`: averages whose length can be chosen after training."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_lrs._fit import chosen, registry
from keras_lrs._fit.run import Run
from keras_lrs._keras.models import is_chief
from keras_lrs._step.averages import Averaging, FreeAverage
from keras_lrs._step.part import Wanted
from keras_lrs._storage import files, leases, temporaries
from keras_lrs.averages import snapshots
from keras_lrs.averages.posthoc import power_function
from keras_lrs.callbacks import resumption
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.schedules import fields


class PosthocAveraging(FitCallback):
    """Keeps snapshots of power-function averages of two widths (post-hoc EMA).

    After training, `keras_lrs.averages.posthoc` constructs the average of any width
    between them, after any number of updates. So you do not need to choose the length
    of the average before training. The averages are computed in the training step, at
    every update. The model and the optimizer are unchanged. Each width needs one more
    copy of the weights in memory.

    With `initial_epoch` or after `BackupAndRestore`, averaging resumes from the
    snapshot of the epoch's beginning, and later snapshots are deleted. A run is
    identified by its initial weights, so that the snapshots of another run are neither
    deleted nor combined with its own.

    Args:
        directory: The folder for the snapshots `averages-<updates>.npz`, local or a
            bucket such as `s3://bucket/run`. Each file is written whole or not at all.
        sigma_rels: The relative widths to keep, as in `PowerFunctionAverage`.
        every: The number of epochs from one snapshot to the next, > 0.
        optimizers: The optimizers whose weights to average: a name (of an optimizer, or
            of the model's attribute that holds it), an optimizer, or a list of these.
            None means all. `averages.posthoc` returns the weights of these optimizers.

    Raises:
        ValueError: If an argument is out of range. Before the first step: if the model
            is not built, if another run is writing to the directory, if the directory
            holds snapshots of another run, or if it lacks the snapshot from which this
            run must resume.
        TypeError: If an argument has the wrong type.
        OSError: If a snapshot cannot be written, or, before the first step, if the
            directory is not writable.

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
        *,
        optimizers: chosen.Optimizers = None,
    ):
        super().__init__()
        self.optimizers = chosen.check(optimizers)
        self.directory = fields.any_path("directory", directory)
        self.sigma_rels = tuple(
            fields.real("sigma_rels", sigma)
            for sigma in fields.items("sigma_rels", sigma_rels)
        )
        if len(set(self.sigma_rels)) != len(self.sigma_rels) or not self.sigma_rels:
            fields.refuse("sigma_rels", "be different widths", sigma_rels)
        self.averagings = tuple(
            Averaging(power_function("sigma_rels", sigma)) for sigma in self.sigma_rels
        )
        self.every = fields.count("every", every, 1)
        self._lock: Any = None
        self._known: set[int] = set()  # The updates of the snapshots of this run.
        self._identity = ""

    def __getstate__(self):
        return {**super().__getstate__(), "_lock": None}

    def prepare(self, run: Run) -> list[Wanted]:
        """Requests the averages, and locks the folder."""
        registry.build_to_average(self, run)
        registry.refuse_shared_directory(self, run)
        if is_chief(run.model):
            self._lock = leases.lock(self.directory / snapshots.LOCK)
            self._lock.acquire()
            self._known = set(snapshots.paths(self.directory))
            files.remove(temporaries.found(self.directory, snapshots.PATTERN))
        # What resumes the run may change its weights when it begins.
        self._identity = resumption.initial(run.model, None)
        return [
            Wanted(
                optimizer,
                FreeAverage,
                (index, averaging),
                slot=(PosthocAveraging, index),
            )
            for optimizer in run.chosen(self).values()
            for index, averaging in enumerate(self.averagings)
        ]

    def fit_begins(self, epoch: int) -> None:
        """Checks for snapshots of earlier runs."""
        resumable = any(registry.backs_up(other) for other in self._run.siblings)
        if epoch == 0 and snapshots.paths(self.directory) and not resumable:
            self._refuse_others()
        self._begins, self._goes_on = True, epoch > 0
        self._resumes = self._goes_on
        self._given: list[list[np.ndarray]] | None = None

    def get_state(self) -> dict[str, Any]:
        """Returns the averages."""
        return {"averages": self._values, "run": self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the averages once their variables exist."""
        self._given, self._goes_on, self._resumes = state["averages"], False, True
        self._identity = state.get("run", self._identity)

    @property
    def _updates(self):
        """The updates of this run, by the optimizer with the most."""
        run = self._run
        return max(map(run.progress.updates, run.chosen(self).values()))

    @property
    def _values(self):
        return [[average.read() for average in kind] for kind in self._averages]

    @property
    def _averages(self):
        """For each width, the averages of all weights in the model's order."""
        order = {id(v): i for i, v in enumerate(self._model.trainable_variables)}
        found: list[list[tuple[int, Any]]] = [[] for _ in self.averagings]
        for part in self._run.parts(self):
            for weight, average in zip(part.step.weights, part.variables, strict=True):
                found[part.index].append((order[id(weight)], average))
        return [
            [average for _, average in sorted(kind, key=lambda pair: pair[0])]
            for kind in found
        ]

    def epoch_begins(self, epoch: int) -> None:
        """Resumes from a snapshot in the first epoch."""
        if not self._begins:
            return
        self._begins = False
        updates, paths = self._updates, snapshots.paths(self.directory)
        if self._goes_on:
            self._resume(updates, paths)
        elif self._given is not None:
            self._set(self._given)
        self._given = None
        if self._lock is not None:
            self._keep_lock()
            self._remove_later(updates, paths)

    def _resume(self, updates, paths):
        if updates not in paths:
            raise ValueError(
                f"Argument `directory` must hold the snapshot after {updates} updates, "
                "from which this run resumes. Received: "
                f"directory={str(self.directory)!r}"
            )
        found = snapshots.read(paths[updates])
        stored = found.averages
        if not set(self.sigma_rels) <= stored.keys():
            bound = f"be of those in `{paths[updates]}`: {sorted(stored)}"
            fields.refuse("sigma_rels", bound, self.sigma_rels)
        self._identity = found.run or self._identity
        self._set([stored[sigma_rel] for sigma_rel in self.sigma_rels])

    def _remove_later(self, updates, paths):
        """Removes the snapshots that this run will write again."""
        earlier = [step for step in paths if step <= updates]
        later = [path for step, path in paths.items() if step > updates]
        # The newest of the others tells for all of them.
        others = [*later, *(paths[step] for step in earlier[-1:])]
        if any(map(self._is_of_another, others)):
            self._refuse_others()
        self._known = set(earlier)
        files.remove(later)

    def _is_of_another(self, path):
        """Whether another run wrote a snapshot."""
        run = snapshots.run_of(path)
        # Version 0.1.0 did not write it.
        return run != self._identity and not (run is None and self._resumes)

    def _keep_lock(self):
        """Raises if another run has taken the folder over, even if it has ended."""
        if not self._lock.acquire():
            return
        # Someone had removed the lock.
        for step, path in snapshots.paths(self.directory).items():
            if step not in self._known or self._is_of_another(path):
                raise self._lock.lost("another run, which has ended")

    def _refuse_others(self):
        bound = "not hold snapshots of another run"
        fields.refuse("directory", bound, str(self.directory))

    def _set(self, values):
        for averages, stored in zip(self._averages, values, strict=True):
            for average, value in zip(averages, stored, strict=True):
                average.write(value)

    def epoch_ends(self, epoch: int, logs: dict) -> None:
        """Writes a snapshot."""
        if self._lock is None:
            return
        self._keep_lock()
        last = epoch + 1 == self._run.progress.epochs
        if (epoch + 1) % self.every == 0 or last or self._model.stop_training:
            snapshot = dict(zip(self.sigma_rels, self._values, strict=True))
            updates = self._updates
            self._known.add(updates)
            snapshots.write(self.directory, updates, snapshot, self._identity)

    def fit_ends(self) -> None:
        """Unlocks the folder."""
        if self._lock is not None:
            self._lock.release()
