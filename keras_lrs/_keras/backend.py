"""The backend on which Keras runs."""

import keras

BACKEND = keras.backend.backend()
IS_TENSORFLOW = BACKEND == "tensorflow"
IS_JAX = BACKEND == "jax"
IS_TORCH = BACKEND == "torch"

END_OF_DATA: tuple[type[BaseException], ...] = (StopIteration,)
if IS_TENSORFLOW:
    import tensorflow as tf

    # Inside a graph, a TensorFlow iterator raises this after its last batch.
    END_OF_DATA += (tf.errors.OutOfRangeError,)
