"""Which backend Keras runs on."""

import keras

BACKEND = keras.backend.backend()
IS_TENSORFLOW = BACKEND == "tensorflow"
IS_JAX = BACKEND == "jax"
IS_TORCH = BACKEND == "torch"

END_OF_DATA: tuple[type[BaseException], ...] = (StopIteration,)
if IS_TENSORFLOW:
    import tensorflow as tf

    # How a TensorFlow iterator says inside a graph that it has no more batches.
    END_OF_DATA += (tf.errors.OutOfRangeError,)
