"""What the recipes have in common: their options, one training, and their report."""

import dataclasses
import os
import platform
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import program
import runs

from reproduce import data

TESTED_IN = 500  # Images of a batch that is evaluated.


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe of a publication.

    Args:
        name: On the command line.
        about: The publication, what is trained, and for how long.
        defaults: Of the options, at full size.
        quick: Other values of options, for `--quick`.
        made: What `--data made` has: `classes`, `shape`, `train`, `test`.
        small: The same for `--quick`.
        add_options: Adds the recipe's own options to a parser.
        trainings: A function from options and data to trainings by name: functions
            from a folder to what is written as JSON.
        report: A function from options and results to a header and rows.
        published: A header and rows, as the publication has them.
        check: A function from parser and options, that refuses what cannot be.
        draw: A function from results and a path, that draws a figure.
    """

    name: str
    about: str
    defaults: dict[str, Any]
    quick: dict[str, Any]
    made: dict[str, Any]
    small: dict[str, Any]
    trainings: Callable[..., dict[str, Callable[[Path], Any]]]
    report: Callable[..., tuple[list[str], Iterable[list[str]]]]
    published: tuple[list[str], list[list[str]]]
    add_options: Callable[[Any], None] = lambda parser: None
    check: Callable[[Any, Any], None] = lambda parser, options: None
    draw: Callable[[Any, Path], None] | None = None


def add_common(parser, recipe):
    """The options that all recipes have."""
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"])
    parser.add_argument(
        "--data", help="cifar10, cifar100, made, or a folder with `train` and `val`"
    )
    parser.add_argument("--epochs", type=int, help="of a whole training")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seeds", type=int, help="trainings of each kind")
    parser.add_argument("--mixed-precision", choices=["float16", "bfloat16"])
    parser.add_argument(
        "--steps", type=int, help="only so many; shows only that it runs"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small network and small data"
    )
    parser.add_argument(
        "--directory", default=f"runs/reproduce/{recipe.name}", help="for all state"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with what is in the directory"
    )
    parser.add_argument("--log-dir", help="a folder for TensorBoard")


def fill_in(recipe, options):
    """Gives options that were not given their defaults."""
    chosen = recipe.defaults | (recipe.quick if options.quick else {})
    for name, value in chosen.items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    if options.quick:
        options.data = data.MADE


# --- A training -----------------------------------------------------------------------


def compiled(model, optimizer):
    """A model that is ready to train; the rate of the optimizer is never used."""
    import keras

    cross_entropy = keras.metrics.SparseCategoricalCrossentropy(
        from_logits=True, name="cross_entropy"
    )
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # The loss includes what the weight decay adds.
        metrics=["accuracy", cross_entropy],
        jit_compile=program.jit_compile(),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def make(options, seed, network, optimizer):
    """A model of a seed, in the precision of the options.

    Args:
        options: Those of the program.
        seed: Of weights and random numbers.
        network: A function that makes the model.
        optimizer: A function that makes the optimizer.
    """
    import keras

    keras.utils.set_random_seed(seed)
    with runs.precision(options.mixed_precision):
        return compiled(network(), optimizer())


def steps_of(options, part):
    """Batches of an epoch."""
    return options.steps or -(-len(part) // options.batch_size)


def fit(
    model, found, options, epochs, callbacks, folder, seed=1, measure=None,
    finish=None, **batching,
):  # fmt: skip
    """Trains, or resumes, and evaluates.

    Args:
        model: A compiled model.
        found: The data.
        options: Those of the program.
        epochs: The length.
        callbacks: All but those for the logs and for resuming.
        folder: For all state.
        seed: Of the order of the images.
        measure: That of `runs.make_curves`.
        finish: Called before the last evaluation.
        **batching: Other arguments of `data.make_batches`.

    Returns:
        Cross-entropy and error (%) on the test data at the end, the logs of all epochs,
        steps, and milliseconds per step.
    """
    batching = {"steps": options.steps} | batching
    if options.steps:
        epochs = 1
    batches = data.make_batches(found.train, options.batch_size, seed, **batching)
    test = found.test.first(TESTED_IN) if options.steps else found.test
    tested = data.make_plain_batches(test, TESTED_IN)
    kept = runs.make_curves(folder / "curves.json", measure)
    milliseconds = runs.fit(
        model, batches, tested, epochs, [*callbacks, kept], folder, options.log_dir
    )
    if finish is not None:
        finish()
    model.save_weights(folder / "model.weights.h5")
    scores = model.evaluate(tested, verbose=0, return_dict=True)
    return {
        "milliseconds": milliseconds,
        "steps": epochs * len(batches),
        "loss": scores["cross_entropy"],
        "error": 100.0 - 100.0 * scores["accuracy"],
        "curves": kept.read(),
    }


def scheduled(**schedules):
    """A callback that drives the optimizer."""
    from keras_lrs.callbacks import HyperparameterScheduler

    return HyperparameterScheduler(**schedules)


def momentum_sgd(momentum=0.9, nesterov=False):
    """SGD without a decay of its own, which is in the gradient."""
    import keras

    return keras.optimizers.SGD(0.1, momentum=momentum, nesterov=nesterov)


# --- The report -----------------------------------------------------------------------


def spread(values):
    """Mean and standard deviation, or the number where there is one."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def write_report(recipe, options, found, root):
    """Writes the results as JSON and the tables as Markdown; returns the tables."""
    import keras

    header, rows = recipe.report(options, found)
    rows = list(rows)
    published_header, published = recipe.published
    settings = {
        name: value if isinstance(value, (int, float, str, list)) else str(value)
        for name, value in vars(options).items()
    }
    results = {
        "recipe": recipe.name,
        "settings": settings,
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "header": header,
        "rows": rows,
        "published": {"header": published_header, "rows": published},
        "trainings": found,
    }
    runs.write(root / "results.json", results)
    lines = [f"# {recipe.name}", "", recipe.about, ""]
    if options.quick or options.steps:
        lines += ["This run was cut short or small: it shows only that it runs.", ""]
    lines += ["Here:", "", *program.table(header, rows), ""]
    lines += ["As published:", "", *program.table(published_header, published)]
    text = "\n".join(lines)
    (root / "table.md").write_text(f"{text}\n", encoding="utf-8")
    return text


def main(recipe, parser, options):
    """Runs what is missing, and reports."""
    fill_in(recipe, options)
    recipe.check(parser, options)
    found = data.load(options.data, recipe.small if options.quick else recipe.made)
    trainings = recipe.trainings(options, found)
    root = Path(options.directory)
    results = runs.run_all(
        parser, options, list(trainings), lambda name, folder: trainings[name](folder)
    )
    print(f"\n{write_report(recipe, options, results, root)}")
    if recipe.draw is not None:
        recipe.draw(results, root / "figure.png")
    print(f"\nTables and results: {root / 'table.md'}, {root / 'results.json'}")
