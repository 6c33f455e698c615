"""Evaluation by a model's own methods, with the mean of members for its outputs."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_lrs._fit.hooks import replace
from keras_lrs._keras import anywhere, interrupts
from keras_lrs._keras.backend import IS_JAX
from keras_lrs._keras.variables import read, write

_METHODS = (
    *("compute_loss", "compute_metrics", "test_step", "make_test_function"),
    *("evaluate", "reset_metrics"),
)


def own_methods(model: keras.Model) -> list[str]:
    """The methods by which a model evaluates itself in a way of its own."""
    return [
        name
        for name in _METHODS
        if name in vars(model)
        or getattr(type(model), name) is not getattr(keras.Model, name)
    ]


def described(model: keras.Model, methods: Sequence[str]) -> str:
    """The methods in words."""
    names = methods or ["evaluate"]
    return ", ".join(f"`{type(model).__name__}.{name}`" for name in names)


def evaluate(
    model: keras.Model,
    mean_call: Callable,
    methods: Sequence[str],
    x: Any,
    y: Any,
    arguments: dict[str, Any],
) -> Any:
    """Returns what `model.evaluate` does, if the model's outputs are those of others.

    The metrics of the model are as they were afterwards.

    Args:
        model: The model.
        mean_call: What stands in for its `call`.
        methods: Those of its own, for the message of an error.
        x: As for `model.evaluate`.
        y: As for `model.evaluate`.
        arguments: Others of `model.evaluate`.

    Raises:
        RuntimeError: If the model was not called.
    """
    stepping = called = False

    def call(*given, **keywords):
        nonlocal called
        called = called or stepping  # Keras also calls it to build metrics.
        return mean_call(*given, **keywords)

    def test_step(method):
        # JAX keeps what it has compiled by the equality of functions, and bound methods
        # of one model are equal.
        def step(*given, **keywords):
            nonlocal stepping
            stepping = True
            try:
                return method(*given, **keywords)
            finally:
                stepping = False

        return step

    metrics = list(model.metrics_variables)
    values, function = read(metrics), model.test_function
    # JAX's `evaluate` takes the values away until it is over.
    held = anywhere.held(model.variables) if IS_JAX else []
    with interrupts.undoing() as undo:
        undo.callback(write, metrics, values)
        undo.callback(model.reset_metrics)
        undo.callback(setattr, model, "test_function", function)
        replace(model, "call", lambda _: call, undo)
        replace(model, "test_step", test_step, undo)
        model.test_function = None
        try:
            found = model.evaluate(x, y, **arguments)
        except BaseException:
            anywhere.put_back(held)
            raise
    if not called:
        raise RuntimeError(
            f"`Ensemble.evaluate` cannot evaluate by {described(model, methods)}, "
            "which does not call the model itself (`self(x)`), so that the members "
            "take no part. Measure what `predict` returns."
        )
    return found
