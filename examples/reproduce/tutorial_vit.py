"""The tutorial's transformer: decays, averages and schedule-free training."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from reproduce import recipe

LITERAL = "schedule-free, the notebook's rule"
BETA = 0.9  # Of schedule-free training: how much of the average gradients are taken at.


@dataclasses.dataclass(frozen=True)
class Method:
    """A schedule of the rate, and what is done to the weights.

    Args:
        schedule: A function from the rate.
        budget: Percent of the whole training.
        average: A function that makes an average of the weights.
        schedule_free: Whether `ScheduleFree` is around the optimizer.
    """

    schedule: Callable[[float], Any]
    budget: int = 100
    average: Callable[[], Any] | None = None
    schedule_free: bool = False


def make_methods():
    """All methods by name, without a warmup, as in the tutorial."""
    from keras_lrs import Fraction, schedules
    from keras_lrs.averages import ExponentialAverage, UniformAverage

    def steps_at(*shares):
        return lambda rate: schedules.MultiStepDecay(rate, [*map(Fraction, shares)])

    def memory(decay):
        return lambda: ExponentialAverage(decay)

    constant = schedules.Constant
    return {
        "constant": Method(constant),
        "step at 25 %": Method(steps_at(0.25)),
        "step at 75 %": Method(steps_at(0.75)),
        **{linear(b): Method(schedules.LinearDecay, b) for b in (25, 50, 75, 100)},
        "cosine": Method(schedules.CosineAnnealing),
        "Polyak average": Method(constant, average=UniformAverage),
        "exponential average, 0.99": Method(constant, average=memory(0.99)),
        "exponential average, 0.999": Method(constant, average=memory(0.999)),
        "schedule-free, uniform": Method(constant, schedule_free=True),
        "schedule-free, exponential": Method(
            constant, average=memory(0.9999), schedule_free=True
        ),
    }


def linear(budget):
    return f"linear decay, {budget} %"


def add_options(parser):
    parser.add_argument("--rate", type=float, help="of Adam")
    parser.add_argument("--methods", nargs="+", help="some of them, by name")
    parser.add_argument(
        "--literal",
        action="store_true",
        help="also schedule-free training by the notebook's own rule",
    )


def check(parser, options):
    for name in options.methods or ():
        if name not in make_methods():
            known = ", ".join(make_methods())
            parser.error(f"--methods: there is no {name!r}, but {known}")


def make_network(options, found):
    from reproduce import networks

    small = {"width": 16, "depth": 1, "heads": 2} if options.quick else {}
    return networks.make_transformer(found.classes, found.shape, **small)


def trainings(options, found):
    methods = make_methods()
    names = options.methods or list(methods)
    every = {name: methods[name] for name in names}
    runs = {
        name: lambda folder, method=method: train(method, options, found, folder)
        for name, method in every.items()
    }
    if options.literal:
        runs[LITERAL] = lambda folder: train_literally(options, found, folder)
    return runs


def train(method, options, found, folder):
    """A training of one method: batches are drawn with replacement."""
    import keras

    from keras_lrs import callbacks, optimizers

    average = method.average and method.average()

    def optimizer():
        if not method.schedule_free:
            return keras.optimizers.Adam(options.rate)
        adam = keras.optimizers.Adam(options.rate, beta_1=0.0)
        return optimizers.ScheduleFree(adam, beta=BETA, average=average)

    model = recipe.make(options, 1, lambda: make_network(options, found), optimizer)
    chosen = [recipe.scheduled(learning_rate=method.schedule(options.rate))]
    if method.schedule_free:
        chosen.append(callbacks.AveragedEvaluation())
    elif average is not None:
        chosen.append(callbacks.WeightAveraging(average))
    epochs = max(options.epochs * method.budget // 100, 1)
    return recipe.fit(
        model, found, options, epochs, chosen, folder,
        replacement=True, steps=options.steps or options.steps_per_epoch,
    )  # fmt: skip


# --- The notebook's own rule ----------------------------------------------------------


def make_literal(rate, decay=0.9999):
    """Adam, moved by the notebook's rule instead of schedule-free training's.

    The notebook keeps an exponential average that begins at 0, and divides it by
    `1 - decay**(step + 1)` before the update of that step has been added. So the first
    gradient is taken at a tenth of the first weights, the second at 0.55 of what it
    should be, and so on; after some thousand steps it makes no difference.
    """
    import keras
    from keras import ops

    class Literal(keras.optimizers.Adam):
        def build(self, variables):
            super().build(variables)
            self.moved, self.sums = [], []
            for variable in variables:
                for slots, initial in ((self.moved, variable), (self.sums, None)):
                    slots.append(self.add_variable_from_reference(variable, "literal"))
                    if initial is not None:
                        slots[-1].assign(initial)
                # The average is 0 before the first update.
                variable.assign((1.0 - BETA) * variable)

        def update_step(self, gradient, variable, learning_rate):
            index = self._get_variable_index(variable)
            moved, sums = self.moved[index], self.sums[index]
            variable.assign(moved)
            super().update_step(gradient, variable, learning_rate)
            moved.assign(variable)
            sums.assign(decay * sums + (1.0 - decay) * moved)
            # Read with the count of the step before: of k updates, k + 1 is due next.
            count = ops.cast(self.iterations + 2, variable.dtype)
            read = sums / -ops.expm1(math.log(decay) * count)
            variable.assign((1.0 - BETA) * moved + BETA * read)

    return Literal(rate, beta_1=0.0)


def use_average(optimizer, variables, decay=0.9999):
    """Puts the average into the model, with the right divisor."""
    updates = int(optimizer.iterations.numpy())
    for variable, sums in zip(variables, optimizer.sums, strict=True):
        variable.assign(sums / (1.0 - decay**updates))


def train_literally(options, found, folder):
    model = recipe.make(
        options, 1, lambda: make_network(options, found),
        lambda: make_literal(options.rate),
    )  # fmt: skip
    # In TensorFlow's graph, what building assigns would be assigned in every step.
    model.optimizer.build(model.trainable_variables)
    return recipe.fit(
        model, found, options, options.epochs, [], folder,
        replacement=True, steps=options.steps or options.steps_per_epoch,
        finish=lambda: use_average(model.optimizer, model.trainable_variables),
    )  # fmt: skip


# --- The report -----------------------------------------------------------------------


def report(options, found):
    header = ["method", "steps", "training loss", "test loss", "test error (%)"]
    rows = [
        [
            name,
            f"{each['steps']:,}",
            f"{each['curves'][-1]['loss']:.4f}",
            f"{each['loss']:.4f}",
            f"{each['error']:.2f}",
        ]
        for name, each in found.items()
    ]
    return header, rows


def draw(found, path):
    """The Pareto figure: at any time, trajectories against the ends of decays."""
    import numpy as np
    from matplotlib.figure import Figure

    panels = (
        ("training loss (mean of an epoch)", lambda each: each["loss"]),
        ("test loss", lambda each: each["val_cross_entropy"]),
        ("test error (%)", lambda each: 100.0 - 100.0 * each["val_accuracy"]),
    )
    figure = Figure(figsize=(15.0, 4.5), layout="constrained")
    for axes, (label, value) in zip(figure.subplots(1, 3), panels, strict=True):
        ends = []
        for name, each in found.items():
            curve = np.array([value(epoch) for epoch in each["curves"]])
            steps = each["steps"] * np.arange(1, len(curve) + 1) / len(curve)
            if name.startswith("linear"):
                ends.append((steps[-1], curve[-1]))
            else:
                axes.plot(steps, curve, label=name, linewidth=1.0)
        if ends:
            axes.plot(
                *zip(*sorted(ends), strict=True), "ko-", label="ends of linear decays"
            )
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
    figure.savefig(path)


RECIPE = recipe.Recipe(
    "tutorial_vit",
    "The tutorial on learning rate scheduling. Its tiny vision transformer (patches of "
    "8, 4 blocks of 4 heads, 128 wide, dropout 0.3) on CIFAR-10 without augmentation, "
    "Adam at 0.001, batches of 128 drawn with replacement, 100,000 steps.",
    {
        "data": "cifar10", "epochs": 100, "steps_per_epoch": 1_000, "batch_size": 128,
        "seeds": 1, "rate": 1e-3,
    },
    {
        "epochs": 2, "steps_per_epoch": 3, "batch_size": 8,
        "methods": [linear(50), "Polyak average", "schedule-free, exponential"],
    },
    {"classes": 10, "shape": (32, 32, 3), "train": 4_000, "test": 1_000},
    {"classes": 4, "shape": (16, 16, 3), "train": 64, "test": 32},
    trainings,
    report,
    (
        ["the tutorial says"],
        [
            ["decay helps at every budget, and its form matters little"],
            ["an early step (25 %) slows learning, one at 75 % is nearly as good"],
            ["a Polyak average lags the baseline that does not average"],
            ["an exponential average at a constant rate matches cosine at the end"],
            [
                "schedule-free training with an exponential average lies on or below "
                "the family of linear decays"
            ],
        ],
    ),
    add_options,
    check,
    draw,
)  # fmt: skip
