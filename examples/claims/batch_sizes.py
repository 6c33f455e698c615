"""S0c: a batch B times as large wants B times the rate; S0d: and a warmup."""

import large_batch as example
import program

from claims.harness import Experiment, Gap, Part, Row, better, no_worse, spread

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
    for size in example.BATCH_SIZES:
        linear = found[size, "linear", False]
        fixed = found[size, "fixed", False]
        root = found[size, "sqrt", False]
        yield better(f"batch {size}: linear is better than fixed", linear, fixed)
        yield no_worse(f"batch {size}: linear is no worse than sqrt", linear, root)
    gaps = dict(results["gaps"])
    first, last = min(gaps), max(gaps)
    gap = Gap(gaps[last], gaps[first])
    yield Part(
        "many small steps and one large one end nearer to each other late than early",
        gap.below,
        f"distance over distance moved, after {last} epochs against {first}: {gap}",
    )


def judge_warmup(results):
    found = accuracies_of(results)
    base = found[example.BASE, "fixed", False]
    for size in example.BATCH_SIZES:
        warm = found[size, "linear", True]
        cold = found[size, "linear", False]
        yield better(f"batch {size}, linear: better with a warmup", warm, cold)
        gap = Gap(warm, base)
        yield Part(
            f"batch {size}, linear with a warmup: within {POINT:g} point of batch "
            f"{example.BASE}",
            gap.mean >= -POINT,
            f"{gap} points",
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
            "S0c",
            "Cutkosky, Lecture Notes 5: tuning and learning rate schedules",
            "A batch B times as large wants a rate B times as large, at equal epochs; "
            "and B small steps are close to one large step only when gradients are "
            "small.",
            "Better means that the 95 % interval (Student) of the differences within "
            "seeds lies above 0, no worse that it does not lie below.",
            judge_scaling,
            tables,
        ),
        Row(
            "S0d",
            "Cutkosky, Lecture Notes 5; Goyal et al., 2017, arXiv:1706.02677",
            "A warmup makes training with large batches work.",
            "Better means that the 95 % interval (Student) of the differences within "
            "seeds lies above 0. It works if the mean accuracy is at most one point "
            "below that of the small batch.",
            judge_warmup,
            tables,
        ),
    ),
    run,
    setting,
    draw,
)
