"""`Wrapper`: an optimizer that has another one inside."""

import warnings
from typing import Any

import keras

from keras_lrs._keras import optimizers
from keras_lrs._step.hosted import host_of
from keras_lrs.schedules import fields


class Wrapper(keras.optimizers.Optimizer):
    """What is that of the optimizer inside, which `inner_optimizer` holds."""

    @property
    def variables(self) -> list:
        """All state: its own, then that of the optimizer inside."""
        return [*self._variables, *self.inner_optimizer.variables]

    @property
    def iterations(self) -> Any:
        """The number of updates."""
        return self.inner_optimizer.iterations

    @property
    def loss_scale_factor(self) -> float | None:
        """What the loss is multiplied by."""
        return self.inner_optimizer.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor: float | None) -> None:
        if "inner_optimizer" in vars(self):  # Not in Keras's constructor.
            self.inner_optimizer.loss_scale_factor = factor

    def exclude_from_weight_decay(
        self, var_list: Any = None, var_names: Any = None
    ) -> None:
        """Leaves variables out of the weight decay."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    # The state of the optimizer inside Keras saves by itself.

    def save_own_variables(self, store: Any) -> None:
        """Writes its own state."""
        for i, variable in enumerate(self._variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Reads its state, if it is that of as many variables."""
        self._load_own(store)

    def _load_own(self, store):
        """Reads its state, and returns whether it was that of as many variables."""
        own = [key for key in store.keys() if key.isdecimal()]  # noqa: SIM118
        if len(own) != len(self._variables):
            warnings.warn(
                f"Skipping the state of the optimizer '{self.name}': it has "
                f"{len(self._variables)} variables, the saved one {len(own)}.",
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
    if optimizers.leaves(optimizer) != [optimizer]:
        raise ValueError(
            "Argument `optimizer` must be one that updates variables itself. Wrap "
            f"`{wrapper}` in a `LossScaleOptimizer` or `MultiOptimizer`, not the "
            f"other way round. Received: optimizer={type(optimizer).__name__}"
        )


def check_new(optimizer: Any) -> None:
    """Raises if an optimizer is in use."""
    taken = optimizers.is_taken_over(optimizer) or host_of(optimizer) is not None
    if optimizer.built or taken:
        raise ValueError(
            "Argument `optimizer` must be a new one. Received: "
            f"optimizer={type(optimizer).__name__} that is in use"
        )
