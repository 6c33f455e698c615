"""`Wrapper`: an optimizer that wraps another one."""

import warnings
from typing import Any

import keras

from keras_lrs._keras import optimizers
from keras_lrs._step.hosted import host_of
from keras_lrs.schedules import fields, names

# Keras's constructor sets these, but the inner optimizer acts on them.
_OF_THE_INNER = ("weight_decay", "clipnorm", "global_clipnorm", "clipvalue")


class Wrapper(keras.optimizers.Optimizer):
    """Passes attributes and state on to the optimizer in `inner_optimizer`."""

    def __init__(self, optimizer: Any, learning_rate: float, name: str | None):
        super().__init__(learning_rate=learning_rate, name=name)
        for attribute in _OF_THE_INNER:
            self.__dict__.pop(attribute)
        self.inner_optimizer = optimizer

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.__init__ = names.hinted(cls.__init__)  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the inner optimizer, such as its momentum."""
        inner = vars(self).get("inner_optimizer")
        if name.startswith("_") or inner is None or name not in vars(inner):
            kind = type(self).__name__
            raise AttributeError(f"'{kind}' object has no attribute '{name}'")
        return getattr(inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        inner = vars(self).get("inner_optimizer")
        own = name.startswith("_") or name in vars(self) or hasattr(type(self), name)
        if own or inner is None or name not in vars(inner):
            super().__setattr__(name, value)
        else:
            setattr(inner, name, value)

    @property
    def variables(self) -> list:
        """All state: its own, then that of the inner optimizer."""
        return [*self._variables, *self.inner_optimizer.variables]

    @property
    def iterations(self) -> Any:
        """The number of updates."""
        return self.inner_optimizer.iterations

    @property
    def loss_scale_factor(self) -> float | None:
        """The factor by which the loss is multiplied."""
        return self.inner_optimizer.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor: float | None) -> None:
        if "inner_optimizer" in vars(self):  # False in Keras's constructor.
            self.inner_optimizer.loss_scale_factor = factor

    def exclude_from_weight_decay(
        self, var_list: Any = None, var_names: Any = None
    ) -> None:
        """Leaves variables out of the weight decay."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    # Keras saves the state of the inner optimizer by itself.

    def save_own_variables(self, store: Any) -> None:
        """Writes its own state."""
        for i, variable in enumerate(self._variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Reads its state if the file has as many variables."""
        self._load_own(store)

    def _load_own(self, store):
        """Reads its state, and returns whether the file has as many variables."""
        own = [key for key in store.keys() if key.isdecimal()]  # noqa: SIM118
        if len(own) != len(self._variables):
            warnings.warn(
                f"Skipping the state of the optimizer '{self.name}': it has "
                f"{len(self._variables)} variables, and the saved one has {len(own)}.",
                stacklevel=3,
            )
            return False
        for i, variable in enumerate(self._variables):
            variable.assign(store[str(i)])
        return True


def check_kind(optimizer: Any, wrapper: str) -> None:
    """Raises if an optimizer does not update variables itself."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        fields.refuse("optimizer", "be a Keras optimizer", optimizer, TypeError)
    if optimizers.leaves(optimizer) == [optimizer]:
        return
    kind = type(optimizer).__name__
    if not isinstance(optimizer, Wrapper):
        cure = f"Wrap `{wrapper}` in a `{kind}`, not the other way round"
    elif kind == wrapper:
        cure = f"One `{kind}` is enough: give it all arguments"
    else:
        cure = (
            "`ScheduleFree` and `Scheduled` do not work together. The optimizer in "
            "`ScheduleFree` may hold a schedule of its rate, and in `fit` "
            "`HyperparameterScheduler` schedules its hyperparameters"
        )
    raise ValueError(
        "Argument `optimizer` must be an optimizer that updates variables itself. "
        f"{cure}. Received: optimizer={kind}"
    )


def check_new(optimizer: Any) -> None:
    """Raises if an optimizer is in use."""
    taken = optimizers.is_taken_over(optimizer) or host_of(optimizer) is not None
    if optimizer.built or taken:
        raise ValueError(
            "Argument `optimizer` must be a new one. Received: "
            f"optimizer={type(optimizer).__name__} that is in use"
        )
