"""What the programs of this folder have in common: options, backend, runs, tables."""

import argparse
import os
import statistics


def base_parser(description):
    """A parser with the one option that every program has."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"])
    return parser


def make_parser(description, output, seeds=5):
    """A parser with the options of every program that runs all more than once."""
    parser = base_parser(description)
    parser.add_argument("--seeds", type=int, default=seeds, help="runs of everything")
    parser.add_argument("--output", default=output, help="the picture's path")
    return parser


def parse(parser, arguments):
    """The options, with the backend set before Keras is imported."""
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        if type(value) is int and value < 1:
            parser.error(f"--{name} must be at least 1")
    # Keras reads its backend when it is imported, so it is imported in the functions.
    if options.backend is not None:
        os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return options


def spread(runs):
    """The mean of runs and their standard deviation."""
    return f"{statistics.mean(runs):.2f} ± {statistics.pstdev(runs):.2f}"


def jit_compile():
    """Whether XLA is to compile the training step.

    For small networks TensorFlow's own kernels are faster on a CPU.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    return keras.backend.backend() == "jax"


def half_interval(values):
    """Of the mean of values, at 95 % (Student); of one value it is nan."""
    import numpy as np
    from scipy import stats

    if len(values) == 1:
        return np.nan
    error = values.std(ddof=1) / len(values) ** 0.5
    return stats.t.ppf(0.975, len(values) - 1) * error


def table(header, rows):
    """A table in Markdown, of columns that are as wide as their widest cell."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"| {' | '.join(padded)} |"


def restart(model, new):
    """Gives a model all that a new one has, and keeps what it has compiled."""
    ours = [*model.variables, *model.optimizer.variables]
    theirs = [*new.variables, *new.optimizer.variables]
    for variable, fresh in zip(ours, theirs, strict=True):
        variable.assign(fresh)
