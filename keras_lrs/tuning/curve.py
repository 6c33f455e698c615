"""The curve of a learning-rate range test, and the rates that it suggests."""

import dataclasses
import os
from typing import TYPE_CHECKING, Literal, get_args, overload

import numpy as np

from keras_lrs._keras import metrics
from keras_lrs.schedules import fields, plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["valley", "steepest", "minimum", "slide"]
METHODS: tuple[Method, ...] = get_args(Method)
"""The ways to read a rate off a curve."""

BOUNDS = "bounds"
_BEGUN, _SLOWED, _RAGGED = 0.1, 0.9, 0.1  # Shares of the metric's total gain.

_SLIDE_WINDOW, _SLIDE_THRESHOLD = 15, 0.005  # In steps, and in loss per step.
_ROUNDING = 1e-12  # Relative, when a flat curve is smoothed.
SMOOTHING = fields.number(at_least=0.0, below=1.0)
"""The condition on the argument `smoothing`."""


class Suggestions(dict[str, float | None]):
    """The rates that the methods suggest, by their names; None if there is none."""

    @property
    def spread(self) -> float | None:
        """The ratio of the largest rate to the smallest; None if there is no rate."""
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
    """The curve of a range test, which suggests learning rates.

    Args:
        learning_rates: The rate of each step, float64 of shape `(steps,)`.
        losses: The loss of each step's batch, before its update; float64 of the same
            shape. The last may be NaN or infinite.
        num_steps: The number of steps planned; the first tenth of them is ignored.
        smoothing: The share of past losses that the smoothed loss keeps, in [0, 1).
        diverged: Whether the test stopped because the loss diverged.
        metric_learning_rates: The rates after which the model was evaluated, in rising
            order; None if it was not.
        metrics: The results of the evaluations, of the same shape.
        monitor: The name of that metric.
        mode: `"min"`, `"max"`, or `"auto"`, which goes by the last telling word of the
            name ("accuracy" rises, "loss" falls).
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    num_steps: int
    smoothing: float = 0.98
    diverged: bool = False
    metric_learning_rates: np.ndarray | None = None
    metrics: np.ndarray | None = None
    monitor: str = ""
    mode: str = "auto"

    def __post_init__(self):
        self._check_pair("learning_rates", "losses")
        if (self.metrics is None) != (self.metric_learning_rates is None):
            bound = "be given with `metric_learning_rates`, or both be None"
            fields.refuse("metrics", bound, self.metrics, TypeError)
        if self.metrics is not None:
            self._check_pair("metric_learning_rates", "metrics")
        if not isinstance(self.monitor, str):
            fields.refuse("monitor", "be a name", self.monitor, TypeError)
        given = {
            "num_steps": fields.count("num_steps", self.num_steps, 1),
            "smoothing": fields.validate("smoothing", self.smoothing, SMOOTHING),
            "diverged": fields.truth("diverged", self.diverged),
            "mode": fields.one_of("mode", self.mode, ("auto", "min", "max")),
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def _check_pair(self, rates, numbers):
        """Checks that two fields are arrays of the same length."""
        shapes = []
        for name in (rates, numbers):
            values = getattr(self, name)
            if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
                fields.refuse(name, "be an array of numbers", values, TypeError)
            shapes.append(values.shape)
        if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
            bound = f"be as many numbers as `{rates}`: {shapes[0]}"
            fields.refuse(numbers, bound, getattr(self, numbers))

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
        """The exponential average of the losses, corrected for bias."""
        average, smoothed = 0.0, []
        for step, loss in enumerate(self.losses.tolist()):
            average = self.smoothing * average + (1.0 - self.smoothing) * loss
            smoothed.append(average / (1.0 - self.smoothing ** (step + 1)))
        return np.array(smoothed)

    @overload
    def suggestion(self, method: Literal["bounds"]) -> tuple[float, float] | None: ...

    @overload
    def suggestion(self, method: Method = "minimum") -> float | None: ...

    def suggestion(self, method="minimum"):
        """Suggests a learning rate, read off the smoothed curve.

        The first tenth of the planned steps is left out, because there the average
        covers few batches, and the last five steps, where the loss explodes. If the
        rest never falls below its first value, there is no suggestion.

        Args:
            method: `"minimum"`: a tenth of the rate with the lowest loss, for cycles
                and 1cycle. `"steepest"`: the rate at which the loss falls fastest, over
                the logarithm of the rate. `"valley"`: the middle of the longest
                decreasing part, counted in steps, which errs on the low side.
                `"slide"`: from the right to where the slope has settled. `"bounds"`:
                Smith's pair (section 3.3), read off the curve of the metric: where it
                begins to improve (the last rate before a tenth of its total gain), and
                where it slows (nine tenths of the gain) or becomes ragged (it loses a
                tenth), whichever comes first.

        Returns:
            A rate that can be used unchanged: as the peak of `OneCycle`, as the maximum
            of `CyclicalLearningRate`, or as a fixed rate. For `"bounds"` a pair, for
            the two ends of `CyclicalLearningRate`. None if there is no suggestion.

        Raises:
            ValueError: If the method is not known, or if it is `"bounds"` and the test
                had no `validation_data`.

        Reference: fastai, `fastai.callback.schedule` (the four methods). Smith, 2015,
        arXiv:1506.01186, section 3.3 (the bounds).
        """
        fields.one_of("method", method, (*METHODS, BOUNDS))
        if method == BOUNDS:
            return self._bounds()
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

    def _bounds(self):
        if self.metrics is None or self.metric_learning_rates is None:
            raise ValueError(
                'Argument `method` must not be "bounds" without the curve of a metric: '
                "give `range_test` the argument `validation_data`"
            )
        mode = metrics.direction(self.monitor) if self.mode == "auto" else self.mode
        sign = 1.0 if mode == "max" else -1.0
        return _bounds(self.metric_learning_rates, sign * self.metrics)

    def suggestions(self) -> Suggestions:
        """Returns the suggestion of each method that gives one rate.

        Its `.spread` is the factor by which they differ.
        """
        return Suggestions({method: self.suggestion(method) for method in METHODS})

    def plot(self, path: str | os.PathLike | None = None) -> "Figure":
        """Draws the losses over the rates and marks the suggestions.

        Args:
            path: The file for the picture, in the format of its suffix; None does not
                save it.

        Returns:
            A `matplotlib.figure.Figure`; a notebook shows it.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the suffix of `path` is not that of a picture.
            OSError: If the file cannot be written; the old version is kept.
        """
        with plotting.drawn("RangeTest.plot", path, height=5.0) as figure:
            axes = figure.add_subplot()
            rates, smoothed = self.learning_rates, self.smoothed
            axes.plot(
                rates, self.losses, ".", color="C0", alpha=0.3, label="loss of batch"
            )
            axes.plot(rates, smoothed, color="C0", label="smoothed")
            for index, (method, rate) in enumerate(self.suggestions().items()):
                if rate is not None:
                    loss = np.interp(rate, rates, smoothed)
                    label = f"{method}: {rate:.3g}"
                    color = f"C{index + 1}"
                    axes.plot(rate, loss, "o", color=color, markersize=9, label=label)
            # A loss that exploded would flatten the rest of the plot.
            seen = smoothed[np.isfinite(smoothed)]
            if len(seen) > 0:
                low = seen.min()
                high = max(seen[: max(len(seen) - 5, 1)].max(), seen[0])
                margin = 0.2 * (high - low) or 1.0
                axes.set_ylim(low - margin, high + margin)
            if rates[0] > 0.0 and rates[-1] > 100.0 * rates[0]:
                axes.set_xscale("log")
            axes.set(xlabel="learning rate", ylabel="loss")
            axes.grid(alpha=0.3)
            axes.legend()
            if self.metrics is not None:
                self._draw_metric(axes.twinx())
        return figure

    def _draw_metric(self, axes):
        """Draws the metric on a separate axis, and its bounds."""
        axes.plot(self.metric_learning_rates, self.metrics, "C7s-", markersize=3)
        for rate in self.suggestion("bounds") or ():
            axes.axvline(rate, color="C7", linestyle=":")
        axes.set_ylabel(self.monitor)

    @property
    def _readable(self):
        """The rates and smoothed losses from which suggestions are read."""
        part = slice(unread(self.num_steps), max(len(self.losses) - 5, 0))
        rates, losses = self.learning_rates[part], self.smoothed[part]
        finite = np.isfinite(losses)
        end = len(losses) if finite.all() else int(finite.argmin())
        return rates[:end], losses[:end]


def unread(num_steps):
    """Returns how many steps at the beginning are ignored."""
    return num_steps // 10


def _bounds(rates, values):
    """Finds the rates between which the values rise; None if they do not."""
    finite = np.isfinite(values)
    values = values[: len(values) if finite.all() else int(finite.argmin())]
    if len(values) < 2 or not (gain := values.max() - values[0]) > 0.0:
        return None
    share = (values - values[0]) / gain
    low = max(int((share > _BEGUN).argmax()) - 1, 0)
    falls = np.maximum.accumulate(share) - share > _RAGGED
    falls[: low + 1] = False
    slowed = int((share >= _SLOWED).argmax())
    ragged = int(falls.argmax()) - 1 if falls.any() else slowed
    high = min(slowed, ragged)
    return (float(rates[low]), float(rates[high])) if high > low else None


def _valley(rates, losses):
    """Finds the middle of the steep third of the longest decreasing subsequence."""
    lengths = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        higher = lengths[:i][losses[:i] > losses[i]]
        lengths[i] = 1 + higher.max(initial=0)
    end = int(lengths.argmax())
    # The curve is smooth and has few gaps, so treat it as one piece.
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
