"""`Choice`: which of a model's weights are averaged."""

import dataclasses
import re
from typing import Any

from keras_lrs.schedules import fields


@dataclasses.dataclass(frozen=True)
class Choice:
    """Chooses variables by regular expressions, searched for in their paths.

    Args:
        include: A variable is chosen if one of these matches; None chooses all.
        exclude: A variable is not chosen if one of these matches.
        among: The `id`s of the variables to choose from; None means all.
    """

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    among: frozenset[int] | None = None

    @classmethod
    def of(cls, include: Any, exclude: Any) -> "Choice":
        """Makes a choice from users' arguments: expressions or lists of them."""
        included = None if include is None else _expressions("include", include)
        excluded = () if exclude is None else _expressions("exclude", exclude)
        return cls(included, excluded)

    def __call__(self, variable: Any) -> bool:
        """Whether a variable is chosen."""
        if self.among is not None and id(variable) not in self.among:
            return False
        path, include = variable.path, self.include
        included = include is None or any(_found(one, path) for one in include)
        return included and not any(_found(one, path) for one in self.exclude)

    def check(self, variables: list) -> None:
        """Raises `ValueError` if an expression matches nothing, or nothing is left."""
        paths = [variable.path for variable in variables]
        for name, expressions in (("include", self.include), ("exclude", self.exclude)):
            for one in expressions or ():
                if not any(_found(one, path) for path in paths):
                    bound = f"be found in a path, which are {', '.join(paths)}"
                    fields.refuse(name, bound, one)
        if variables and not any(map(self, variables)):
            bound = f"leave a variable to average, of {', '.join(paths)}"
            fields.refuse("exclude", bound, list(self.exclude))


EVERYTHING = Choice()


def _found(expression, path):
    return re.search(expression, path) is not None


def _expressions(name, value):
    bound = "be a regular expression or a list of them"
    found = (value,) if isinstance(value, str) else fields.items(name, value, bound)
    if not found:
        fields.refuse(name, f"{bound}, not empty", value)
    for one in found:
        if not isinstance(one, str):
            fields.refuse(name, bound, value, TypeError)
        try:
            re.compile(one)
        except (re.error, RecursionError, OverflowError) as error:
            fields.refuse(name, f"{bound} ({error})", value)
    return found
