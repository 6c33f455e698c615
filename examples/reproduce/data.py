"""Images as bytes: those of CIFAR, those in folders, or made ones."""

import concurrent.futures
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

MADE = "made"
SIDE = 256  # Of the squares that images in folders are cut to.


@dataclasses.dataclass(frozen=True)
class Part:
    """Images, which are read by their rows, and their labels."""

    read: Callable[[Any], Any]
    labels: Any

    def __len__(self):
        return len(self.labels)

    def first(self, number):
        """The first so many."""
        import numpy as np

        return self.rows(np.arange(min(number, len(self))))

    def rows(self, chosen):
        """Those with these numbers."""
        return Part(lambda rows: self.read(chosen[rows]), self.labels[chosen])


@dataclasses.dataclass(frozen=True)
class Data:
    """Images to train with, and to test."""

    train: Part
    test: Part
    classes: int
    shape: tuple[int, int, int]

    def held_out(self, number):
        """The last images to train with, in the place of the test data."""
        import numpy as np

        order = np.random.default_rng(0).permutation(len(self.train))
        train, test = order[:-number], order[-number:]
        return dataclasses.replace(
            self, train=self.train.rows(train), test=self.train.rows(test)
        )


def of_arrays(x, y):
    return Part(lambda rows: x[rows], y.reshape(-1).astype("int32"))


def load(name, made):
    """Images by the name of a data set, or of a folder.

    Args:
        name: `"cifar10"`, `"cifar100"`, `"made"`, or the path of a folder with folders
            `train` and `val`, which have a folder for each class.
        made: Classes, shape, and how many images `"made"` has.
    """
    import keras

    if name == MADE:
        return make(**made)
    if name in ("cifar10", "cifar100"):
        train, test = getattr(keras.datasets, name).load_data()
        parts = (of_arrays(*each) for each in (train, test))
        return Data(*parts, 10 if name == "cifar10" else 100, (32, 32, 3))
    return load_folders(Path(name))


def make(classes, shape, train, test):
    """Noise around a pattern of each class, which a network can learn."""
    import numpy as np

    rng = np.random.default_rng(0)
    small = (classes, 4, 4, shape[2])
    patterns = rng.integers(64, 192, small).repeat(shape[0] // 4, 1)
    patterns = patterns.repeat(shape[1] // 4, 2)

    def part(number):
        y = rng.integers(0, classes, number)
        x = patterns[y] + rng.normal(scale=32.0, size=(number, *shape))
        return of_arrays(np.clip(x, 0, 255).astype("uint8"), y)

    return Data(part(train), part(test), classes, shape)


def load_folders(root):
    """Files in a folder for each class; read by threads, cut to squares."""
    import numpy as np

    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise FileNotFoundError(
                f"--data must be cifar10, cifar100, {MADE}, or a folder with folders "
                f"`train` and `val`. Received: {root}, which has no `{part}`"
            )
    classes = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    pool = concurrent.futures.ThreadPoolExecutor()

    def part(name):
        files = [
            (path, label)
            for label, each in enumerate(classes)
            for path in sorted((root / name / each).iterdir())
        ]
        paths = np.array([str(path) for path, _ in files])

        def read(rows):
            return np.stack(list(pool.map(read_square, paths[rows])))

        return Part(read, np.array([label for _, label in files], "int32"))

    return Data(part("train"), part("val"), len(classes), (SIDE, SIDE, 3))


def read_square(path):
    """The middle square of an image file, as bytes."""
    import keras
    import numpy as np

    image = keras.utils.load_img(
        path, target_size=(SIDE, SIDE), interpolation="bilinear", keep_aspect_ratio=True
    )
    return np.asarray(image, "uint8")


def make_batches(part, batch_size, seed, replacement=False, steps=None):
    """Batches in an order that seed and epoch say: a repeated epoch is the same.

    Args:
        part: The images.
        batch_size: Of all batches but the last one.
        seed: Of the order.
        replacement: Whether each batch is drawn from all images anew.
        steps: How many batches an epoch has; None is all images once.
    """
    import keras
    import numpy as np

    class Batches(keras.utils.PyDataset):
        def begin(self, epoch):
            self.epoch = epoch
            self.order = np.random.default_rng((seed, epoch)).permutation(len(part))

        def __len__(self):
            return steps or -(-len(part) // batch_size)

        def __getitem__(self, index):
            if replacement:
                random = np.random.default_rng((seed, self.epoch, index))
                rows = random.integers(0, len(part), batch_size)
            else:
                rows = self.order[index * batch_size : (index + 1) * batch_size]
            return part.read(rows), part.labels[rows]

    batches = Batches()
    batches.begin(0)
    return batches


def make_plain_batches(part, batch_size):
    """All images in their order, for validation."""
    import keras
    import numpy as np

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return -(-len(part) // batch_size)

        def __getitem__(self, index):
            end = min((index + 1) * batch_size, len(part))
            rows = np.arange(index * batch_size, end)
            return part.read(rows), part.labels[rows]

    return Batches()
