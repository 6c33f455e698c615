"""The learning-rate range test: trains for a hundred steps while the rate grows."""

import inspect
import math
import types
from typing import Any

import keras
import numpy as np

from keras_lrs._fit.run import Run
from keras_lrs._keras import interrupts
from keras_lrs._keras.models import FitSideEffects, TrainingState, built_first
from keras_lrs._keras.variables import number
from keras_lrs._step.hyperparameters import ReplacedRate
from keras_lrs._step.part import Wanted
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.schedules import fields
from keras_lrs.schedules.decays import BoundedExponentialDecay, LinearDecay
from keras_lrs.tuning.curve import SMOOTHING, RangeTest, unread

_REFUSED = {
    "callbacks": "their side effects could not be undone",
    "epochs": "the data is repeated as often as `num_steps` needs",
    "initial_epoch": "the data is repeated as often as `num_steps` needs",
}


def range_test(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    min_learning_rate: float = 1e-7,
    max_learning_rate: float = 10.0,
    num_steps: int = 100,
    shape: str = "exponential",
    smoothing: float = 0.98,
    stop_factor: float = 4.0,
    **fit_arguments: Any,
) -> RangeTest:
    """Trains for some steps while the rate grows, to see at which rates the loss falls.

    `rate(i) = min * (max / min) ** (i / (num_steps - 1))` for i = 0 .. `num_steps - 1`,
    inside the compiled step. The loss of a step is that of its own batch, before its
    update. The test ends early where the loss diverges.

    Afterwards you can train as if there had been no test, however the test ended: every
    weight, statistic, seed, metric and variable of the optimizer, its rate or schedule,
    the random generators of Python, NumPy, Keras, TensorFlow and PyTorch, and
    `model.history` are bit for bit what they were. Only a model that was not built is
    built, as its first `fit` would do. The state of the input itself is out of reach: a
    generator has been advanced, a `tf.data.Dataset.shuffle` draws its next order, a
    `PyDataset` has had its `on_epoch_end`, and threads that prefetch may have drawn
    from global generators.

    Under gradient accumulation a step is a micro-batch. A step whose update a
    `LossScaleOptimizer` skips does not count. Under a `MirroredStrategy` TensorFlow may
    take minutes to end any `fit` that stops within an epoch, as this one does.

    Args:
        model: A compiled model.
        x: Input data, in any form that `fit` takes. Data shorter than `num_steps`
            batches is repeated; with a generator, the test ends when the data does.
        y: Target data, as in `fit`.
        min_learning_rate: The first rate, >= 2**-126; >= 0 with `"linear"`.
        max_learning_rate: The last rate, > `min_learning_rate`.
        num_steps: How many steps, >= 2. Fewer than 30 leave too little of a curve.
        shape: How the rate grows: `"exponential"` or `"linear"`.
        smoothing: How much of the past the smoothed loss keeps, in [0, 1).
        stop_factor: The test ends where the smoothed loss exceeds its lowest value by
            `stop_factor - 1` times that value (so at 4 times a positive one), > 1; the
            first tenth of the steps is left out. It also ends where a loss is NaN or
            infinite.
        **fit_arguments: Further arguments of `fit`, such as `batch_size`,
            `sample_weight`, `class_weight`, `shuffle` or `steps_per_epoch`. No
            validation is run. `verbose=0` shows no progress bar.

    Returns:
        The curve, as a `RangeTest`.

    Raises:
        ValueError: If an argument is out of range, if `callbacks` or `epochs` are
            given, or if the model is not compiled.
        TypeError: If an argument has the wrong type or `fit` has no such argument.

    Example:
        >>> import keras, numpy as np
        >>> keras.utils.set_random_seed(0)
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(0.1), "mse")
        >>> x = np.random.default_rng(0).normal(size=(320, 4)).astype("float32")
        >>> y = x @ np.array([[1.0], [2.0], [3.0], [4.0]], "float32")
        >>> test = range_test(model, x, y, min_learning_rate=1e-4, verbose=0)
        >>> test.diverged
        True
        >>> 0.01 < test.suggestion() < 1.0
        True
        >>> from keras_lrs.callbacks import OneCycleScheduler
        >>> from keras_lrs.schedules import OneCycle
        >>> schedule = OneCycle(max_learning_rate=test.suggestion())

    Reference: Smith, "Cyclical Learning Rates for Training Neural Networks", 2015,
    arXiv:1506.01186, section 3.3.
    """
    num_steps = fields.validate(
        "num_steps", num_steps, fields.integer(at_least=2, at_most=2**20)
    )
    schedule = _growth(min_learning_rate, max_learning_rate, num_steps, shape)
    smoothing = fields.validate("smoothing", smoothing, SMOOTHING)
    stop_factor = fields.validate("stop_factor", stop_factor, fields.number(above=1.0))
    verbose = fit_arguments.pop("verbose", "auto")
    _check_fit_arguments(fit_arguments)
    if not isinstance(model, keras.Model):
        fields.refuse("model", "be a `keras.Model`", model, TypeError)
    if getattr(model, "optimizer", None) is None:
        fields.refuse("model", "be compiled with an optimizer", model)

    recorder = _LossRecorder(schedule, num_steps, smoothing, stop_factor, verbose)
    recorder.once = isinstance(x, types.GeneratorType)
    with interrupts.undoing() as undo:
        undo.callback(FitSideEffects(model).undo)
        undo.callback(recorder.restore)
        undo.callback(recorder.leave)
        if model.steps_per_execution != 1:  # The loss of every step is needed.
            model.steps_per_execution = 1
            model.train_function = None
        with built_first(model):
            model.fit(
                x,
                y,
                **{
                    **fit_arguments,
                    # Enough even if each epoch is one batch and half of the updates
                    # are skipped; validation would come after all of them.
                    "epochs": 2 * num_steps,
                    "validation_freq": 2 * num_steps + 1,
                    "callbacks": [recorder],
                    "verbose": 0,
                },
            )
    return recorder.result()


