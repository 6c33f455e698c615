"""A batch B times as large wants B times the rate; and a warmup."""

import dataclasses

import large_batch as example
import numpy as np
import program

from claims import regime
from claims.experiment import NOTES, Experiment, Row, job, wrap
from claims.harness import Kind, grid_words, words_of
from claims.judging import (
    MARGIN,
    Statement,
    better,
    difference,
    exceeds,
    no_worse,
    resample,
    spread,
)
from claims.regime import SGD

POINT = 1.0  # Of accuracy: what "works" may lose against the base.
EPOCHS, WARMUP_EPOCHS = 20, 4
RATIOS = (4, 16)  # Of the larger batches to the smallest, a quarter of the usual one.
PROPORTIONAL = 1.0  # The exponent that means it,
EXPONENT_MARGIN = 0.25  # and how far from it an exponent may be.


def jobs(size):
    epochs, seeds = size.pick(EPOCHS, 5), size.seeds
    found = {
        ("best", ratio): job(best_rates, ratio=ratio, epochs=epochs, seeds=seeds)
        for ratio in (1, *RATIOS)
    }
    found["scaled"] = job(scaled, epochs=epochs, seeds=seeds)
    return found


def collect(found, size):
    return {
        "epochs": size.pick(EPOCHS, 5),
        "seeds": size.seeds,
        "base": found["scaled"]["base"],
        "rate": found["scaled"]["rate"],
        "accuracies": found["scaled"]["accuracies"],
        "best": [found["best", ratio] for ratio in (1, *RATIOS)],
    }


def batch_of(harness, ratio):
    """A batch size: the usual one of the data is the second."""
    return harness.data.batch_size // RATIOS[0] * ratio


def cosine(rate):
    from keras_lrs import callbacks, schedules

    schedule = schedules.CosineAnnealing(rate)
    return [callbacks.HyperparameterScheduler(learning_rate=schedule)]


def best_rates(harness, ratio, epochs, seeds):
    """Errors held out by rate and seed, on a grid that is extended as far as it must.

    The seeds are those that are reported, so their spread shows how well a best rate is
    known.
    """
    size = batch_of(harness, ratio)
    kind, first = Kind(batch_size=size), regime.FIRST_RATES[SGD]
    found = {}

    def error(rate):
        if rate not in found:
            found[rate] = []
            for seed in range(seeds):
                model, _ = harness.fit(cosine(rate), epochs, seed, kind)
                score = harness.score(model, harness.data.held_out)
                found[rate].append(score[0])
        return float(np.mean(found[rate]))

    rates = [first * regime.FACTOR**n for n in harness.data.grid]
    for _ in range(regime.EXTENSIONS):
        best = min(rates, key=error)
        if best == rates[0]:
            rates.insert(0, best / regime.FACTOR)
        elif best == rates[-1]:
            rates.append(best * regime.FACTOR)
        else:
            break
    return [size, [[rate, found[rate]] for rate in rates if rate in found]]


def scaled(harness, epochs, seeds):
    """Accuracies (%) by batch size, rule and warmup, from the best rate of the base."""
    from keras_lrs import Epochs, callbacks, schedules, tuning

    base = batch_of(harness, 1)
    rate, _ = harness.choose(cosine, epochs, Kind(batch_size=base), "cosine")
    found = []
    sizes = [(base, ("fixed",))]
    sizes += [(batch_of(harness, ratio), example.RULES) for ratio in RATIOS]
    for size, rules in sizes:
        for rule in rules:
            for warmup in (False, True):
                steps = Epochs(WARMUP_EPOCHS) if warmup else 0
                schedule = schedules.CosineAnnealing(rate)
                if rule == "fixed":
                    schedule = schedules.Warmup(schedule, steps, initial_fraction=1.0)
                else:
                    schedule = tuning.scale_learning_rate(
                        schedule, size, base, rule=rule, warmup_steps=steps
                    )
                runs = []
                for seed in range(seeds):
                    one = callbacks.HyperparameterScheduler(learning_rate=schedule)
                    kind = Kind(batch_size=size)
                    model, _ = harness.fit([one], epochs, seed, kind)
                    runs.append(100.0 - harness.score(model, harness.data.test)[0])
                found.append([size, rule, warmup, runs])
    return {"base": base, "rate": rate, "accuracies": found}


