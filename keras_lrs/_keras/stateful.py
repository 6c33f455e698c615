"""The objects with a state in a user's data, and their states."""

import pickle
from typing import Any

from keras_lrs._keras.objects import held_by_classes, walked_in_parts
from keras_lrs._keras.states import (
    described,
    kind_of,
    kind_of_more,
    known,
    protocol,
    set_state,
    state_of,
)


class Stateful:
    """The objects with a state in some data, in a reproducible order.

    They are the object itself, what it holds, what its functions refer to, and what its
    classes hold.

    Args:
        data: Any object; None for no data.
    """

    def __init__(self, data: Any):
        self.protocol = protocol(data)
        found, later = ([data], []) if self.protocol else walked_in_parts(data)
        first = [one for one in found if kind_of(one, is_root=one is data)]
        more = [] if self.protocol else [*filter(kind_of_more, found)]
        more += [] if self.protocol else [*filter(known, held_by_classes(found))]
        more += [one for one in later if known(one)]
        self._own = list({id(one): one for one in first + more}.values())
        # Version 0.2.0 saved the states of these only.
        self._first = len(first)

    def state(self) -> list:
        """Returns the kinds and states of all: trees of numbers, strings and arrays."""
        return [[described(one), state_of(one)] for one in self._own]

    def fits(self, states: list) -> bool:
        """Whether states belong to the same number of objects of the same kinds."""
        own = [described(one) for one in self._own]
        return [kind for kind, _ in states] in (own, own[: self._first])

    def without(self, states: list) -> list[str]:
        """Returns the classes of the objects that have none of some states."""
        return [described(one) for one in self._own[len(states) :]]

    def set_state(self, states: list) -> None:
        """Restores what `state` returned, in this process or in another."""
        for one, (_, state) in zip(self._own, states, strict=False):
            set_state(one, state)

    def kept(self) -> "Kept":
        """Returns a copy of the states."""
        return Kept([(one, state_of(one)) for one in self._own])


class Kept:
    """States of objects in this process that can be restored."""

    def __init__(self, pairs: list):
        self._pairs = pairs

    def put_back(self) -> None:
        """Restores the states."""
        for one, state in self._pairs:
            set_state(one, state)


def differ(state: Any, other: Any) -> bool:
    """Whether two states, as trees of the same kind, differ."""
    return pickle.dumps(state) != pickle.dumps(other)
