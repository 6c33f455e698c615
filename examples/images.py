"""The images of CIFAR-10, and the networks for small images that programs share."""


def load_cifar10():
    import keras

    train, test = (
        (images.astype("float32") / 127.5 - 1.0, labels[:, 0])
        for images, labels in keras.datasets.cifar10.load_data()
    )
    return train, test


def hold_out(data):
    """Training data in two parts, the second in the place of the test data."""
    from sklearn.model_selection import train_test_split

    x, y = data[0]
    x_train, x_valid, y_train, y_valid = train_test_split(
        x, y, test_size=0.25, stratify=y, random_state=0
    )
    return (x_train, y_train), (x_valid, y_valid)


def make_resnet(widths, blocks, shape=(32, 32, 3), augmentation=None):
    """A residual network (He et al., 2015, arXiv:1512.03385) for small images.

    `augmentation` is a layer that the images go through first.
    """
    import keras
    from keras import layers

    def convolve(x, width, kernel, strides=1):
        x = layers.Conv2D(width, kernel, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    image = keras.Input(shape)
    x = image if augmentation is None else augmentation(image)
    x = layers.ReLU()(convolve(x, widths[0], 3))
    for stage, width in enumerate(widths):
        for block in range(blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            y = layers.ReLU()(convolve(x, width, 3, strides))
            shortcut = x if strides == 1 else convolve(x, width, 1, strides)
            x = layers.ReLU()(shortcut + convolve(y, width, 3))
    x = layers.GlobalAveragePooling2D()(x)
    # Logits that a loss can rely on, whatever precision the other layers have.
    return keras.Model(image, layers.Dense(10, dtype="float32")(x))


def make_vit(shape, patch, width, depth, heads, dropout, augmentation=None):
    """A vision transformer (Dosovitskiy et al., 2020, arXiv:2010.11929), pooled.

    `augmentation` is a layer that the images go through first.
    """
    import keras
    from keras import layers

    height, side, channels = shape[0] // patch, shape[1] // patch, shape[2]
    tokens = height * side
    image = keras.Input(shape)
    x = image if augmentation is None else augmentation(image)
    x = layers.Reshape((height, patch, side, patch, channels))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)
    x = layers.Reshape((tokens, patch * patch * channels))(x)
    # Its bias, one vector per patch, is the embedding of the positions.
    x = layers.EinsumDense(
        "btp,pw->btw",
        (tokens, width),
        bias_axes="tw",
        bias_initializer=keras.initializers.RandomNormal(stddev=0.02),
    )(x)
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(heads, width // heads, dropout=dropout)(y, y)
        x = x + layers.Dropout(dropout)(y)
        y = layers.LayerNormalization()(x)
        y = layers.Dense(2 * width, activation="gelu")(y)
        x = x + layers.Dropout(dropout)(layers.Dense(width)(y))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(image, layers.Dense(10, dtype="float32")(x))