def accuracies_of(results):
    return {(b, rule, warmup): runs for b, rule, warmup, runs in results["accuracies"]}


# --- What is judged -------------------------------------------------------------------


def best_exponent(results):
    """The slope of the best rate over the batch size, both on a log scale.

    A function of the seeds. The best rate is that of the parabola through the least
    mean error and its neighbours.
    """
    found = [
        (size, [rate for rate, _ in by_rate], np.array([runs for _, runs in by_rate]))
        for size, by_rate in results["best"]
    ]

    def statistic(seeds):
        sizes, best = [], []
        for size, rates, errors in found:
            means = errors[:, seeds].mean(1)
            at = int(np.clip(means.argmin(), 1, len(means) - 2))
            before, here, after = means[at - 1 : at + 2]
            curvature = before - 2.0 * here + after
            shift = 0.5 * (before - after) / curvature if curvature > 0.0 else 0.0
            sizes.append(np.log2(size))
            best.append(np.log2(rates[at]) + np.clip(shift, -1.0, 1.0))
        return np.polyfit(sizes, best, 1)[0]

    return statistic


def judge_scaling(results):
    found = accuracies_of(results)
    for size in sizes_of(results):
        linear = found[size, "linear", False]
        fixed = found[size, "fixed", False]
        root = found[size, "sqrt", False]
        yield better(f"batch {size}: linear is better than fixed", linear, fixed)
        yield no_worse(f"batch {size}: linear is no worse than sqrt", linear, root)
    yield Statement(
        "the exponent of the best rate over the batch size is within "
        f"{EXPONENT_MARGIN:g} of {PROPORTIONAL:g}",
        *proportional(results),
    )


def proportional(results):
    """Whether the exponent is 1, by less than the margin on both sides."""
    every, drawn = resample(best_exponent(results), results["seeds"])
    least, most = PROPORTIONAL - EXPONENT_MARGIN, PROPORTIONAL + EXPONENT_MARGIN
    above = exceeds(f"above {least:g}", every, drawn, least, digits=3)
    below = exceeds(f"below {most:g}", -every, -drawn, -most)
    # Within the margin of 1, an exponent may still differ from it.
    for side, beyond in (
        ("below", round(above.high, 9) < PROPORTIONAL),
        ("above", round(above.low, 9) > PROPORTIONAL),
    ):
        if beyond:
            by = f"{above.by} (the whole interval lies {side} {PROPORTIONAL:g})"
            above = dataclasses.replace(above, by=by)
    yield above
    # The sign that the comparison needs is not for readers.
    yield dataclasses.replace(below, by="the same exponent")


def sizes_of(results):
    """The batch sizes beside the base."""
    return sorted({size for size, *_ in accuracies_of(results)} - {results["base"]})


def judge_warmup(results):
    found = accuracies_of(results)
    base = found[results["base"], "fixed", False]
    for size in sizes_of(results):
        warm = found[size, "linear", True]
        cold = found[size, "linear", False]
        yield better(f"batch {size}, linear: better with a warmup", warm, cold)
        yield no_worse(
            f"batch {size}, linear with a warmup: less than {POINT:g} point below "
            f"batch {results['base']} without a warmup",
            warm,
            base,
            POINT,
        )


def first_epochs(rule):
    """What a run does first that has "warmup" in its results."""
    if rule == "fixed":  # There is nothing to rise to.
        return f"held for {WARMUP_EPOCHS} epochs first"
    return f"a warmup of {WARMUP_EPOCHS} epochs first"


