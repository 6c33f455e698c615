"""Data by name or from a file: training sets, held-out data, and test data."""

import dataclasses
from pathlib import Path
from typing import Any

from claims import regime

DEFAULT = "mnist1d"


@dataclasses.dataclass(frozen=True)
class Data:
    """What is trained with.

    Args:
        name: On the command line, and of the folder of results.
        label: In the page.
        about: In the page, in a sentence.
        training: Training sets, of which each is inputs and labels. Where there is
            data enough, each seed has one, and then each that rates are chosen with;
            else there is one.
        held_out: What rates are chosen by.
        test: What is reported.
        grid: `GRID` or `WIDE_GRID` of the regime.
    """

    name: str
    label: str
    about: str
    training: tuple[Any, ...]
    held_out: Any
    test: Any
    grid: tuple[int, ...] = regime.GRID

    @property
    def one_each(self):
        """Whether each seed has its own training set."""
        return len(self.training) > 1

    @property
    def shape(self):
        """Of one input."""
        return self.test[0].shape[1:]

    @property
    def classes(self):
        """How many there are, in all parts."""
        parts = (*self.training, self.held_out, self.test)
        return int(max(y.max() for _, y in parts)) + 1

    @property
    def batch_size(self):
        """Small for few examples."""
        few = len(self.training[0][0]) < regime.SMALL
        return regime.SMALL_BATCH_SIZE if few else regime.BATCH_SIZE

    def train(self, seed, choosing=False):
        """The training set of a seed, or of one that rates are chosen with."""
        if not self.one_each:
            return self.training[0]
        return self.training[-1 - seed if choosing else seed]

    def describe(self):
        """The data in words, and what a seed is."""
        own = "the first weights and the order of the data."
        if self.one_each:
            return f"{self.about} A seed determines the training set, {own}"
        return (
            f"{self.about} A seed determines {own} All seeds share the same training "
            "and test data, so no interval includes the variation between draws of the "
            "data."
        )


def load(name, seeds, folder):
    """The data of that name, or of that `.npz` file.

    Args:
        name: One of `NAMES`, or a path.
        seeds: How many seeds want their own training set.
        folder: Where generated data are kept.
    """
    if name in NAMES:
        return NAMES[name](seeds, folder)
    return load_file(Path(name))


def label_of(name):
    """How the page calls data of that name."""
    return {"mnist1d": "MNIST-1D", "digits": "handwritten digits"}.get(
        name, name.replace("_", " ")
    )


def folder_of(name):
    """The name of a folder for the results on that data."""
    return name if name in NAMES else Path(name).stem


# --- Data by name ---------------------------------------------------------------------


def load_mnist1d(seeds, folder):
    import numpy as np

    sets = seeds + regime.TUNING_SEEDS
    sizes = [regime.TRAINING] * sets + [regime.HELD_OUT, regime.TEST]
    # Those of the tuning seeds are the last: fewer seeds have the same first sets only
    # if as many images are made.
    path = folder / f"mnist1d-{sum(sizes)}-{regime.GENERATOR_SEED}.npz"
    if not path.exists():
        try:
            from mnist1d.data import get_dataset_args, make_dataset
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "`--data mnist1d` needs the package mnist1d: `pip install mnist1d`"
            ) from error
        arguments = get_dataset_args()
        arguments.num_samples = sum(sizes)
        arguments.train_split = 1.0
        arguments.seed = regime.GENERATOR_SEED
        made = make_dataset(arguments)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, x=made["x"].astype("float32"), y=made["y"])
        unfinished.replace(path)
    with np.load(path) as made:
        x, y = made["x"][..., None], made["y"].astype("int32")
    parts = parts_of(x, y, sizes)
    about = (
        f"MNIST-1D, generator seed {regime.GENERATOR_SEED}: {regime.TRAINING:,} "
        f"training examples for each seed, {regime.HELD_OUT:,} held out for choosing "
        f"rates, and {regime.TEST:,} for testing."
    )
    return Data(
        "mnist1d", label_of("mnist1d"), about, tuple(parts[:sets]), *parts[sets:]
    )


def load_digits(seeds, folder):
    """Digits in three parts: 640 to train with, 357 to choose rates by, 800 to test.

    A tenth of the labels to train with are drawn at random: a network that learns all
    of them by heart has gradients without noise, and then no use for a decay.
    """
    import numpy as np
    from sklearn import datasets

    x, y = datasets.load_digits(return_X_y=True)
    training, held_out, test = split(x / 16.0, y, 640, 800)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(training[1]), len(training[1]) // 10, replace=False)
    training[1][chosen] = rng.integers(0, 10, len(chosen))
    about = (
        "scikit-learn's handwritten digits (8 x 8): 640 training examples, a tenth of "
        "their labels drawn at random so that gradients stay noisy, 357 held out for "
        "choosing rates, and 800 for testing."
    )
    parts = (training,), held_out, test
    return Data("digits", label_of("digits"), about, *parts, regime.WIDE_GRID)


