"""Networks that train fast: chosen by the shape of the data."""

from claims import regime


def make_network(shape, classes, channels=regime.CHANNELS):
    """Two hidden layers for a table; three convolutions for sequences and images."""
    import keras
    from keras import layers

    if len(shape) == 1:
        hidden = [layers.Dense(regime.HIDDEN, activation="relu") for _ in range(2)]
        return keras.Sequential([keras.Input(shape), *hidden, layers.Dense(classes)])
    inputs = keras.Input(shape)
    x = inputs
    for width in (5, 3, 3):
        for axis in range(1, len(shape)):
            x = patches(x, axis, width)
        x = layers.Dense(channels, use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(x)))


def patches(x, axis, width, stride=2, padding=1):
    """What a convolution along an axis sees at each place, as channels.

    With a dense layer behind it, it is that convolution. On a CPU, JAX's own is slow
    inside of the loop that several steps of one execution are.
    """
    from keras import ops

    around = [[0, 0]] * len(x.shape)
    around[axis] = [padding, padding]
    x = ops.pad(x, around)
    last = (x.shape[axis] - width) // stride * stride
    before = (slice(None),) * axis
    return ops.concatenate(
        [x[(*before, slice(k, k + last + 1, stride))] for k in range(width)], axis=-1
    )


def words(shape):
    """The network for data of that shape."""
    if len(shape) == 1:
        return f"a network of two hidden layers of {regime.HIDDEN} units"
    return (
        f"a convolutional network of three layers of {regime.CHANNELS} channels with "
        "batch normalization"
    )