def tables(results):
    found = accuracies_of(results)
    yield from wrap(
        "Test accuracy (%), ± the standard deviation over seeds. The rate is that of "
        "the smallest batch (fixed), multiplied by the ratio of the batch sizes "
        "(linear) or by its square root (sqrt), and follows a cosine, alone or after a "
        "warmup. A fixed rate is held instead of warmed up."
    )
    yield ""
    others = list(dict.fromkeys(first_epochs(rule) for _, rule, _ in found))
    rows = [
        [
            f"{size}",
            rule,
            spread(found[size, rule, False]),
            *(
                spread(found[size, rule, True]) if first_epochs(rule) == other else ""
                for other in others
            ),
        ]
        for size, rule, warmup in found
        if not warmup
    ]
    yield from program.table(["batch", "rate", "cosine only", *others], rows)
    base = found[results["base"], "fixed", False]
    measured = {
        size: difference("", found[size, "linear", False], base, unit="")
        for size in sizes_of(results)
    }
    gaps = ", ".join(f"{one.by} points at batch {n}" for n, one in measured.items())
    yield ""
    yield from wrap(
        "The accuracy with a linearly scaled rate minus that of the smallest batch, "
        f"both without a warmup: {gaps}. Above -{POINT:g} point, a batch size works "
        "without a warmup."
    )
    yield ""
    yield from wrap(
        "Error on the held-out data (%) by batch size and rate, of the reported seeds "
        "and without a warmup, ± the standard deviation over seeds:"
    )
    yield ""
    rates = sorted({rate for _, by_rate in results["best"] for rate, _ in by_rate})
    rows = []
    for size, by_rate in results["best"]:
        found = dict(by_rate)
        cells = [spread(found[rate]) if rate in found else "" for rate in rates]
        rows.append([f"{size}", *cells])
    yield from program.table(["batch", *(f"{rate:g}" for rate in rates)], rows)


def setting(results, data):
    return (
        f"{words_of(data, Kind(batch_size=results['base']))} It is the smallest batch; "
        f"those of {' and '.join(map(str, sizes_of(results)))} are compared with it. "
        f"{SGD}, a cosine over {results['epochs']} epochs from a rate of "
        f"{results['rate']:g} at the smallest batch, which is {grid_words(data, SGD)}. "
        f"A warmup rises from this rate to the scaled one over {WARMUP_EPOCHS} epochs; "
        "where the rate is not raised, it is held for them. The cosine takes the rest "
        f"of the epochs. {results['seeds']} seeds."
    )


def draw(results, path):
    """Test errors by batch size on the left; on the right held-out ones by rate."""
    from matplotlib.figure import Figure

    found = accuracies_of(results)
    figure = Figure(figsize=(10.0, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = [results["base"], *sizes_of(results)]
    for number, rule in enumerate(example.RULES):
        for warmup, line in ((False, "-"), (True, "--")):
            keys = [
                (sizes[0], "fixed", warmup),
                *((s, rule, warmup) for s in sizes[1:]),
            ]
            runs = 100.0 - np.array([found[key] for key in keys])
            left.errorbar(
                sizes,
                runs.mean(1),
                runs.std(1),
                fmt=f"C{number}o{line}",
                capsize=3,
                label=rule + (f", {first_epochs(rule)}" if warmup else ""),
            )
    left.set(xlabel="batch size", ylabel="test error (%)", xscale="log", yscale="log")
    left.set_xticks(sizes, labels=sizes)
    left.minorticks_off()
    left.legend(fontsize="small")
    for size, by_rate in results["best"]:
        rates, runs = zip(*by_rate, strict=True)
        runs = np.array(runs)
        right.errorbar(
            rates, runs.mean(1), runs.std(1), fmt="o-", capsize=3, label=f"batch {size}"
        )
    right.set(
        xlabel="learning rate", ylabel="held-out error (%)", xscale="log", yscale="log"
    )
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path)


EXPERIMENT = Experiment(
    "batch_sizes",
    (
        Row(
            "Linear scaling with the batch size",
            NOTES,
            "A batch B times as large wants a rate B times as large, at equal epochs.",
            'Test accuracies without a warmup are compared. "No worse" means less '
            f"than {MARGIN:g} points below. A best rate is the minimum of a parabola "
            "through the lowest mean of the held-out errors of the reported seeds and "
            "the means at the two rates beside it. The interval of the exponent is "
            "that of resampled seeds. The exponent of a rate that is proportional to "
            f"the batch size is {PROPORTIONAL:g}; whether it is within the margin is "
            "judged on each side of it.",
            judge_scaling,
            tables,
        ),
        Row(
            "Warmup for large batches",
            NOTES,
            "A warmup makes training with large batches work.",
            "Test accuracies are compared. A large batch works if its accuracy is less "
            f"than {POINT:g} point below that of the smallest batch without a warmup; "
            "where it also works without a warmup, this says nothing about warmups. A "
            "warmup also shortens the cosine. The table shows what that alone does, "
            "where a fixed rate is held first; no statement separates the two effects.",
            judge_warmup,
            tables,
            "Goyal et al., 2017, arXiv:1706.02677",
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
