"""The learning-rate range test: trains for a hundred steps while the rate grows."""

import dataclasses
import inspect
import math
import types
from typing import Any

import keras
import numpy as np

from keras_lrs._fit.run import Run
from keras_lrs._keras import interrupts, metrics, models, optimizers
from keras_lrs._keras.models import built_first
from keras_lrs._keras.training_state import FitSideEffects, TrainingState
from keras_lrs._keras.variables import number, write
from keras_lrs._step.hyperparameters import ReplacedRate
from keras_lrs._step.part import Wanted
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.schedules import fields
from keras_lrs.schedules.decays import BoundedExponentialDecay, LinearDecay
from keras_lrs.tuning.curve import SMOOTHING, RangeTest, unread

_ENDLESS = 2**30  # Epochs.
# Batches without an update. Each halves a loss scale, at most some 250 times.
_PATIENCE = 1000
_REFUSED = {
    "callbacks": "their side effects could not be undone",
    "epochs": "the data is repeated as often as `num_steps` needs",
    "initial_epoch": "the data is repeated as often as `num_steps` needs",
    "validation_freq": "`validation_points` says how often the model is evaluated",
}


def range_test(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    min_learning_rate: float = 1e-7,
    max_learning_rate: float = 10.0,
    num_steps: int = 100,
    shape: str = "exponential",
    smoothing: float = 0.98,
    stop_factor: float = 4.0,
    validation_data: Any = None,
    validation_points: int = 20,
    monitor: str | None = None,
    **fit_arguments: Any,
) -> RangeTest:
    """Trains for some steps while the rate grows, to see at which rates the loss falls.

    `rate(i) = min * (max / min) ** (i / (num_steps - 1))` for i = 0 .. `num_steps - 1`,
    inside the training step. The loss of a step is that of its own batch, before its
    update. The test ends early if the loss diverges.

    Afterwards you can train as if there had been no test, however the test ended. Every
    weight, statistic, seed, metric and variable of the optimizer, its rate or schedule,
    the random generators of Python, NumPy, Keras, TensorFlow and PyTorch, and
    `model.history` are restored bit for bit. If the model, its metrics or its loss were
    not built, they are now built, as a first `fit` would do, and the random numbers
    that it draws for this remain drawn. The test cannot restore the state of the input:
    a generator has advanced, a `tf.data.Dataset.shuffle` draws its next order, the
    `on_epoch_end` of a `PyDataset` has been called, and threads that prefetch may have
    drawn from global generators.

    Under gradient accumulation a step is a micro-batch. A batch without an update does
    not count, whether a `LossScaleOptimizer` skips it or a custom `train_step` updates
    once in several batches. If such a `train_step` updates several times per batch, the
    rate grows with each update, and the curve shows the first update of each batch.
    With several optimizers, rates are those of the optimizer that updates most. Under a
    `MirroredStrategy`, TensorFlow may take minutes to end any `fit` that stops within
    an epoch, as the test does.

    Args:
        model: A compiled model.
        x: Input data, in any form that `fit` takes. Data shorter than `num_steps`
            batches is repeated; with a generator, the test ends when the data does.
        y: Target data, as in `fit`.
        min_learning_rate: The first rate, >= 2**-126; >= 0 with `"linear"`.
        max_learning_rate: The last rate, > `min_learning_rate`.
        num_steps: The number of steps, >= 2. Fewer than 30 give too short a curve.
        shape: How the rate grows: `"exponential"` or `"linear"`.
        smoothing: The share of past losses that the smoothed loss keeps, in [0, 1).
        stop_factor: The test ends when the smoothed loss exceeds its lowest value by
            `stop_factor - 1` times that value (so at 4 times a positive one), > 1. The
            first tenth of the steps is left out. The test also ends when a loss is NaN
            or infinite.
        validation_data: Data as `fit` takes it, on which the model is evaluated as
            well. `RangeTest.suggestion("bounds")` reads this curve. None evaluates
            nothing.
        validation_points: The number of evenly spaced steps at which to evaluate, >= 4.
            The weights at each of them are held in the host's memory until the test is
            over.
        monitor: The metric of that curve. None is the accuracy if there is one, and the
            loss otherwise.
        **fit_arguments: Further arguments of `fit`, such as `batch_size`,
            `sample_weight`, `class_weight`, `shuffle`, `steps_per_epoch` or
            `validation_split`, whose part of the data is left out. `verbose=0` shows no
            progress bar.

    Returns:
        The curve, as a `RangeTest`.

    Raises:
        ValueError: If no update is made in 1000 batches in a row, if an argument is out
            of range, if `callbacks` or `epochs` are given, if `monitor` is not a metric
            of the model, if the model is not compiled or has no trainable weights, or
            if the optimizer does not accept a rate as large as the last.
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
    points = fields.validate(
        "validation_points", validation_points, fields.integer(at_least=4)
    )
    if monitor is not None and (not isinstance(monitor, str) or not monitor):
        fields.refuse("monitor", "be a name or None", monitor, TypeError)
    verbose = fit_arguments.pop("verbose", "auto")
    _check_fit_arguments(fit_arguments)
    for name in ("validation_steps", "validation_batch_size"):
        if validation_data is None and fit_arguments.get(name) is not None:
            bound = "be given with `validation_data` only, or be None"
            fields.refuse(name, bound, fit_arguments[name])
    if not isinstance(model, keras.Model):
        fields.refuse("model", "be a `keras.Model`", model, TypeError)
    if not models.updating(model):
        fields.refuse("model", "be compiled with an optimizer", model)

    recorder = _LossRecorder(schedule, num_steps, smoothing, stop_factor, verbose)
    recorder.once = isinstance(x, types.GeneratorType)
    if validation_data is not None:
        looks = np.linspace(1, num_steps, min(points, num_steps))
        recorder.looks = set(looks.round().astype(int).tolist())
    with interrupts.undoing() as undo:
        undo.callback(FitSideEffects(model).undo)
        undo.callback(recorder.restore)
        undo.callback(recorder.leave)
        if model.steps_per_execution != 1:  # The test needs the loss of every step.
            model.steps_per_execution = 1
            model.train_function = None
        with built_first(model):
            model.fit(
                x,
                y,
                **{
                    **fit_arguments,
                    # The recorder ends the run, so validation never happens.
                    "epochs": _ENDLESS,
                    "validation_freq": _ENDLESS + 1,
                    "callbacks": [recorder],
                    "verbose": 0,
                },
            )
        test = recorder.result()
        if validation_data is not None:
            scores = [
                _score(model, values, validation_data, fit_arguments)
                for _, values in recorder.copies
            ]
            rates = np.array([rate for rate, _ in recorder.copies])
            test = _with_metric(test, rates, scores, monitor, model)
    return test


def _score(model, values, data, fit_arguments):
    """Evaluates the model with the values that its variables had."""
    write(model.variables, values)
    size = fit_arguments.get("batch_size")
    given = data if isinstance(data, tuple) else (data,)
    names = ("x", "y", "sample_weight")
    return model.evaluate(
        **dict(zip(names, given, strict=False)),
        batch_size=fit_arguments.get("validation_batch_size") or size,
        steps=fit_arguments.get("validation_steps"),
        verbose=0,
        return_dict=True,
    )


def _with_metric(test, rates, scores, monitor, model):
    """Adds the curve of the metric; None is the accuracy or the loss."""
    known = scores[0]
    if monitor is None:
        monitor = next((name for name in known if "acc" in name), "loss")
    if monitor not in known:
        bound = f"be one of {', '.join(known)}, which the model has"
        fields.refuse("monitor", bound, monitor)
    values = np.array([score[monitor] for score in scores], "float64")
    return dataclasses.replace(
        test,
        metric_learning_rates=rates,
        metrics=values,
        monitor=monitor,
        mode=metrics.told(monitor, model) or "auto",
    )


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
            bound = f"not be given to `range_test`: {_REFUSED[name]}"
            fields.refuse(name, bound, value)
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
        self.position = self.waited = self.batches = 0
        self.once = False  # Whether the data can be read only once.
        self.diverged = False
        self.looks: set[int] = set()  # After how many steps to copy the variables.
        self.copies: list[tuple[float, list[np.ndarray]]] = []

    def prepare(self, run: Run) -> list[Wanted]:
        """Drives the rate of every optimizer, whatever sets it otherwise."""
        given = ("learning_rate", self.schedule)
        return [
            Wanted(optimizer, ReplacedRate, given, slot="learning_rate")
            for optimizer in run.optimizers
        ]

    def fit_begins(self, epoch: int) -> None:
        """Keeps the state that will be restored."""
        if not self._model.trainable_variables:
            bound = "have weights to train: all of its layers are frozen"
            fields.refuse("model", bound, self._model)
        # Not earlier, because a first `fit` draws random numbers to build the model.
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
            # Gradients overflowed or were accumulated, which must end at some point.
            self.waited += 1
            self._model.stop_training = self.waited >= _PATIENCE
            # Without a loss scale the weights would be NaN by now.
            self.diverged = self._model.stop_training and self._scales_losses
            return
        self.waited = 0
        self.used.append(rate)
        self.losses.append(loss)
        self.diverged = self._diverges(loss)
        if self.looks.intersection(range(before + 1, self.position + 1)):
            self.copies.append((rate, self._run.read(self._model.variables)))
        over = self.diverged or self.position >= len(self.rates)
        self.progress.update(
            len(self.losses),
            [("loss", loss), ("learning_rate", rate)],
            finalize=over,
        )
        self._model.stop_training = over

    @property
    def _scales_losses(self):
        held = self._run.progress.held
        return any(optimizers.may_skip(held, one) for one in self._run.optimizers)

    def _diverges(self, loss):
        keep = self.smoothing
        self.average = keep * self.average + (1.0 - keep) * loss
        smoothed = self.average / (1.0 - keep ** len(self.losses))
        lowest = self.lowest
        # The first averages cover few batches, so one easy batch would end the test.
        if len(self.losses) > unread(len(self.rates)):
            self.lowest = min(lowest, smoothed)
        # Equals `smoothed > stop_factor * lowest`, but works for negative losses too.
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
        if self.waited and not self.losses and self._scales_losses:
            raise ValueError(
                "The optimizer made no update: gradients overflowed in every step, so "
                "that a `LossScaleOptimizer` skipped it. Lower its `initial_scale`."
            )
        if not self.diverged and (
            self.waited >= _PATIENCE or (self.waited and not self.losses)
        ):
            raise ValueError(
                f"The model's `train_step` made no update in {self.waited} batches in "
                f"a row, after {self.position} updates. Let it call an optimizer that "
                "the model holds, and give enough data for an update."
            )
        if not self.losses:
            raise ValueError("Argument `x` must hold at least one batch.")
        return RangeTest(
            np.array(self.used),
            np.array(self.losses),
            len(self.rates),
            self.smoothing,
            self.diverged,
        )


_LossRecorder.__name__ = "range_test"  # What messages call it.
