"""One large step against many small ones, with everything of the bound measured."""

import numpy as np
import program

from claims.drops import Stepwise
from claims.experiment import NOTES, Experiment, Row, job, wrap
from claims.harness import Kind, words_of
from claims.judging import (
    Statement,
    at_most,
    better,
    difference,
    log_slopes,
    spread,
)
from claims.regime import FIRST_RATES, SGD

SMALL_STEPS = 16  # B: how many small steps one large step stands for.
STAGES = (0, 1, 5, 20)  # After how many epochs.
POWER_STEPS = 8  # Of the power iteration for H.
NUDGE = 1e-2  # The length of the differences of gradients.


class Single(Stepwise):
    """One whose executions are single steps."""

    def make_model(self, kind):
        """One that is ready to train."""
        model = super().make_model(kind)
        model.steps_per_execution = 1
        return model


def jobs(size):
    stages = size.pick(STAGES, (0, 1))
    return {"all": job(measured, stages=stages, seeds=size.seeds)}


def collect(found, size):
    return {"seeds": size.seeds, "small steps": SMALL_STEPS, "stages": found["all"]}


class Gradients:
    """Gradients on the batches of a large one, by steps of plain SGD at a rate of 1.

    The loss is the mean of the batches' losses, so its gradient is that of theirs.
    """

    def __init__(self, harness, batches):
        kind = Kind(batch_size=len(batches[0][0]), momentum=0.0)
        self.model = Single(harness.data, harness.quick).restart(kind, 0)
        self.model.optimizer.learning_rate.assign(1.0)
        self.variables = self.model.trainable_variables
        self.batches = batches

    def of(self, weights, number):
        """On one batch, in float64."""
        end = 0
        for variable in self.variables:
            start, end = end, end + int(np.prod(variable.shape))
            variable.assign(weights[start:end].reshape(variable.shape))
        self.model.train_on_batch(*self.batches[number])
        return weights.astype("float32").astype("float64") - flat(self.variables)

    def every(self, weights):
        """On all batches: an array of batches and weights."""
        return np.array([self.of(weights, n) for n in range(len(self.batches))])

    def curvature(self, weights):
        """H: the largest length of a difference of gradients over that of weights."""
        direction = np.random.default_rng(0).normal(size=weights.shape)
        for _ in range(POWER_STEPS):
            direction *= NUDGE / np.linalg.norm(direction)
            change = self.every(weights + direction) - self.every(weights - direction)
            direction = change.mean(0)
        return float(np.linalg.norm(direction) / (2.0 * NUDGE))


def flat(variables):
    import keras

    values = (keras.ops.convert_to_numpy(variable) for variable in variables)
    return np.concatenate([np.ravel(value) for value in values]).astype("float64")


