"""Averages of an optimizer's weights, in the variables of Keras's `use_ema`.

If an optimizer has variables that its config does not announce, `load_model` skips the
state of the whole optimizer with only a warning. So the averages are kept in the
variables that `use_ema=True` announces. There they are saved, loaded and resumed with
the model.

`ema_momentum` says what the slots hold, because nothing else that Keras saves can:

- `SLOTS_HOLD_AVERAGE`: the model has the weights that are trained, the slots the
  averages.
- `MODEL_HOLDS_AVERAGE`: the two are swapped, as they are at the end of an epoch. A file
  that is saved then says so, and a run that resumes from it swaps them back.

Both are 0 to Keras's own update of the slots, `average = momentum * average +
(1 - momentum) * weight`: in a fit without our callback the slots equal the weights, and
overwriting the weights with them changes nothing.
"""

import dataclasses
import weakref
from typing import Any

import numpy as np
from keras import Variable, ops

from keras_lrs._keras import interrupts, optimizers
from keras_lrs._keras.backend import IS_TENSORFLOW
from keras_lrs._keras.variables import Swap, give, read, strategy_scope, write
from keras_lrs.averages.choice import EVERYTHING, Choice

SLOTS_HOLD_AVERAGE = 0.0
MODEL_HOLDS_AVERAGE = 1e-300

# Compiled steps hold on to the variables: an optimizer is given the same ones again.
_slots_so_far: weakref.WeakKeyDictionary[Any, list]
_slots_so_far = weakref.WeakKeyDictionary()
# The iterations at which averages began that did not begin with the run.
_began_late: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


class AverageSlots:
    """The averages of one optimizer's weights.

    Averages of weights of less than 32 bits are kept in float32, because they would
    stall otherwise. Weights that are not chosen also have a slot, because Keras cannot
    load an optimizer with fewer slots.
    """

    def __init__(self, optimizer: Any, choice: Choice = EVERYTHING):
        self.optimizer = optimizer
        self.choice = choice
        self._narrow: list[tuple[Any, np.ndarray]] = []
        self._empty_since: int | None = None

    @property
    def attached(self) -> bool:
        """Whether the averages are among the optimizer's variables."""
        optimizer = self.optimizer
        known = (SLOTS_HOLD_AVERAGE, MODEL_HOLDS_AVERAGE)
        return optimizer.use_ema and optimizer.ema_momentum in known

    @property
    def swapped(self) -> bool:
        """Whether the model holds the averages, and the slots the weights."""
        if self.optimizer in _unfinished:
            interrupts.finish(self._swap)
        return self.attached and self.optimizer.ema_momentum == MODEL_HOLDS_AVERAGE

    @property
    def known(self) -> bool:
        """Whether the averages hold values, computed or loaded from a file."""
        return self._empty_since != optimizers.iterations(self.optimizer)

    @property
    def began_late(self) -> int | None:
        """The iterations at which the averages began; None if they began at `start`."""
        return _began_late.get(self.optimizer)

    @began_late.setter
    def began_late(self, iterations: int | None) -> None:
        _began_late.pop(self.optimizer, None)
        if iterations is not None:
            _began_late[self.optimizer] = iterations

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        """The weights that are averaged and their averages, as variables."""
        return [pair for pair in self._all_pairs if self.choice(pair[0])]

    @property
    def _all_pairs(self):
        averages = self.optimizer._model_variables_moving_average
        weights = optimizers.trained(self.optimizer)
        return [
            (weight, average)
            for weight, average in zip(weights, averages, strict=True)
            if average is not None
        ]

    def attach(self, model: Any) -> None:
        """Adds the averages to the variables of a built optimizer."""
        before = self._slots_as_they_are()
        try:
            self._attach(model)
        except BaseException:
            interrupts.finish(before)
            raise

    def _attach(self, model):
        optimizer = self.optimizer
        weights = optimizers.trained(optimizer)
        # Slots that were loaded from a file have the types of the weights.
        loaded = (
            list(optimizer._model_variables_moving_average)
            if self.attached
            else [None] * len(weights)
        )
        slots = _slots_so_far.get(optimizer)
        if slots is None:
            slots = [
                old
                if old is not None and old.dtype == average_dtype(weight)
                else _new_slot(model, optimizer, weight, old)
                for weight, old in zip(weights, loaded, strict=True)
            ]
        known = [slot for slot in slots if slot is not None]
        gone = {id(slot) for slot in (*known, *loaded)}
        others = [v for v in optimizer.variables if id(v) not in gone]
        # In the order of `build`: before all other slots.
        first = 1 + isinstance(optimizers.rate_source(optimizer), Variable)
        optimizers.set_variables(optimizer, [*others[:first], *known, *others[first:]])
        # Bypasses Keras's tracking, as in its `build`.
        vars(optimizer)["_model_variables_moving_average"] = slots
        if not self.attached:
            self._empty_since = optimizers.iterations(optimizer)
            optimizer.use_ema, optimizer.ema_momentum = True, SLOTS_HOLD_AVERAGE
            _trace_again(model)
        _slots_so_far[optimizer] = slots

    def detach(self) -> None:
        """Leaves the optimizer without averages; calling it again finishes it."""
        optimizer = self.optimizer
        gone = {id(slot) for slot in _slots_so_far[optimizer]}
        kept = [v for v in optimizer.variables if id(v) not in gone]
        vars(optimizer).pop("_model_variables_moving_average", None)
        optimizers.set_variables(optimizer, kept)
        optimizer.use_ema, optimizer.ema_momentum = False, 0.99

    def _slots_as_they_are(self):
        """Returns a function that restores the optimizer's current slots."""
        optimizer = self.optimizer
        attributes, name = vars(optimizer), "_model_variables_moving_average"
        slots = {name: attributes[name]} if name in attributes else {}
        ema = optimizer.use_ema, optimizer.ema_momentum
        own = list(optimizer.variables)

        def put_back():
            if [id(v) for v in optimizer.variables] != [id(v) for v in own]:
                optimizers.set_variables(optimizer, own)
            attributes.pop(name, None)
            attributes.update(slots)
            optimizer.use_ema, optimizer.ema_momentum = ema

        return put_back

    def reset(self) -> None:
        """Sets the averages to the weights."""
        for weight, average in self._all_pairs:
            give(weight, average)

    def swap(self) -> None:
        """Swaps weights and averages; the weights are restored bit for bit."""
        interrupts.finish(self._swap)

    def _swap(self):
        """Swaps, or ends a swap that was interrupted."""
        swapping = _unfinished.get(self.optimizer)
        if swapping is None:
            swapping = _unfinished[self.optimizer] = self._new_swap()
        swapping.swap.finish()
        if swapping.narrow and not swapping.into:
            averages, values = zip(*swapping.narrow, strict=True)
            write(list(averages), list(values))
        self.optimizer.ema_momentum = (
            MODEL_HOLDS_AVERAGE if swapping.into else SLOTS_HOLD_AVERAGE
        )
        self._narrow = swapping.narrow if swapping.into else []
        del _unfinished[self.optimizer]

    def _new_swap(self):
        pairs = self._all_pairs
        into = self.optimizer.ema_momentum != MODEL_HOLDS_AVERAGE
        narrow = self._narrow
        if into:
            # Weights that are not averaged are swapped with equal values.
            for weight, average in pairs:
                if not self.choice(weight):
                    give(weight, average)
            # Averages that the type of the weight would round.
            rounded = [a for weight, a in pairs if weight.dtype != a.dtype]
            narrow = list(zip(rounded, read(rounded), strict=True))
        weights = [weight for weight, _ in pairs]
        averages = [average for _, average in pairs]
        return _Swapping(into, narrow, Swap(weights, averages))


