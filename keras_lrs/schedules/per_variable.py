"""`PerVariable`: values of a hyperparameter that depend on the variable."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_lrs.schedules import fields

_Schedule = keras.optimizers.schedules.LearningRateSchedule
_NUMBER = fields.rate()


def pairs_of(name: str, given: Any) -> tuple[tuple[str, Any], ...]:
    """Returns pairs of a pattern and its value from an argument that maps them."""
    if isinstance(given, PerVariable):
        return given.values
    constraint = "map regular expressions to numbers and schedules"
    # A config holds a list, because some JSON writers sort the keys of an object.
    pairs = list(given.items() if isinstance(given, Mapping) else _listed(given))
    if not all(isinstance(one, (list, tuple)) and len(one) == 2 for one in pairs):
        fields.refuse(name, constraint, given, TypeError)
    if not pairs:
        fields.refuse(name, constraint, given)
    if len({repr(pattern) for pattern, _ in pairs}) < len(pairs):
        fields.refuse(name, "have each pattern once", given)
    return tuple((_pattern(name, one), _value(name, one, it)) for one, it in pairs)


def _listed(given):
    return given if isinstance(given, (list, tuple)) else [given]


def _pattern(name, pattern):
    constraint = "have regular expressions as its keys"
    if not isinstance(pattern, str):
        fields.refuse(name, constraint, pattern, TypeError)
    try:
        re.compile(pattern)
    except re.error as error:
        fields.refuse(name, f"{constraint} ({error})", pattern)
    return pattern


def _value(name, pattern, value):
    if isinstance(value, _Schedule):
        return value
    return fields.validate(f"{name}[{pattern!r}]", value, _NUMBER)


@fields.serializable
class PerVariable(fields.Configured):
    """Values of a hyperparameter for groups of variables, selected by their paths.

    `v(variable, k) = values[first pattern found in variable.path](k)`

    Use it as an argument of `HyperparameterScheduler` if parts of a model need their
    own learning rate, weight decay or momentum. Variables that match no pattern keep
    the optimizer's own value.

    A pattern is a regular expression that is searched for anywhere in the variable's
    path (`re.search`), such as `"encoder/block_3/dense/kernel"`. The order matters,
    because the first pattern that matches decides. Print the paths with `[v.path for v
    in model.trainable_variables]`. In a `Sequential` or a subclassed model they begin
    with the model's name. In a functional model they begin with the layer's name, even
    if the model is a layer of another one. So write `"(^|/)head/"` for a layer and
    `"bias$"` for a kind of variable.

    Args:
        values: A dictionary from patterns to numbers >= 0 or schedules.

    Returns:
        A value: it can be compared, printed, saved as JSON and loaded.

    Raises:
        TypeError: If `values` is not a dictionary, a pattern is not a string, or a
            value is neither a number nor a schedule.
        ValueError: If `values` is empty, a pattern is not a regular expression, or a
            number is out of range.

    Example:
        >>> from keras_lrs import PerVariable
        >>> from keras_lrs.schedules import LinearDecay
        >>> rates = PerVariable({"(^|/)backbone/": 1e-4, ".*": LinearDecay(0.01)})
        >>> rates.pattern_of("model/backbone/dense/kernel")
        '(^|/)backbone/'
        >>> PerVariable({"/(bias|gamma|beta)$": 0.0})
        PerVariable({'/(bias|gamma|beta)$': 0.0})

    Reference: parameter groups of `torch.optim`, and `optax.partition`.
    """

    values: tuple[tuple[str, Any], ...] = fields.checked(fields.REQUIRED, pairs_of)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns, in their order."""
        return tuple(pattern for pattern, _ in self.values)

    def pattern_of(self, path: str) -> str | None:
        """Returns the first pattern that matches a path; None if none does."""
        found = (one for one in self.patterns if re.search(one, path))
        return next(found, None)

    def check_paths(
        self, name: str, paths: Iterable[str], frozen: Iterable[str] = ()
    ) -> None:
        """Raises `ValueError` if a pattern applies to none of some paths.

        `name` is the name of the argument in the message, and `frozen` are the paths of
        variables that are not trained.
        """
        paths = list(paths)
        deciding = {self.pattern_of(path) for path in paths}
        for pattern in self.patterns:
            if pattern in deciding:
                continue
            matched = [path for path in paths if re.search(pattern, path)]
            untrained = [path for path in frozen if re.search(pattern, path)]
            if matched:
                before = ", ".join(sorted({repr(self.pattern_of(p)) for p in matched}))
                problem = (
                    f"all variables that the pattern {pattern!r} matches are matched "
                    f"by {before} before it, and the first match decides. Change their "
                    "order"
                )
            elif untrained:
                problem = (
                    f"the pattern {pattern!r} matches only variables that are not "
                    f"trained, such as {untrained[0]!r}. Leave it out, or set "
                    "`trainable = True` and compile the model again"
                )
            else:
                problem = (
                    f"the pattern {pattern!r} matches no trainable variable. Patterns "
                    "are searched for in the paths of variables"
                )
            shown = "\n".join(f"  {path}" for path in paths)
            raise ValueError(f"Argument `{name}`: {problem}. The paths are:\n{shown}")

    def __repr__(self) -> str:
        inside = ", ".join(f"{one!r}: {value!r}" for one, value in self.values)
        return f"PerVariable({{{inside}}})"