def load_diamonds(seeds, folder):
    """A table of 9 columns that predict which of five cuts a diamond has.

    Grades of color and clarity are numbers, in their order.
    """
    import numpy as np

    try:
        from plotnine.data import diamonds
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "`--data diamonds` needs the package plotnine: `pip install plotnine`"
        ) from error
    sets = seeds + regime.TUNING_SEEDS
    sizes = [regime.HELD_OUT, regime.TEST] + [regime.TABLE_TRAINING] * sets
    if sum(sizes) > len(diamonds):
        raise ValueError(
            f"`--data diamonds` has too few rows ({len(diamonds):,}) for "
            f"{regime.TABLE_TRAINING:,} to train with for each seed. Received: --seeds "
            f"{seeds}"
        )
    order = np.random.default_rng(regime.GENERATOR_SEED).permutation(len(diamonds))
    table = diamonds.iloc[order]
    for name in ("cut", "color", "clarity"):
        table = table.assign(**{name: table[name].cat.codes})
    x = table.drop(columns="cut").to_numpy("float32")
    x = (x - x.mean(0)) / x.std(0)
    held_out, test, *training = parts_of(x, table["cut"].to_numpy("int32"), sizes)
    about = (
        "The table of diamonds of ggplot2 (53,940 rows, 9 columns that predict one of "
        f"five cuts), as plotnine has it: {regime.TABLE_TRAINING:,} training examples "
        f"for each seed, {regime.HELD_OUT:,} held out for choosing rates, and "
        f"{regime.TEST:,} for testing."
    )
    name = "diamonds"
    parts = tuple(training), held_out, test
    return Data(name, label_of(name), about, *parts, regime.WIDE_GRID)


NAMES = {
    "mnist1d": load_mnist1d,
    "digits": load_digits,
    "diamonds": load_diamonds,
}


def parts_of(x, y, sizes):
    """Inputs and labels in parts of these sizes, one behind the other."""
    import numpy as np

    ends = np.cumsum(sizes)
    return [
        (x[end - size : end], y[end - size : end])
        for size, end in zip(sizes, ends, strict=True)
    ]


def split(x, y, training, test):
    """Three parts with equal shares of the classes, always the same."""
    rest, tested = cut((x.astype("float32"), y.astype("int32")), test)
    return *cut(rest, len(rest[0]) - training), tested


def cut(part, size):
    """What is left of inputs and labels, and a part of that size."""
    from sklearn.model_selection import train_test_split

    x, y = part
    x, x_cut, y, y_cut = train_test_split(
        x, y, test_size=size, stratify=y, random_state=0
    )
    return (x, y), (x_cut, y_cut)


# --- Files ----------------------------------------------------------------------------


def load_file(path):
    """Data of a `.npz`: `x_train`, `y_train`, `x_test`, `y_test`, or `x` and `y`.

    All are standardized by the mean and the deviation of what is trained with; a fifth
    of that is held out, and a fifth of `x` and `y` is to test.
    """
    import numpy as np

    if not path.exists():
        raise FileNotFoundError(
            f"--data must be one of {', '.join(NAMES)}, or a file. Received: {path}"
        )
    with np.load(path) as file:
        found = {key: file[key] for key in file.files}
    whole = {"x_train", "y_train", "x_test", "y_test"} <= set(found)
    if not whole and not {"x", "y"} <= set(found):
        raise ValueError(
            "A file for --data must have x_train, y_train, x_test and y_test, or x "
            f"and y. Received: {path} with {', '.join(sorted(found))}"
        )
    if whole:
        training = found["x_train"], found["y_train"].reshape(-1)
        test = found["x_test"], found["y_test"].reshape(-1)
    else:
        every = found["x"], found["y"].reshape(-1)
        training, test = cut(every, len(every[0]) // 5)
    (x, y), held_out = cut(training, len(training[0]) // 5)
    axes = 0 if x.ndim == 2 else None  # Of a table, each column has its own scale.
    mean, deviation = x.mean(axes), np.maximum(x.std(axes), 1e-6)

    def standardized(part):
        images, labels = part
        images = ((images - mean) / deviation).astype("float32")
        # Of images without channels the last axis is one.
        if images.ndim == 3 and images.shape[1] == images.shape[2]:
            images = images[..., None]
        return images, labels.astype("int32")

    parts = [standardized(part) for part in ((x, y), held_out, test)]
    about = (
        f"{path.name}: {len(parts[0][1]):,} training examples, {len(parts[1][1]):,} "
        f"held out for choosing rates, and {len(parts[2][1]):,} for testing."
    )
    return Data(path.stem, label_of(path.stem), about, (parts[0],), *parts[1:])
