"""Reads the first batch that an execution of the train function will take."""

import itertools
from collections.abc import Callable
from typing import Any

from keras_lrs._keras.backend import END_OF_DATA, IS_JAX, IS_TORCH


def noted(arguments: tuple, steps: int, note: Callable[[Any], None]) -> tuple:
    """Calls a function with the first batch.

    Args:
        arguments: The arguments of the train function.
        steps: How many batches the execution may take.
        note: The function.

    Returns:
        The arguments to pass to the train function instead.
    """
    if IS_TORCH:
        note(arguments[0][0])
        return arguments
    *state, iterator = arguments
    if IS_JAX:
        batch = next(iterator)
        note(batch)
        return (*state, itertools.chain([batch], iterator))
    return (_noted_of_tensorflow(iterator, steps, note),)


def _noted_of_tensorflow(iterator, steps, note):
    from tensorflow.python.data.ops import dataset_ops, iterator_ops
    from tensorflow.python.data.util import structure
    from tensorflow.raw_ops import TensorDataset

    if not isinstance(iterator, iterator_ops.OwnedIterator):
        return iterator  # With replicas, a batch has a part for each.
    spec = iterator.element_spec
    taken: Any = None
    for step in range(steps):
        try:
            batch = next(iterator)
        except END_OF_DATA:
            if step == 0:
                raise
            break
        if step == 0:
            note(batch)
        # Use the shapes of the iterator, because with those of the batch the train
        # function would be retraced.
        variant = TensorDataset(
            components=structure.to_tensor_list(spec, batch),
            output_shapes=structure.get_flat_tensor_shapes(spec),
        )
        dataset = dataset_ops._VariantDataset(variant, spec)
        taken = dataset if taken is None else taken.concatenate(dataset)
    return iter(taken)
