"""Evaluates by a model's own methods, with the mean of members as its outputs."""

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
    """Returns the names of the evaluation methods that a model overrides."""
    return [
        name
        for name in _METHODS
        if name in vars(model)
        or getattr(type(model), name) is not getattr(keras.Model, name)
    ]


def described(model: keras.Model, methods: Sequence[str]) -> str:
    """Names the methods in an error message."""
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
    """Evaluates a model with `model.evaluate`, with other outputs than its own.

    Afterwards the model's metrics are as they were before.

    Args:
        model: The model.
        mean_call: The function that replaces its `call`.
        methods: The methods that the model overrides, for error messages.
        x: As for `model.evaluate`.
        y: As for `model.evaluate`.
        arguments: Other arguments of `model.evaluate`.

    Raises:
        RuntimeError: If the model was not called.
    """
    stepping = called = False

    def call(*given, **keywords):
        nonlocal called
        called = called or stepping  # Keras also calls it to build metrics.
        return mean_call(*given, **keywords)

    def test_step(method):
        # JAX caches compiled functions by equality, and a model's bound methods are
        # equal.
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
    # On JAX, `evaluate` takes the values out of the variables until it ends.
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
            "which does not call the model itself (`self(x)`), so the members would "
            "have no effect. Evaluate what `predict` returns."
        )
    return found
