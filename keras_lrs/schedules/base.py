"""The base classes of schedules: hooks, binding, curves and cycles."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, dataclass_transform

import keras
import numpy as np
from keras import ops

from keras_lrs.schedules import durations, fields, numerics, sparkline
from keras_lrs.schedules.durations import Window

T = TypeVar("T")


class Schedule(fields.Configured, keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate as a function of the training step.

    `schedule(0)` is the rate of the first update. Pass a schedule to any Keras
    optimizer, and it is evaluated inside the training step.

    Instances are immutable. They are equal if their classes and arguments are equal.
    Subclasses are frozen dataclasses. Decorate yours with
    `@dataclasses.dataclass(frozen=True)` and, to save it,
    `@keras.saving.register_keras_serializable(package=...)`, and implement `call` (or
    `profile`, for a `Decay`) with operators and `keras.ops`.
    """

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of the update that follows `step` updates.

        Args:
            step: An integer or float in Python, NumPy or the backend, a Keras Variable
                (`optimizer.iterations`), or a vector of steps. Negative steps count as
                0, and floats are rounded down.

        Returns:
            A float tensor of the step's shape; a float64 NumPy array for a NumPy array.

        Raises:
            ValueError: If the schedule is not bound, or a step is NaN or infinite.
            TypeError: If `step` is not a number.
        """
        check_bound(self)
        if isinstance(step, np.ndarray) and step.ndim == 0:
            return self(step[None])[0, ...]
        step = numerics.to_steps(step)
        return numerics.to_learning_rate(self.call(step), step)

    def call(self, step: Any) -> Any:
        """Returns the value at integer time, written with the functions of `numerics`.

        Args:
            step: An int >= 0, an int64 NumPy array, or an integer tensor.

        Returns:
            A float, a float64 NumPy array, or a float tensor, like `step`.
        """
        raise NotImplementedError

    def curve(self, num_steps: int) -> np.ndarray:
        """Returns the first `num_steps` values.

        Args:
            num_steps: The number of steps, >= 0.

        Returns:
            A float64 array of shape `(num_steps,)`.

        Raises:
            ValueError: If the schedule is not bound or `num_steps` is negative.

        Example:
            >>> from keras_lrs.schedules import LinearDecay
            >>> LinearDecay(1.0, 4).curve(6).tolist()
            [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
        """
        return self(np.arange(fields.count("num_steps", num_steps, 0)))

    def cycle_ends(self, num_steps: int) -> list[int]:
        """Returns the numbers of completed steps at which cycles end.

        Args:
            num_steps: The number of steps to consider, >= 0. A cycle that ends exactly
                there is included.

        Returns:
            Python ints in increasing order; empty for a schedule without cycles.

        Raises:
            ValueError: If the schedule is not bound or `num_steps` is negative.

        Example:
            >>> from keras_lrs.schedules import CosineRestarts
            >>> CosineRestarts(1.0, 10, t_mul=2.0).cycle_ends(100)
            [10, 30, 70]
        """
        check_bound(self)
        return sorted(self._cycle_ends(fields.count("num_steps", num_steps, 0)))

    def bind(
        self,
        total_steps: int,
        steps_per_epoch: int | None = None,
        *,
        samples_per_step: int | None = None,
        tokens_per_step: int | None = None,
    ) -> "Schedule":
        """Returns the same schedule with every length as a number of steps.

        Positions are rounded (halves up), and lengths are not: two halves of 55 steps
        end at 28 and 55. No piece is ever empty, unless its length is 0.

        Args:
            total_steps: The steps of the whole run, > 0. A `Fraction` is a fraction of
                it, and None lasts until its end.
            steps_per_epoch: The steps per epoch, > 0; needed only for `Epochs`.
            samples_per_step: The global batch size, > 0; needed only for `Samples`.
            tokens_per_step: The tokens per batch, > 0; needed only for `Tokens`.

        Returns:
            A schedule of the same class.

        Raises:
            ValueError: If an argument is not > 0, if an argument that `Epochs`,
                `Samples` or `Tokens` need is None, or if the lengths do not fit once
                they are known.

        Example:
            >>> from keras_lrs.schedules import CosineAnnealing, Epochs, Warmup
            >>> bound = Warmup(CosineAnnealing(0.1), Epochs(2)).bind(1000, 50)
            >>> bound.warmup_steps, bound.schedule.decay_steps
            (100, 900)
        """
        return self._bind(
            window_of_run(
                total_steps, steps_per_epoch, samples_per_step, tokens_per_step
            )
        )

    # `0.5 * schedule`, `schedule * schedule` and `schedule + schedule`. `combinators`
    # sets them, because it imports this module.
    __mul__: ClassVar[Callable[[Any, Any], "Schedule"]]
    __rmul__: ClassVar[Callable[[Any, Any], "Schedule"]]
    __add__: ClassVar[Callable[[Any, Any], "Schedule"]]
    __radd__: ClassVar[Callable[[Any, Any], "Schedule"]]
    # Makes NumPy's numbers leave these operators to us.
    __array_ufunc__ = None

    @property
    def is_bound(self) -> bool:
        """Whether every length is a number of steps, so that it can be called.

        Example:
            >>> from keras_lrs.schedules import Epochs, LinearDecay, Warmup
            >>> schedule = Warmup(LinearDecay(0.1), Epochs(5))
            >>> schedule.is_bound, schedule.bind(1000, 20).is_bound
            (False, True)
        """
        return not self._unbound

    def _repr_html_(self) -> str:
        """Returns the call and the curve, which notebooks show."""
        return sparkline.markup(self)

    # --- For schedules that contain others ---

    def _bind(self, window: Window) -> "Schedule":
        """Binds every field to a window; overridden if pieces follow each other."""
        return self._replaced(
            {
                field.name: _BINDERS[_kind(field)](
                    field.name, getattr(self, field.name), window
                )
                for field in dataclasses.fields(self)
                if _kind(field) in _BINDERS
            }
        )

    def _replaced(self, changes: dict[str, Any]) -> "Schedule":
        """Returns the schedule with other arguments; itself if none differs."""
        if all(getattr(self, name) is value for name, value in changes.items()):
            return self
        return dataclasses.replace(self, **changes)

    def _cycle_ends(self, num_steps: int) -> set[int]:
        """Returns cycle ends in `[1, num_steps]`, by default of the inner schedules."""
        ends: set[int] = set()
        for _, inner in self._inner():
            ends |= cycle_ends(inner, num_steps)
        return ends

    def _inner(self):
        """Yields pairs of a place in this schedule and the schedule there."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            items = value if _is_list(value) else (value,)
            schedule = keras.optimizers.schedules.LearningRateSchedule
            if not _has_any(items, schedule):
                continue
            for index, item in enumerate(items):
                if isinstance(item, schedule):
                    name = f"{field.name}[{index}]" if _is_list(value) else field.name
                    yield name, item

    def _open(self, in_cycle: bool = False) -> list[tuple[str, Any]]:
        """Returns names and values of arguments that are not numbers of steps yet.

        Inside a cycle, lengths that depend on the cycle do not count as open.
        """
        found = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if _is_open(_kind(field), value, in_cycle):
                found.append((field.name, value))
        return found + self._open_inside(in_cycle)

    def _open_inside(self, in_cycle: bool) -> list[tuple[str, Any]]:
        return [
            (f"{name}.{inside}", value)
            for name, inner in self._inner()
            if isinstance(inner, Schedule)
            for inside, value in inner._open(in_cycle)
        ]

    @functools.cached_property
    def _unbound(self) -> str:
        """The reason why this schedule cannot be used yet; empty if it can."""
        found = self._open()
        if not found:
            return ""
        received = ", ".join(f"{name}={value}" for name, value in found)
        return (
            f"Argument `{found[0][0]}` of `{type(self).__name__}` is open. "
            f"Received: {received}. Give it a number of steps (or bind the "
            "schedule: `schedule.bind(total_steps, steps_per_epoch)`), or let "
            "`keras_lrs.callbacks.HyperparameterScheduler` bind it from `model.fit`."
        )

    def _take(self, index: Any) -> "Schedule":
        """Returns the schedule of cycle `index`, with entries in place of tables."""
        changes = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            taken = entry(value, index)
            if taken is not value:
                changes[field.name] = taken
        return self._unchecked(changes) if changes else self

    def _unchecked(self, changes: dict[str, Any]) -> "Schedule":
        """Returns the schedule with other arguments, which are not checked."""
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__getstate__())
        changed.__dict__.update(changes)
        return changed