@dataclasses.dataclass
class _Swapping:
    """A swap in progress.

    Args:
        into: Whether the model will hold the averages.
        narrow: Pairs of an average of a weight of less than 32 bits, and its value.
        swap: The swap of the values.
    """

    into: bool
    narrow: list[tuple[Any, np.ndarray]]
    swap: Swap


# Swaps that were interrupted twice. The next caller finishes them.
_unfinished: weakref.WeakKeyDictionary[Any, _Swapping]
_unfinished = weakref.WeakKeyDictionary()


def _trace_again(model):
    """Makes TensorFlow trace the model's plain step again, with the slots.

    A step that was traced without them would leave the last averages in them, and
    Keras's `fit` would overwrite the weights with these at its end.
    """
    plain = model.train_function
    if not IS_TENSORFLOW or plain is None:
        return
    model.make_train_function(force=True)
    compiled = getattr(plain, "keras_lrs_compiled", None)
    if compiled is not None:
        model.train_function.keras_lrs_compiled = compiled


def average_dtype(weight: Any) -> str:
    """Returns the type of an average of a weight, which has at least 32 bits."""
    return weight.dtype if weight.dtype in ("float32", "float64") else "float32"


def _new_slot(model, optimizer, weight, old):
    """Makes a slot, with the value of the old one, if any, in a wide enough type."""
    if optimizers.is_overwritten(weight):
        return None
    with strategy_scope(model):
        slot = optimizer.add_variable(
            shape=weight.shape,
            initializer="zeros",
            dtype=average_dtype(weight),
            layout=getattr(weight, "_layout", None),
            name=f"{weight.path.replace('/', '_')}_average",
        )
    if old is not None:
        slot.assign(ops.cast(old.value, slot.dtype))
    return slot
