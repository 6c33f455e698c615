"""Augmentation inside of the model, so that it runs on the model's device.

A window of an image, moved, resized and mirrored, is the product of the image with a
matrix for its rows and one for its columns. Each row of a matrix has the two weights of
a linear interpolation, or a single 1 where the window has whole positions. Of pixels
from 0 to 255 these products are exact in every format that a GPU multiplies in, so
normalize afterwards.
"""

import math

import keras
from keras import layers, ops


def windows(images, starts, sizes, mirrored, size, outside):
    """A window of each image, resized.

    Args:
        images: Of shape `(batch, height, width, channels)`.
        starts: Of shape `(2, batch)`: the first row and the first column.
        sizes: Of the same shape: the rows and the columns of the windows.
        mirrored: Of shape `(batch,)`: 1.0 mirrors the columns, 0.0 does not.
        size: The rows and the columns of the result.
        outside: Whether windows may leave the image, which is black there. Otherwise
            its border is repeated.
    """
    rows, columns = (
        _matrix(starts[axis], sizes[axis], images.shape[axis + 1], size, outside)
        for axis in (0, 1)
    )
    mirrored = mirrored[:, None, None]
    columns = mirrored * ops.flip(columns, axis=1) + (1.0 - mirrored) * columns
    columns, rows = (ops.cast(each, images.dtype) for each in (columns, rows))
    images = ops.einsum("bih,bhwc->biwc", rows, images)
    return ops.einsum("bjw,biwc->bijc", columns, images)


def _matrix(start, extent, length, size, outside):
    """The weights of `length` pixels in each of `size` places, for every image."""
    places = (ops.arange(size, dtype="float32") + 0.5) / size
    positions = start[:, None] + places[None] * extent[:, None] - 0.5
    if not outside:
        positions = ops.clip(positions, 0.0, length - 1.0)
    pixels = ops.arange(length, dtype="float32")
    return ops.relu(1.0 - ops.abs(positions[:, :, None] - pixels[None, None]))


class Windows(layers.Layer):
    """What the two layers have in common: random numbers and no weights."""

    def __init__(self, mirror=True, seed=None, **arguments):
        super().__init__(**arguments)
        self.mirror = mirror
        self.generator = keras.random.SeedGenerator(seed)

    def draw(self, shape, low=0.0, high=1.0):
        """Uniform random numbers."""
        return keras.random.uniform(shape, low, high, seed=self.generator)

    def mirrored(self, batch):
        """For each image, whether to mirror it: in half of the cases."""
        chosen = ops.cast(self.draw((batch,)) < 0.5, "float32")
        return chosen if self.mirror else ops.zeros_like(chosen)

    def get_config(self):
        """The arguments, without the seed, which is in the state."""
        return {**super().get_config(), "mirror": self.mirror}


@keras.saving.register_keras_serializable("keras_lrs_examples")
class RandomShift(Windows):
    """Moves each image by up to `pixels` whole pixels and mirrors half of them.

    Cutting at random from the image with a black border of that width is the same.
    """

    def __init__(self, pixels=4, **arguments):
        super().__init__(**arguments)
        self.pixels = pixels

    def call(self, images, training=False):
        """Moved images while training, the same images otherwise."""
        if not training:
            return images
        batch, size = ops.shape(images)[0], images.shape[1]
        moves = ops.floor(self.draw((2, batch), 0.0, 2.0 * self.pixels + 1.0))
        # A uniform number may be rounded up to its bound.
        starts = ops.minimum(moves, 2.0 * self.pixels) - self.pixels
        sizes = ops.full((2, batch), float(size))
        mirrored = self.mirrored(batch)
        return windows(images, starts, sizes, mirrored, size, outside=True)

    def get_config(self):
        """The arguments."""
        return {**super().get_config(), "pixels": self.pixels}


@keras.saving.register_keras_serializable("keras_lrs_examples")
class RandomResizedCrop(Windows):
    """Cuts a random share of each image, of a random ratio, and resizes it.

    While not training, the middle of the image is cut out (Szegedy et al., 2014).

    Args:
        size: Rows and columns of the result.
        scale: The share of the area, uniform between these.
        ratio: Columns over rows, uniform on a log scale between these.
        **arguments: Those of `Windows`.
    """

    def __init__(self, size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), **arguments):
        super().__init__(**arguments)
        self.size, self.scale, self.ratio = size, tuple(scale), tuple(ratio)

    def call(self, images, training=False):
        """Random windows while training, those in the middle otherwise."""
        batch, side = ops.shape(images)[0], float(images.shape[1])
        if not training:
            starts = ops.full((2, batch), (side - self.size) // 2)
            sizes = ops.full((2, batch), float(self.size))
            mirrored = ops.zeros((batch,))
            return windows(images, starts, sizes, mirrored, self.size, outside=False)
        area = side * side * self.draw((batch,), *self.scale)
        ratio = ops.exp(self.draw((batch,), *map(math.log, self.ratio)))
        sizes = ops.stack([ops.sqrt(area / ratio), ops.sqrt(area * ratio)])
        sizes = ops.minimum(sizes, side)
        starts = (side - sizes) * self.draw((2, batch))
        mirrored = self.mirrored(batch)
        return windows(images, starts, sizes, mirrored, self.size, outside=False)

    def get_config(self):
        """The arguments."""
        own = {"size": self.size, "scale": self.scale, "ratio": self.ratio}
        return {**super().get_config(), **own}

    def compute_output_shape(self, shape):
        """Images of the new size."""
        return (shape[0], self.size, self.size, shape[3])