def schedule_field(default: Any = fields.REQUIRED) -> Any:
    """Field specifier: any `LearningRateSchedule`, including Keras's."""
    return fields.checked(default, _check_schedule, kind="schedule")


def schedules_field(default: Any = fields.REQUIRED) -> Any:
    """Field specifier: a list of at least one learning-rate schedule."""

    def check(name, value):
        result = fields.items(name, value)
        if not result:
            fields.refuse(name, "hold at least one schedule", value)
        return tuple(_check_schedule(name, item) for item in result)

    return fields.checked(default, check, kind="schedules")


def _check_schedule(name, value):
    if not isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        bound = "be a `LearningRateSchedule`"
        if fields.is_number(value):
            bound += "; use `Constant` for a number"
        elif callable(value):
            bound += "; use `FunctionSchedule` for a function of the step"
        fields.refuse(name, bound, value, TypeError)
    return value


@dataclass_transform(
    frozen_default=True,
    eq_default=False,
    field_specifiers=(
        fields.number,
        fields.rate,
        fields.rates,
        fields.integer,
        fields.choice,
        fields.flag,
        fields.checked,
        durations.length,
        durations.lengths,
        durations.positions,
        schedule_field,
        schedules_field,
    ),
)
def serializable(cls: type[T]) -> type[T]:
    """Makes a schedule an immutable dataclass that Keras can save and load."""
    return fields.serializable(cls)


