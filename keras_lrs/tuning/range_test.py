"""The learning-rate range test: which rates a model learns at, in a hundred steps."""

import dataclasses
import inspect
import math
import os
import types
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_lrs import training
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.callbacks.fit import Fit
from keras_lrs.schedules import fields, plotting
from keras_lrs.schedules.decays import BoundedExponentialDecay, LinearDecay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("valley", "steepest", "minimum", "slide")
"""The ways to read a rate off a curve."""

_SLIDE_WINDOW, _SLIDE_THRESHOLD = 15, 0.005  # In steps, and in loss per step.
_ROUNDING = 1e-12  # Of a flat curve, when it is smoothed.
_REFUSED = {
    "callbacks": "what they change could not be put back",
    "epochs": "the data is repeated as often as `num_steps` needs",
    "initial_epoch": "the data is repeated as often as `num_steps` needs",
}


_SMOOTHING = fields.number(at_least=0.0, below=1.0)


class Suggestions(dict[str, float | None]):
    """The rates that the methods suggest, by name; None where there is none."""

    @property
    def spread(self) -> float | None:
        """The largest over the smallest: how far they disagree; None if none exists."""
        rates = [rate for rate in self.values() if rate is not None]
        return max(rates) / min(rates) if rates else None

    def __str__(self):
        lines = [
            f"{method:<10}{'none' if rate is None else f'{rate:.3g}'}"
            for method, rate in self.items()
        ]
        if self.spread is not None:
            lines.append(f"They differ by a factor of {self.spread:.3g}.")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, eq=False)