def _growth(min_learning_rate, max_learning_rate, num_steps, shape):
    """Makes the schedule of the rate."""
    shape = fields.validate("shape", shape, fields.choice(("exponential", "linear")))
    exponential = shape == "exponential"
    first = fields.validate(
        "min_learning_rate", min_learning_rate, fields.rate(positive=exponential)
    )
    last = fields.validate(
        "max_learning_rate", max_learning_rate, fields.rate(positive=exponential)
    )
    if not last > first:
        bound = f"be > `min_learning_rate` ({first:g})"
        fields.refuse("max_learning_rate", bound, max_learning_rate)
    decay = BoundedExponentialDecay if exponential else LinearDecay
    return decay(first, num_steps - 1, last)


def _check_fit_arguments(fit_arguments):
    known = inspect.signature(keras.Model.fit).parameters
    for name, value in fit_arguments.items():
        if name in _REFUSED:
            raise ValueError(
                f"Argument `{name}` must not be given to `range_test`: "
                f"{_REFUSED[name]}. Received: {name}={value!r}"
            )
        if name not in known:
            raise TypeError(
                f"`Model.fit` has no argument `{name}`. Received: {value!r}"
            )


class _LossRecorder(FitCallback):
    """Drives the rate, records the loss of each step, and stops the run."""

    every_step = True
    fresh_metrics = True

    def __init__(self, schedule, num_steps, smoothing, stop_factor, verbose):
        super().__init__()
        self.schedule = schedule
        self.rates = schedule.curve(num_steps)
        self.smoothing, self.stop_factor = smoothing, stop_factor
        self.verbose = 1 if verbose == "auto" else verbose
        self.state: TrainingState | None = None
        self.used: list[float] = []
        self.losses: list[float] = []
        self.average, self.lowest = 0.0, math.inf
        self.position = self.skipped = self.batches = 0
        self.once = False  # Whether the data can be read only once.
        self.diverged = False

    def prepare(self, run: Run) -> list[Wanted]:
        """Drives the rate of every optimizer, whatever sets it otherwise."""
        given = ("learning_rate", self.schedule)
        return [
            Wanted(optimizer, ReplacedRate, given, slot="learning_rate")
            for optimizer in run.optimizers
        ]

    def fit_begins(self, epoch: int) -> None:
        """Keeps the state that will be restored."""
        # Not earlier: a first `fit` draws random numbers to build the model.
        self.state = TrainingState(self._model)
        self.progress = keras.utils.Progbar(
            len(self.rates),
            verbose=self.verbose,
            stateful_metrics=["loss", "learning_rate"],
        )

    def epoch_begins(self, epoch: int) -> None:
        """Starts to count the batches of the epoch."""
        self.batches = 0

    def step_ends(self, logs: Any) -> None:
        """Records a step, and stops after the last one."""
        self.batches += 1
        if "loss" not in logs:
            raise ValueError(
                "`range_test` needs the `loss` in what `train_step` returns. Received: "
                f"{', '.join(logs)}"
            )
        loss, rate = number(logs["loss"]), self.rates[self.position]
        before, self.position = self.position, self._run.progress.step()
        if self.position == before and math.isfinite(loss):
            # A step whose gradients overflowed is not counted, up to a limit.
            self.skipped += 1
            self._model.stop_training = self.skipped > len(self.rates)
            return
        self.used.append(rate)
        self.losses.append(loss)
        self.diverged = self._diverges(loss)
        over = self.diverged or self.position >= len(self.rates)
        self.progress.update(
            len(self.losses),
            [("loss", loss), ("learning_rate", rate)],
            finalize=over,
        )
        self._model.stop_training = over

    def _diverges(self, loss):
        keep = self.smoothing
        self.average = keep * self.average + (1.0 - keep) * loss
        smoothed = self.average / (1.0 - keep ** len(self.losses))
        lowest = self.lowest
        # The first averages are over few batches: one easy batch would end the test.
        if len(self.losses) > unread(len(self.rates)):
            self.lowest = min(lowest, smoothed)
        # Means `smoothed > stop_factor * lowest`, but holds for negative losses, too.
        margin = (self.stop_factor - 1.0) * abs(lowest)
        return not math.isfinite(loss) or smoothed > lowest + margin

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """Stops when the data is exhausted."""
        expected = self._run.progress.steps_per_epoch or math.inf
        # Keras repeats the first batch of a generator that is exhausted.
        if self.batches == 0 or (self.once and self.batches < expected):
            self._model.stop_training = True

    def leave(self) -> None:
        """Leaves the run."""
        if self.run is not None:
            self.run.close()

    def restore(self) -> None:
        """Restores everything that the test changed."""
        if self.state is not None:
            self.state.restore()

    def result(self) -> RangeTest:
        """Returns the curve."""
        if not self.losses:
            raise ValueError("Argument `x` must hold at least one batch.")
        return RangeTest(
            np.array(self.used),
            np.array(self.losses),
            len(self.rates),
            self.smoothing,
            self.diverged,
        )