def small_batch(data):
    """The size of the batches that small steps are on."""
    return max(data.batch_size // 4, 1)


def measured(harness, stages, seeds):
    """By stage, of each seed: gap, bound, norm of the gradient, sigma and H.

    The rate is the largest that the bound allows: B times it is 1 / (2 H).
    """
    from keras_lrs.callbacks import HyperparameterScheduler
    from keras_lrs.schedules import Constant

    size = small_batch(harness.data)
    trained, rate = Kind(), FIRST_RATES[SGD]
    found = {stage: [] for stage in stages}
    for seed in range(seeds):
        x, y = harness.data.train(seed)
        rows = np.random.default_rng(seed).permutation(len(x))
        rows = rows[: SMALL_STEPS * size].reshape(SMALL_STEPS, size)
        gradients = Gradients(harness, [(x[part], y[part]) for part in rows])
        for stage in stages:
            model = harness.restart(trained, seed)
            if stage:
                constant = HyperparameterScheduler(learning_rate=Constant(rate))
                model, _ = harness.fit([constant], stage, seed, trained)
            start = flat(model.trainable_variables)
            every = gradients.every(start)
            mean = every.mean(0)
            sigma = float(np.sqrt(((every - mean) ** 2).sum(1).mean()))
            curvature = gradients.curvature(start)
            step = 1.0 / (2.0 * curvature * SMALL_STEPS)
            small = start.copy()
            for number in range(SMALL_STEPS):
                small -= step * gradients.of(small, number)
            large = start - SMALL_STEPS * step * mean
            norm = float(np.linalg.norm(mean))
            bound = 2.0 * sigma / (curvature * SMALL_STEPS**0.5)
            bound += 0.5 * SMALL_STEPS * step * norm
            gap = float(np.linalg.norm(small - large))
            found[stage].append([gap, bound, norm, sigma, curvature])
    return [[stage, runs] for stage, runs in found.items()]


def columns(results):
    """Of each stage: gaps, bounds, norms, sigmas and curvatures of all seeds."""
    return {stage: np.array(runs).T for stage, runs in results["stages"]}


def per_rate(lengths, curvatures):
    """Over eta B, which is 1 / (2 H): it differs from stage to stage."""
    return lengths * 2.0 * curvatures


def slopes(results, by_rate=True):
    """Of each seed, the slope of the gap against the norm, both on a log scale.

    By default of the gap over eta B: where the gradient is smaller, the rate is larger.
    """
    every = np.array([runs for _, runs in results["stages"]])
    gaps, curvatures = every[:, :, 0], every[:, :, 4]
    gaps = per_rate(gaps, curvatures) if by_rate else gaps
    return log_slopes(gaps, every[:, :, 2])


def judge(results):
    facts = []
    for stage, (gaps, bounds, *_) in columns(results).items():
        largest = float((gaps / bounds).max())
        by = f"at most {largest:.2f} of the bound"
        facts.append(at_most(f"after {stage} epochs", largest, 1.0, by))
    yield Statement(
        "w_{B+1} and w_2 differ by no more than the bound, in every seed", *facts
    )
    found = slopes(results)
    yield better(
        "per unit of the rate, they end nearer to each other where the gradient is "
        "smaller",
        found,
        [0.0] * len(found),
        unit="in the exponent of the norm",
    )


def tables(results):
    yield from wrap(
        f"{results['small steps']} small steps and one large one, at the rate where "
        "eta B = 1 / (2 H), ± the standard deviation over seeds:"
    )
    yield ""
    rows = []
    for stage, found in columns(results).items():
        gaps, bounds, norms, sigmas, curvatures = found
        shown = (gaps, per_rate(gaps, curvatures), bounds, norms, sigmas)
        rows.append(
            [
                f"{stage}",
                *(spread(values.tolist(), 3) for values in shown),
                spread(curvatures.tolist(), 1),
            ]
        )
    header = [
        "after epochs", "distance of w_{B+1} and w_2", "distance / (eta B)", "bound",
        "norm(grad L)", "sigma", "H",
    ]  # fmt: skip
    yield from program.table(header, rows)
    yield ""
    yield from wrap(severity(results))
    if len(rows) > 2:
        found = slopes(results, by_rate=False)
        by = difference("", found, [0.0] * len(found), unit="").by
        yield ""
        yield from wrap(
            f"The exponent of the norm in the distance itself is {by}. It is not "
            "judged, because the rate differs from stage to stage."
        )


def severity(results):
    """How hard it is to exceed the bound, in words."""
    gaps, bounds, norms, _, curvatures = np.hstack([*columns(results).values()])
    # The large step is eta B norm(grad L).
    ratios = per_rate(bounds, curvatures) / norms
    least = np.floor(10.0 * np.nanmin(ratios)) / 10.0  # Not more than it is.
    said = f"The bound is at least {least:.1f} times as long as the large step"
    if (ratios > 1.0).all() and (gaps <= bounds).all():
        said += (
            ", in every seed and at every stage. That it holds therefore says little: "
            "it could hardly have failed"
        )
    return f"{said}."


def setting(results, data):
    size, number = small_batch(data), results["small steps"]
    return (
        f"{words_of(data)} Weights are those after some epochs of {SGD} at a constant "
        f"rate of {FIRST_RATES[SGD]:g}. From there {number} steps on batches of {size} "
        f"without momentum (B of them, one after the other, end at w_{{B+1}}), and one "
        "step of B times the rate on their mean gradient (it ends at w_2); "
        f"{results['seeds']} seeds. sigma and H are measured at the weights from which "
        f"both start, on the same {number} batches: sigma is the deviation of the "
        "batches' gradients from their mean, H the largest curvature of the mean of "
        f"their losses, by {POWER_STEPS} steps of the power iteration. H is that at "
        "one point, and may be too small; the bound is then too large."
    )


def draw(results, path):
    """Gap and bound over eta B, against the norm of the gradient."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    axes = figure.add_subplot()
    for number, (stage, found) in enumerate(columns(results).items()):
        gaps, bounds, norms, _, curvatures = found
        label = f"after {stage} epochs"
        distances = per_rate(gaps, curvatures)
        axes.plot(norms, distances, f"C{number}o", label=label, alpha=0.7)
        axes.plot(norms, per_rate(bounds, curvatures), f"C{number}_", markersize=12)
    axes.set(
        xlabel="norm(grad L)",
        ylabel="distance of w_{B+1} and w_2, over eta B (bars: the bound)",
        xscale="log", yscale="log",
    )  # fmt: skip
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path)


EXPERIMENT = Experiment(
    "bound",
    (
        Row(
            "One large step and many small ones",
            NOTES,
            "B small steps and one step B times as large end at most 2 sigma / (H "
            "sqrt(B)) + (eta B / 2) norm(grad L) from each other, if eta B is at most "
            "1 / (2 H), where eta is the rate of a small step, L the loss, sigma the "
            "noise of its gradient and H its largest curvature; so they are close only "
            "where gradients are small.",
            "The bound must hold in every seed and at every stage. The rate is set at "
            "each stage so that eta B = 1 / (2 H), so it changes from stage to stage "
            "as 1 / H does, and a distance changes with it. Whether the ends are "
            "nearer where gradients are smaller is therefore judged by the slope of "
            "log(distance / (eta B)) against log(norm(grad L)), over the stages of "
            "each seed. A smooth loss and little noise have a slope near 1 at such "
            "rates. Noise is not little here, but both ends use the same batches, so a "
            "slope above 0 was to be expected.",
            judge,
            tables,
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