class Composition(Schedule):
    """A named schedule that combines others and adds no formula of its own.

    Subclasses are frozen dataclasses that implement `compose`. Binding a composition
    binds the schedules that it consists of: `schedule.bind(n)` has the values of
    `schedule.compose().bind(n)`. So a length that `compose` passes to a schedule inside
    `Restarts` is measured by the cycle, as if you had written out `Restarts` yourself.

    Example:
        >>> import dataclasses
        >>> from keras_lrs.schedules import CosineAnnealing, Fraction, Restarts, Warmup
        >>> from keras_lrs.schedules import durations, fields
        >>> @dataclasses.dataclass(frozen=True)
        ... class WarmRestarts(Composition):
        ...     rate: float = fields.rate()
        ...     cycle_steps: durations.Duration = durations.length(default=None)
        ...     warmup_steps: durations.Duration = durations.length(default=10)
        ...
        ...     def compose(self):
        ...         cycle = Warmup(CosineAnnealing(self.rate), self.warmup_steps)
        ...         return Restarts(cycle, self.cycle_steps)
        >>> schedule = WarmRestarts(0.1, Fraction(0.5), Fraction(0.2)).bind(200)
        >>> schedule.curve(200)[[0, 10, 20, 100, 120]].round(4).tolist()
        [0.0, 0.05, 0.1, 0.0, 0.1]
    """

    calculates = False
    """Whether `compose` calculates with lengths, instead of only passing them on.

    Then it is called only once all lengths are numbers of steps. They are bound like
    those of any other schedule, and not to the cycles of a `Restarts` inside.
    """

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        own = {"call", "_cycle_ends"} & vars(cls).keys()
        if own and not cls.calculates:
            raise TypeError(
                f"`{cls.__name__}` must not define `{min(own)}`, which is lost when "
                "its lengths are bound: set `calculates = True`, or make it a "
                "`Schedule`."
            )

    def compose(self) -> Schedule:
        """Returns the schedule that this one stands for.

        Lengths may still be open: pass them on unchanged, or set `calculates`.
        """
        raise NotImplementedError

    @functools.cached_property
    def _composed(self) -> Schedule:
        return self.compose()

    def _open(self, in_cycle=False):
        if self.calculates:
            return super()._open(in_cycle)
        try:
            composed = self._composed
        except TypeError:
            if super()._open():
                return super()._open(in_cycle)
            raise
        found = composed._open(in_cycle)
        return [(self._own_name(place), value) for place, value in found]

    def _bind(self, window):
        if self.calculates:
            return super()._bind(window)
        if self.is_bound:
            return self
        composed = self._composed_open()
        try:
            bound = composed._bind(window)
        except ValueError as error:
            raise ValueError(self._in_own_names(str(error))) from None
        # In cycles of several lengths it is only evaluated, and needs no name.
        return bound if isinstance(window.total, np.ndarray) else self._named(bound)

    def _composed_open(self):
        """Returns the composed schedule while lengths may be open."""
        try:
            return self._composed
        except TypeError as error:
            if not (found := super()._open()):
                raise
            name, value = found[0]
            raise ValueError(
                f"Argument `{name}` must be a number of steps, because "
                f"`{type(self).__name__}.compose` calculates with it. Received: "
                f"{name}={value}. Set `calculates = True` in the class to have lengths "
                "bound before it is called."
            ) from error

    def _named(self, bound):
        """Returns the schedule of this class that composes `bound`, or `bound` itself.

        No such schedule exists if rounding in two places has turned one argument into
        two numbers of steps, or if an open length was not an argument.
        """
        changes: dict[str, Any] = {}
        for place, value in _places(bound):
            name = self._owners.get(place)
            if name is not None and _is_list(value) == _is_list(getattr(self, name)):
                changes.setdefault(name, value)
        named: Any = self._replaced(changes)
        return named if named._composed == bound else bound

    @functools.cached_property
    def _owners(self) -> dict[str, str]:
        """The arguments that `compose` passes on, by the places to which it does.

        Each argument in turn is replaced by a marker object, which is then searched
        for.
        """
        found: dict[str, str] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            marks = tuple(map(_mark, value)) if _is_list(value) else (_mark(value),)
            marked = {id(m) for m in marks if isinstance(m, fields.Configured)}
            if not marked:
                continue
            changes = {field.name: marks if _is_list(value) else marks[0]}
            try:
                composed: Any = self._unchecked(changes)
                places = list(_places(composed.compose()))
            except Exception:  # Anything `compose` raises if None is the only value.
                continue
            for place, there in places:
                items = there if _is_list(there) else (there,)
                if any(id(item) in marked for item in items):
                    found.setdefault(place, field.name)
        return found

    def _own_name(self, place):
        """Names a place in the composition by the argument that it comes from."""
        inner, rest = place, ""
        while inner not in self._owners:
            inner, dot, last = inner.rpartition(".")
            if not dot:
                return place
            rest = f".{last}{rest}"
        return self._owners[inner] + rest

    def _in_own_names(self, message):
        for place, name in self._owners.items():
            last = place.rpartition(".")[2].partition("[")[0]
            message = message.replace(f"`{last}`", f"`{name}`")
            message = message.replace(f" {last}=", f" {name}=")
        return message

    def call(self, step):
        return self._composed.call(step)

    def _cycle_ends(self, num_steps):
        return self._composed._cycle_ends(num_steps)

    def _take(self, index):
        # The composition contains this schedule's own tables, if it has any.
        return self._composed._take(index)


