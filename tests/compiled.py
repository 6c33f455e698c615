"""Ways to run a schedule as a training step does, on whatever backend is in use."""

import functools

import keras
import numpy as np
from keras import ops


def compilers():
    """Named functions that turn a function of one tensor into a compiled one."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def graph(function):
            return tf.function(lambda step: function(step))  # AutoGraph and all.

        def xla(function):
            return tf.function(function, autograph=False, jit_compile=True)

        return {"eager": lambda function: function, "graph": graph, "xla": xla}
    if backend == "jax":
        import jax

        return {"eager": lambda function: function, "jit": jax.jit}
    return {"eager": lambda function: function}


def integer_dtype():
    """The dtype of `optimizer.iterations`."""
    return keras.backend.standardize_dtype("int")


@functools.lru_cache(maxsize=8)  # What asks for those of one schedule runs together.
def scalar_functions(schedule):
    """The schedule by each compiler, for a scalar step: traced once for all who ask."""
    return [compiler(schedule) for compiler in compilers().values()]


def scalar_values(schedule, steps, compiler=lambda function: function):
    """The values of a schedule asked step by step."""
    function = compiler(schedule)
    tensors = [ops.convert_to_tensor(int(s), dtype=integer_dtype()) for s in steps]
    return np.array([float(ops.convert_to_numpy(function(t))) for t in tensors])


def values(schedule, steps, compiler=lambda function: function, dtype=None):
    """The values of a schedule at a vector of steps, in the backend's own floats."""
    steps = ops.convert_to_tensor(np.asarray(steps), dtype=dtype or integer_dtype())
    return np.asarray(ops.convert_to_numpy(compiler(schedule)(steps)), dtype=np.float64)


def graph_size(schedule):
    """The number of operations in the compiled evaluation of one step."""
    step = ops.convert_to_tensor(7, dtype=integer_dtype())
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(schedule, autograph=False).get_concrete_function(
            tf.TensorSpec((), step.dtype)
        )
        return len(function.graph.get_operations())
    if backend == "jax":
        import jax

        return len(jax.make_jaxpr(schedule)(step).eqns)
    return 1  # An eager backend has no graph.