class RangeTest:
    """The curve of a range test, and what can be read off it.

    Args:
        learning_rates: The rate of each step, float64 of shape `(steps,)`.
        losses: The loss of each step's batch, before its update; float64 of the same
            shape. The last may be NaN or infinite.
        num_steps: How many steps were planned; the first tenth of them is not read.
        smoothing: How much of the past a smoothed loss keeps, in [0, 1).
        diverged: Whether the test stopped because the loss did.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    num_steps: int
    smoothing: float = 0.98
    diverged: bool = False

    def __post_init__(self):
        shapes = []
        for name in ("learning_rates", "losses"):
            values = getattr(self, name)
            if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
                fields.refuse(name, "be an array of numbers", values, TypeError)
            shapes.append(values.shape)
        if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
            bound = f"be as many numbers as `learning_rates`: {shapes[0]}"
            fields.refuse("losses", bound, self.losses)
        given = {
            "num_steps": fields.count("num_steps", self.num_steps, 1),
            "smoothing": _checked("smoothing", self.smoothing, _SMOOTHING),
            "diverged": fields.truth("diverged", self.diverged),
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def __repr__(self):
        rates, suggestion = self.learning_rates, self.suggestion()
        told = [f"{len(rates)} of {self.num_steps} steps"]
        if len(rates) > 0:
            told.append(f"learning rates from {rates[0]:.3g} to {rates[-1]:.3g}")
        told.append("diverged" if self.diverged else "did not diverge")
        told.append(
            f"suggestion {'none' if suggestion is None else f'{suggestion:.3g}'}"
        )
        return f"<RangeTest: {', '.join(told)}>"

    @property
    def smoothed(self) -> np.ndarray:
        """The exponential average of the losses, with its bias corrected."""
        average, smoothed = 0.0, []
        for step, loss in enumerate(self.losses.tolist()):
            average = self.smoothing * average + (1.0 - self.smoothing) * loss
            smoothed.append(average / (1.0 - self.smoothing ** (step + 1)))
        return np.array(smoothed)

    def suggestion(self, method: str = "valley") -> float | None:
        """A learning rate to train with, read off the smoothed curve.

        The first tenth of the planned steps is left out, where the average is over few
        batches, and the last five, where the loss explodes. What is left must fall
        below where it begins, or there is no suggestion.

        Args:
            method: `"valley"`: the middle of the longest decreasing part, counted in
                steps. `"steepest"`: where the loss falls fastest, over the logarithm of
                the rate. `"minimum"`: a tenth of the rate of the lowest loss.
                `"slide"`: from the right to where the slope has settled.

        Returns:
            A rate, to be used as it is: as the peak of `OneCycle`, as the maximum of
            `CyclicalLearningRate`, or as a fixed rate. None where there is none.

        Raises:
            ValueError: If there is no such method.

        Reference: fastai, `fastai.callback.schedule` (the four methods).
        """
        fields.one_of("method", method, METHODS)
        rates, losses = self._readable
        if len(losses) < 2:
            return None
        if not losses[0] - losses.min() > _ROUNDING * abs(losses[0]):
            return None
        index = {
            "valley": _valley,
            "steepest": _steepest,
            "minimum": lambda rates, losses: int(losses.argmin()),
            "slide": _slide,
        }[method](rates, losses)
        if index is None:
            return None
        return float(rates[index]) / (10.0 if method == "minimum" else 1.0)

    def suggestions(self) -> Suggestions:
        """What each method suggests, and by what factor they differ (`.spread`)."""
        return Suggestions({method: self.suggestion(method) for method in METHODS})

    def plot(self, path: str | os.PathLike | None = None) -> "Figure":
        """Draws the losses over the rates, with the suggestions marked.

        Args:
            path: Where to save the picture, in the format of its suffix; None does not.

        Returns:
            A `matplotlib.figure.Figure`; a notebook shows it.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the suffix of `path` is not that of a picture.
        """
        path = plotting.picture(path)
        figure, axes = plotting.new_figure("RangeTest.plot", 5.0)
        rates, smoothed = self.learning_rates, self.smoothed
        axes.plot(rates, self.losses, ".", color="C0", alpha=0.3, label="loss of batch")
        axes.plot(rates, smoothed, color="C0", label="smoothed")
        for index, (method, rate) in enumerate(self.suggestions().items()):
            if rate is not None:
                loss = np.interp(rate, rates, smoothed)
                label = f"{method}: {rate:.3g}"
                color = f"C{index + 1}"
                axes.plot(rate, loss, "o", color=color, markersize=9, label=label)
        # A point that exploded would flatten all others.
        seen = smoothed[np.isfinite(smoothed)]
        if len(seen) > 0:
            low, high = seen.min(), max(seen[: max(len(seen) - 5, 1)].max(), seen[0])
            margin = 0.2 * (high - low) or 1.0
            axes.set_ylim(low - margin, high + margin)
        if rates[0] > 0.0 and rates[-1] > 100.0 * rates[0]:
            axes.set_xscale("log")
        axes.set(xlabel="learning rate", ylabel="loss")
        axes.grid(alpha=0.3)
        axes.legend()
        return plotting.finished(figure, path)

    @property
    def _readable(self):
        """The rates and smoothed losses that a suggestion may be read off."""
        part = slice(_unread(self.num_steps), max(len(self.losses) - 5, 0))
        rates, losses = self.learning_rates[part], self.smoothed[part]
        finite = np.isfinite(losses)
        end = len(losses) if finite.all() else int(finite.argmin())
        return rates[:end], losses[:end]


def _unread(num_steps):
    """How many steps at the beginning are not looked at."""
    return num_steps // 10


def _valley(rates, losses):
    """The middle of the steep third of the longest decreasing subsequence."""
    lengths = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        higher = lengths[:i][losses[:i] > losses[i]]
        lengths[i] = 1 + higher.max(initial=0)
    end = int(lengths.argmax())
    # It hardly has gaps, the curve being smooth: it is taken to be one piece.
    start = max(end - int(lengths[end]), 0)
    third = (end - start) / 3
    return start + int(third) + int(third / 2)


def _steepest(rates, losses):
    return int((np.diff(losses) / np.diff(np.log(rates))).argmin())


def _slide(rates, losses):
    """Slides a window from the right until the slope at both its ends is the same."""
    slopes = np.gradient(losses)
    for left in range(len(losses) - 1 - _SLIDE_WINDOW, -1, -1):
        if abs(slopes[left + _SLIDE_WINDOW] - slopes[left]) <= _SLIDE_THRESHOLD:
            return min(left + 1, len(losses) - 1 - _SLIDE_WINDOW)
    return None


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

    Afterwards the training can begin as if there had been no test, however the test
    ended: every weight, statistic, seed, metric and variable of the optimizer, its rate
    or schedule, the generators of random numbers of Python, NumPy, Keras, TensorFlow
    and PyTorch, and `model.history` are bit for bit what they were. Only a model that
    was not built is built, as its first `fit` would do. Out of reach is what the input
    keeps for itself: a generator has been advanced, a `tf.data.Dataset.shuffle` draws
    its next order, a `PyDataset` has had its `on_epoch_end`, threads that fetch ahead
    may have drawn from global generators.

    Under gradient accumulation a step is a micro-batch. Updates that a
    `LossScaleOptimizer` skips are made up for. Under a `MirroredStrategy` TensorFlow
    may take minutes to end any `fit` that stops within an epoch, as this one does.

    Args:
        model: A compiled model.
        x: Input data, in any form that `fit` takes. Data that is shorter than
            `num_steps` batches is repeated; the test ends with a generator.
        y: Target data, as in `fit`.
        min_learning_rate: The first rate, >= 2**-126; >= 0 with `"linear"`.
        max_learning_rate: The last rate, > `min_learning_rate`.
        num_steps: How many steps, >= 2. Fewer than 30 leave little to read.
        shape: How the rate grows: `"exponential"` or `"linear"`.
        smoothing: How much of the past the smoothed loss keeps, in [0, 1).
        stop_factor: The test ends where the smoothed loss is above its lowest value by
            `stop_factor - 1` times that (4 times a positive one), > 1, the first tenth
            of the steps left out; and where a loss is NaN or infinite.
        **fit_arguments: Further arguments of `fit`, such as `batch_size`,
            `sample_weight`, `class_weight`, `shuffle` or `steps_per_epoch`. Nothing is
            validated. `verbose=0` shows no progress bar.

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
    num_steps = _checked(
        "num_steps", num_steps, fields.integer(at_least=2, at_most=2**20)
    )
    schedule = _growth(min_learning_rate, max_learning_rate, num_steps, shape)
    smoothing = _checked("smoothing", smoothing, _SMOOTHING)
    stop_factor = _checked("stop_factor", stop_factor, fields.number(above=1.0))
    verbose = fit_arguments.pop("verbose", "auto")
    _check_fit_arguments(fit_arguments)
    if not isinstance(model, keras.Model):
        fields.refuse("model", "be a `keras.Model`", model, TypeError)
    if getattr(model, "optimizer", None) is None:
        fields.refuse("model", "be compiled with an optimizer", model)

    recorder = _Recorder(schedule, num_steps, smoothing, stop_factor, verbose)
    recorder.once = isinstance(x, types.GeneratorType)
    surface = training.Surface(model)
    try:
        if model.steps_per_execution != 1:  # Every step is to show its loss.
            model.steps_per_execution = 1
            model.train_function = None
        with training.built_first(model):
            model.fit(
                x,
                y,
                **{
                    **fit_arguments,
                    # There are as many batches as this even if each is an epoch, and
                    # half of them are skipped; validation would come after them.
                    "epochs": 2 * num_steps,
                    "validation_freq": 2 * num_steps + 1,
                    "callbacks": [recorder],
                    "verbose": 0,
                },
            )
    finally:
        recorder.restore()
        surface.restore()
    return recorder.result()


def _checked(name, value, field):
    return fields.validate(name, value, field)


def _growth(min_learning_rate, max_learning_rate, num_steps, shape):
    """The schedule of the rate."""
    shape = _checked("shape", shape, fields.choice(("exponential", "linear")))
    exponential = shape == "exponential"
    first = _checked(
        "min_learning_rate", min_learning_rate, fields.rate(positive=exponential)
    )
    last = _checked(
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


class _Recorder(FitCallback):
    """Drives the rate, records the losses and stops."""

    every_step = True
    fresh_metrics = True

    def __init__(self, schedule, num_steps, smoothing, stop_factor, verbose):
        super().__init__()
        self.schedule = schedule
        self.rates = schedule.curve(num_steps)
        self.smoothing, self.stop_factor = smoothing, stop_factor
        self.verbose = 1 if verbose == "auto" else verbose
        self.state: training.State | None = None
        self.used: list[float] = []
        self.losses: list[float] = []
        self.average, self.lowest = 0.0, math.inf
        self.position = self.skipped = self.batches = 0
        self.once = False  # Whether the data cannot be gone through a second time.
        self.diverged = False

    def prepare(self, fit: Fit) -> None:
        """Drives the rate of every optimizer, whatever it comes from."""
        for optimizer in fit.optimizers:
            fit.drive(self, optimizer, "learning_rate", self.schedule, instead=True)

    def fit_begins(self, epoch: int) -> None:
        """Remembers what is to be put back."""
        # Not earlier: a first `fit` draws random numbers to build the model.
        self.state = training.State(self._model)
        self.progress = keras.utils.Progbar(
            len(self.rates),
            verbose=self.verbose,
            stateful_metrics=["loss", "learning_rate"],
        )

    def epoch_begins(self, epoch: int) -> None:
        """Counts the batches of the epoch."""
        self.batches = 0

    def step_ends(self, logs: Any) -> None:
        """Records a step, and sees whether it was the last."""
        self.batches += 1
        if "loss" not in logs:
            raise ValueError(
                "`range_test` needs the `loss` in what `train_step` returns. Received: "
                f"{', '.join(logs)}"
            )
        loss, rate = training.number(logs["loss"]), self.rates[self.position]
        before, self.position = self.position, self._fit.position
        if self.position == before and math.isfinite(loss):
            # A step whose gradients overflowed is made up for, but not for ever.
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
        # The first ones are averages over a few batches: an easy one would end it.
        if len(self.losses) > _unread(len(self.rates)):
            self.lowest = min(lowest, smoothed)
        # As `smoothed > stop_factor * lowest`, but also for negative losses.
        margin = (self.stop_factor - 1.0) * abs(lowest)
        return not math.isfinite(loss) or smoothed > lowest + margin

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """Stops where the data has come to its end."""
        expected = self._fit.steps_per_epoch or math.inf
        # Of a generator at its end Keras goes on giving out the first batch.
        if self.batches == 0 or (self.once and self.batches < expected):
            self._model.stop_training = True

    def restore(self) -> None:
        """Puts everything back."""
        if self.fit is not None:
            self.fit.close()
        if self.state is not None:
            self.state.restore()

    def result(self) -> RangeTest:
        """The curve."""
        if not self.losses:
            raise ValueError("Argument `x` must hold at least one batch.")
        return RangeTest(
            np.array(self.used),
            np.array(self.losses),
            len(self.rates),
            self.smoothing,
            self.diverged,
        )
