"""A batch B times as large wants B times the rate; and a warmup."""

import large_batch as example
import program

from claims.experiment import NOTES, Experiment, Row
from claims.judging import (
    MARGIN,
    Fact,
    Statement,
    better,
    no_worse,
    spread,
)

POINT = 1.0  # Of accuracy: what "works" may lose against the base.


def run(size):
    epochs = size.pick(example.EPOCHS, 2)
    stages = size.pick(example.STAGES, (0, 1))
    data = example.load_images()
    accuracies, _ = example.compare(size.seeds, epochs, data)
    gaps = example.compare_iterates(size.seeds, stages, data)
    return {
        "epochs": epochs,
        "seeds": size.seeds,
        "accuracies": [[*key, runs] for key, runs in accuracies.items()],
        "gaps": [[stage, runs] for stage, runs in gaps.items()],
    }


def accuracies_of(results):
    return {(b, rule, warmup): runs for b, rule, warmup, runs in results["accuracies"]}


def judge_scaling(results):
    found = accuracies_of(results)
    for size in sizes_of(results):
        linear = found[size, "linear", False]
        fixed = found[size, "fixed", False]
        root = found[size, "sqrt", False]
        yield better(f"batch {size}: linear is better than fixed", linear, fixed)
        yield no_worse(f"batch {size}: linear is no worse than sqrt", linear, root)
    yield Statement(
        "many small steps and one large one end nearer to each other where gradients "
        "are smaller",
        Fact("", None, "the norms of the gradients were not measured"),
    )
    yield Statement(
        "the best rate is proportional to the batch size",
        Fact("", None, "the best rate was only sought for the smallest batch"),
    )


def sizes_of(results):
    """The batch sizes beside the base."""
    return sorted({size for size, *_ in accuracies_of(results)} - {example.BASE})


def judge_warmup(results):
    found = accuracies_of(results)
    base = found[example.BASE, "fixed", False]
    for size in sizes_of(results):
        warm = found[size, "linear", True]
        cold = found[size, "linear", False]
        yield better(f"batch {size}, linear: better with a warmup", warm, cold)
        yield no_worse(
            f"batch {size}, linear with a warmup: less than {POINT:g} point below "
            f"batch {example.BASE}",
            warm,
            base,
            POINT,
        )


def tables(results):
    found = accuracies_of(results)
    yield "Test accuracy (%), ± the standard deviation over seeds:"
    yield ""
    rows = [
        [f"{size}", rule, *(spread(found[size, rule, w]) for w in (False, True))]
        for size, rule, warmup in found
        if not warmup
    ]
    header = ["batch", "rate", "without warmup", "with warmup"]
    yield from program.table(header, rows)
    yield ""
    yield f"One step on {max(example.BATCH_SIZES)} images against many on"
    yield f"{example.BASE}: the distance of their ends over the distance moved:"
    yield ""
    rows = [[f"{stage}", spread(runs)] for stage, runs in results["gaps"]]
    yield from program.table(["after epochs", "distance"], rows)


def setting(results):
    return (
        f"A network of two hidden layers of 128 units, SGD with momentum "
        f"{example.MOMENTUM:g}, a cosine over {results['epochs']} epochs from a rate "
        f"of {example.RATE:g} at batch {example.BASE} (chosen on data held out), "
        f"{example.IMAGES:,} handwritten digits, {results['seeds']} seeds, by "
        "`examples/large_batch.py`. Iterates are compared without momentum."
    )


def draw(results, path):
    epochs = results["epochs"]
    schedules = {
        key: example.make_schedule(*key).bind(
            epochs * example.IMAGES // key[0], example.IMAGES // key[0]
        )
        for key in accuracies_of(results)
    }
    example.draw(accuracies_of(results), schedules, epochs, path)


EXPERIMENT = Experiment(
    "batch_sizes",
    (
        Row(
            "Linear scaling with the batch size",
            NOTES,
            "A batch B times as large wants a rate B times as large, at equal epochs; "
            "and B small steps are close to one large step only when gradients are "
            "small.",
            f"Test accuracies are compared. No worse is less than {MARGIN:g} points "
            "below.",
            judge_scaling,
            tables,
        ),
        Row(
            "Warmup for large batches",
            NOTES,
            "A warmup makes training with large batches work.",
            "Test accuracies are compared. It works if the accuracy is less than one "
            "point below that of the small batch.",
            judge_warmup,
            tables,
            "Goyal et al., 2017, arXiv:1706.02677",
        ),
    ),
    run,
    setting,
    draw,
)
