"""The networks of the publications, layer by layer."""

import keras
import numpy as np
from keras import layers, ops

from reproduce.augmentation import RandomResizedCrop, RandomShift

# The means and the deviations of the channels, from 0 to 255.
CIFAR = ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def begin(shape, channels, augmentation=None):
    """Bytes, moved while training, and then normalized."""
    image = keras.Input(shape, dtype="uint8")
    x = layers.Rescaling(1.0)(image)  # Floats.
    if augmentation is not None:
        x = augmentation(x)
    means, deviations = (np.array(each) for each in channels)
    return image, layers.Normalization(mean=means, variance=deviations**2)(x)


class Layers:
    """Convolutions and normalizations with the same decay and statistics.

    Args:
        decay: The weight decay, as a term of the gradient (L2); of all that is trained.
        frozen: Whether the normalizations have neither a scale nor a center.
    """

    def __init__(self, decay=0.0, frozen=False):
        self.decay, self.frozen = decay, frozen

    def regularizer(self):
        """One whose gradient is the decay times the weights."""
        return keras.regularizers.L2(0.5 * self.decay) if self.decay else None

    def convolve(self, x, width, kernel, strides=1):
        """Without a bias, padded as PyTorch does: by half of the kernel."""
        if kernel > 1:
            x = layers.ZeroPadding2D(kernel // 2)(x)
        return layers.Conv2D(
            width, kernel, strides, use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(
                2.0, "fan_out", "untruncated_normal"
            ),
            kernel_regularizer=self.regularizer(),
        )(x)  # fmt: skip

    def normalize(self, x):
        """With PyTorch's momentum and epsilon, which the publications used."""
        trained = not self.frozen
        return layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, center=trained, scale=trained,
            beta_regularizer=self.regularizer() if trained else None,
            gamma_regularizer=self.regularizer() if trained else None,
        )(x)  # fmt: skip

    def classify(self, x, classes, trainable=True):
        """Logits that a loss can rely on, whatever precision the other layers have."""
        decay = self.regularizer() if trainable else None
        return layers.Dense(
            classes, dtype="float32", trainable=trainable,
            kernel_regularizer=decay, bias_regularizer=decay,
        )(x)  # fmt: skip