def evaluate(schedule: Any, step: Any) -> Any:
    """Returns the value of any learning-rate schedule at integer time.

    Keras's own schedules and users' subclasses get an integer tensor, as from an
    optimizer.
    """
    if isinstance(schedule, Schedule):
        return schedule.call(step)
    dtype = keras.backend.standardize_dtype("int")

    def at(step):
        if not numerics.is_tensor(step):
            step = np.minimum(step, np.iinfo(dtype).max)
        return schedule(ops.convert_to_tensor(step, dtype=dtype))

    return evaluate_foreign(at, step)


def evaluate_foreign(function: Any, step: Any) -> Any:
    """Returns the value of a function at integer time, as a number or tensor.

    If the function cannot take a vector of steps (Keras's warmup branches with `cond`),
    it is mapped over the steps.
    """
    if numerics.is_number(step):
        value = function(step)
        known = numerics.known_value(ops.convert_to_tensor(value))
        return value if known is None else float(known)
    if isinstance(step, np.ndarray):
        if step.size == 0:
            return step.astype(np.float64)
        try:
            value = function(step)
        except Exception:  # Anything a function of scalars raises for a vector.
            value = numerics.mapped(function, step)
        value = np.asarray(ops.convert_to_numpy(value), dtype=np.float64)
        value = np.broadcast_to(value, step.shape)
        # A function that accepts a vector may still not treat it elementwise.
        for end in (0, -1):
            scalar = evaluate_foreign(function, step.flat[end].item())
            if not np.isclose(value.flat[end], scalar, rtol=1e-5, atol=0.0):
                return np.asarray(
                    ops.convert_to_numpy(numerics.mapped(function, step)), float
                )
        return value
    # In a graph, a branch on a vector fails only when the graph runs.
    value = (
        function(step) if numerics.is_scalar(step) else numerics.mapped(function, step)
    )
    return ops.cast(ops.convert_to_tensor(value), numerics.float_dtype())


def bind(schedule: Any, window: Window) -> Any:
    """Binds any learning-rate schedule to a window if it is a `Schedule`."""
    return schedule._bind(window) if isinstance(schedule, Schedule) else schedule