def shortcut(x, width, strides):
    """He et al.'s option A, without parameters: every second pixel, channels of 0."""
    if strides == 1 and x.shape[-1] == width:
        return x
    more = width - x.shape[-1]

    def shortened(x):
        x = x[:, ::strides, ::strides]
        return ops.pad(x, [[0, 0], [0, 0], [0, 0], [more // 2, more - more // 2]])

    height, columns = (-(-side // strides) for side in x.shape[1:3])
    return layers.Lambda(shortened, output_shape=(height, columns, width))(x)


def make_resnet(depth, classes, shape=(32, 32, 3), widths=(16, 32, 64), decay=1e-4):
    """For CIFAR: 6 n + 2 layers (He et al., 2015, arXiv:1512.03385, section 4.2)."""
    made = Layers(decay)
    image, x = begin(shape, CIFAR, RandomShift())
    x = layers.ReLU()(made.normalize(made.convolve(x, widths[0], 3)))
    for stage, width in enumerate(widths):
        for block in range((depth - 2) // (2 * len(widths))):
            strides = 2 if stage > 0 and block == 0 else 1
            y = layers.ReLU()(made.normalize(made.convolve(x, width, 3, strides)))
            y = made.normalize(made.convolve(y, width, 3))
            x = layers.ReLU()(shortcut(x, width, strides) + y)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, made.classify(x, classes))


def make_preresnet(
    depth, classes, shape=(32, 32, 3), widths=(16, 32, 64), decay=0.0,
    frozen=False, trained_head=True,
):  # fmt: skip
    """The same with activations before convolutions (He et al., arXiv:1603.05027).

    With `frozen` scales and centers, and a head that is not trained, all that is
    trained are kernels that feed a normalization.
    """
    made = Layers(decay, frozen)
    image, x = begin(shape, CIFAR, RandomShift())
    x = made.convolve(x, widths[0], 3)
    for stage, width in enumerate(widths):
        for block in range((depth - 2) // (2 * len(widths))):
            strides = 2 if stage > 0 and block == 0 else 1
            y = layers.ReLU()(made.normalize(x))
            y = made.convolve(y, width, 3, strides)
            y = layers.ReLU()(made.normalize(y))
            x = shortcut(x, width, strides) + made.convolve(y, width, 3)
    x = layers.ReLU()(made.normalize(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, made.classify(x, classes, trained_head))


def make_resnet50(
    classes=1000, shape=(256, 256, 3), size=224, width=64, blocks=(3, 4, 6, 3),
    decay=1e-4,
):  # fmt: skip
    """ResNet-50 with the stride in the 3 x 3 convolutions, as torchvision has it."""
    made = Layers(decay)
    image, x = begin(shape, IMAGENET, RandomResizedCrop(size))
    x = layers.ReLU()(made.normalize(made.convolve(x, width, 7, 2)))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage, number in enumerate(blocks):
        inner = width * 2**stage
        for block in range(number):
            strides = 2 if stage > 0 and block == 0 else 1
            y = layers.ReLU()(made.normalize(made.convolve(x, inner, 1)))
            y = layers.ReLU()(made.normalize(made.convolve(y, inner, 3, strides)))
            y = made.normalize(made.convolve(y, 4 * inner, 1))
            if block == 0:
                x = made.normalize(made.convolve(x, 4 * inner, 1, strides))
            x = layers.ReLU()(x + y)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, made.classify(x, classes))


# --- The tutorial's transformer -------------------------------------------------------


def waves(tokens, width):
    """Sines and cosines of the positions (Vaswani et al., 2017), as an array."""
    rates = 10_000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(tokens)[:, None] * rates
    table = np.empty((tokens, width), "float32")
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)
    return table


class Tokens(layers.Layer):
    """Appends a trained class token to the patches and adds the positions."""

    def build(self, shape):
        """One token for all images."""
        self.token = self.add_weight(
            shape=(1, 1, shape[-1]), initializer="random_normal", name="token"
        )
        self.positions = waves(shape[1] + 1, shape[-1])

    def call(self, x):
        """The class token comes last."""
        token = ops.cast(self.token, x.dtype)
        token = ops.broadcast_to(token, (ops.shape(x)[0], 1, x.shape[-1]))
        x = ops.concatenate([x, token], axis=1)
        return x + ops.cast(ops.convert_to_tensor(self.positions), x.dtype)

    def compute_output_shape(self, shape):
        """A token more."""
        return (shape[0], shape[1] + 1, shape[2])


def make_transformer(
    classes=10, shape=(32, 32, 3), patch=8, width=128, depth=4, heads=4, dropout=0.3,
    hidden=4,
):  # fmt: skip
    """The tutorial's: a class token is appended, and the head reads token 0.

    So it reads the first patch, and not the class token; this is the tutorial's own.

    Args:
        classes: Of the logits.
        shape: Of an image.
        patch: Rows and columns of a patch.
        width: Of a token.
        depth: Blocks.
        heads: Of each attention.
        dropout: After both halves of each block.
        hidden: How many times as wide the layer between is. The usual 4; the tutorial
            does not say.
    """
    image, x = begin(shape, CIFAR)
    x = layers.Conv2D(width, patch, patch)(x)
    x = layers.Reshape((-1, width))(x)
    x = Tokens()(x)
    for _ in range(depth):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.MultiHeadAttention(heads, width // heads)(y, y)
        x = x + layers.Dropout(dropout)(y)
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.Dense(hidden * width, activation="gelu")(y)
        x = x + layers.Dropout(dropout)(layers.Dense(width)(y))
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    first = layers.Lambda(lambda x: x[:, 0], output_shape=(width,))(x)
    return keras.Model(image, layers.Dense(classes, dtype="float32")(first))