def needs_length(schedule: Any) -> bool:
    """Whether the length of the run must be known to bind a schedule."""
    found = [value for _, value in schedule._open()]
    items = [x for value in found for x in (value if _is_list(value) else (value,))]
    return not all(isinstance(x, (int, *durations.OF_BATCHES)) for x in items)


def bind_to_steps(
    name: str, schedule: Any, num_steps: int, steps_per_epoch: int | None = None
) -> Any:
    """Binds any schedule to a run of `num_steps`, for the argument `name`."""
    try:
        return bind(schedule, Window(num_steps, steps_per_epoch))
    except ValueError as error:
        raise ValueError(
            f"Argument `{name}` cannot be bound to {num_steps} steps. {error}"
        ) from None


def window_of_run(
    total_steps: Any, steps_per_epoch: Any, samples_per_step: Any, tokens_per_step: Any
) -> Window:
    """Makes the window of a whole run from a user's arguments."""
    if steps_per_epoch is not None:
        steps_per_epoch = fields.count("steps_per_epoch", steps_per_epoch, 1)
    total_steps = fields.count("total_steps", total_steps, 1)
    batch: dict[type, int | None] = {}
    for kind, name, given in (
        (durations.Samples, "samples_per_step", samples_per_step),
        (durations.Tokens, "tokens_per_step", tokens_per_step),
    ):
        batch[kind] = None if given is None else fields.count(name, given, 1)
    return Window(total_steps, steps_per_epoch, batch=batch.get)


def check_bound(schedule: Any) -> None:
    """Raises `ValueError` if a `Schedule` is not bound."""
    if is_open(schedule):
        raise ValueError(schedule._unbound)


def is_open(schedule: Any) -> bool:
    """Whether a schedule must be bound; False if it is not a `Schedule`."""
    return isinstance(schedule, Schedule) and not schedule.is_bound


def agree(one: Any, other: Any, step: int) -> bool:
    """Whether two schedules have the same value at a step."""
    return float(evaluate(one, step)) == float(evaluate(other, step))


def cycle_ends(schedule: Any, num_steps: int) -> set[int]:
    """Returns the cycle ends of a schedule; none if it is not a `Schedule`."""
    return schedule._cycle_ends(num_steps) if isinstance(schedule, Schedule) else set()


def _bind_tuple(name, values, window):
    bound = tuple(bind(value, window) for value in values)
    changed = any(x is not y for x, y in zip(bound, values, strict=True))
    return bound if changed else values


def _bind_positions(name, values, window):
    return None if values is None else window.positions(name, values)


def _bind_optional(name, value, window):
    return None if value is None else window.length(value)


_BINDERS = {
    "length": lambda name, value, window: window.length(value),
    "optional_length": _bind_optional,
    "lengths": lambda name, value, window: window.lengths(value),
    "positions": _bind_positions,
    "schedule": lambda name, value, window: bind(value, window),
    "schedules": _bind_tuple,
}


def _places(schedule, within=""):
    """Yields all lengths and schedules in a schedule, as pairs of place and value."""
    for field in dataclasses.fields(schedule):
        if _kind(field) in _BINDERS:
            yield within + field.name, getattr(schedule, field.name)
    for name, inner in schedule._inner():
        yield within + name, inner
        if isinstance(inner, Schedule):
            yield from _places(inner, f"{within}{name}.")


def _mark(value):
    """Returns an equal object with its own identity; for None, some length."""
    if value is None:
        return durations.Fraction(1.0)
    return copy.copy(value) if isinstance(value, fields.Configured) else value


def _is_list(value):
    return isinstance(value, tuple)


def _kind(field):
    return field.metadata.get("kind", "plain")


def _is_open(kind, value, in_cycle):
    if value is None:
        return kind == "length" and not in_cycle
    open_types = durations.OF_DATA if in_cycle else durations.OPEN
    items = value if isinstance(value, tuple) else (value,)
    return _has_any(items, open_types)


def _has_any(items, types):
    """Whether an item is of one of the types; quick for long tables of numbers."""
    return any(issubclass(kind, types) for kind in set(map(type, items)))


def entry(value, index):
    """Returns the entry of `value` for cycle `index`; `value` itself if not a table."""
    if isinstance(value, fields.Table):
        return numerics.gather(value.view(np.ndarray), index)
    if isinstance(value, Schedule):
        return value._take(index)
    if isinstance(value, tuple):
        taken = tuple(entry(item, index) for item in value)
        if any(x is not y for x, y in zip(taken, value, strict=True)):
            return taken
    return value
