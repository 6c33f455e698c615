"""Averages of the weights instead of a decay of the rate, in about two minutes.

    python examples/averaging.py
    python examples/averaging.py --seeds 20
    python examples/averaging.py --model vit --output averaging_vit.png
    python examples/averaging.py --tune --seeds 3
    python examples/averaging.py --model vit --dataset cifar10 --tune

(On two cores with JAX, which is several times quicker here than the other backends.)

A schedule that brings the rate down to 0 has to know when the training ends. An average
of the weights at a constant rate (Polyak and Juditsky, 1992), an exponential one (EMA),
and schedule-free training (Defazio et al., 2024, arXiv:2405.15682) need not know it. A
tutorial on schedules found, with a tiny vision transformer on CIFAR-10, that

- decay helps at every budget, its exact form matters little, and a late step decay is
  nearly as good;
- an EMA at a constant rate matches the cosine at the end, and a Polyak average lags;
- schedule-free training with an exponential average lies on or below the whole family
  of linear decays: at any time as good as a decay that ends then.

This asks the same on 1,797 handwritten digits. One training of every method is
validated all along; the linear decay is trained once for each of four budgets, and only
its end counts. Adam moves the weights, without its momentum where `ScheduleFree` has
one. A warmup is the same for all.

The tutorial's decays are those of a long training. Here memories are shares of the
training: `EMA, 1 %` and `EMA, 10 %` are what 0.99 and 0.999 are in a training of 10,000
steps, `1 - 1 / (share * steps)`. The average of schedule-free training is the latter.

Each method, and each budget of the linear decay, has the rate of one grid whose loss at
the end is the least on a quarter of the training data held out (`--tune`), never on the
test data. The vision transformer is too slow for that: on digits it has one rate for
all, the one so chosen for the constant rate, and three seeds. Differences are those of
runs with the same seed: the same first weights and order of the data.

`docs/evidence.md` judges the claims by twenty seeds, on other data and networks.
"""

import dataclasses
import importlib.util
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import program
from images import hold_out, load_cifar10, make_vit
from program import half_interval, table
from quickstart import load_data

BUDGETS = (25, 50, 75, 100)  # Percent of the training.
WARMUP = 0.05  # Of the whole training, whatever the budget.
POINTS = 20  # How often the validation looks.


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained, and for how long."""

    epochs: int
    batch_size: int
    network: dict[str, Any]
    grid: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    rates: tuple[float, ...] | None = None
    seeds: int = 5


SETTINGS = {
    ("mlp", "digits"): Setting(
        60,
        64,
        {"width": 128, "dropout": 0.5},
        rates=(0.01,) * 3 + (0.003, 0.01, 0.003) + (0.01,) * 6 + (0.003, 0.003),
    ),
    # Fewer seeds, and one rate for all: a run takes several times as long.
    ("vit", "digits"): Setting(
        40,
        64,
        {"patch": 2, "width": 32, "depth": 2, "heads": 4, "dropout": 0.1},
        grid=(1e-3, 3e-3, 1e-2),
        rates=(0.003,) * 14,
        seeds=3,
    ),
    ("vit", "cifar10"): Setting(
        60,
        128,
        {"patch": 4, "width": 128, "depth": 6, "heads": 4, "dropout": 0.1},
        grid=(3e-4, 1e-3, 3e-3),
        seeds=3,
    ),
}


@dataclasses.dataclass(frozen=True)
class Method:
    """A schedule for the rate after the warmup, and what is done to the weights."""

    schedule: Callable[[float], Any]
    budget: int = 100
    average: Callable[[int], Any] | None = None  # From the steps of the training.
    schedule_free: bool = False


def make_methods():
    """All methods by name."""
    from keras_lrs import Fraction, schedules
    from keras_lrs.averages import ExponentialAverage, UniformAverage

    def steps_at(*percent):
        # A schedule begins after the warmup.
        milestones = [Fraction(one / 100 - WARMUP) for one in percent]
        return lambda rate: schedules.MultiStepDecay(rate, milestones)

    def memory(share):
        return lambda steps: ExponentialAverage(1.0 - 1.0 / max(share * steps, 1.0))

    constant = schedules.Constant
    return {
        CONSTANT: Method(constant),
        **{linear(b): Method(schedules.LinearDecay, b) for b in BUDGETS},
        COSINE: Method(schedules.CosineAnnealing),
        EARLY_STEP: Method(steps_at(25)),
        LATE_STEP: Method(steps_at(75)),
        "steps at 25 % and 75 %": Method(steps_at(25, 75)),
        POLYAK: Method(constant, average=lambda steps: UniformAverage()),
        EMAS[0]: Method(constant, average=memory(0.01)),
        EMAS[1]: Method(constant, average=memory(0.1)),
        "schedule-free, uniform": Method(constant, schedule_free=True),
        FREE: Method(constant, average=memory(0.1), schedule_free=True),
    }


def linear(budget):
    return f"linear decay, {budget} %"


CONSTANT, COSINE, POLYAK = "constant", "cosine", "Polyak average"
EARLY_STEP, LATE_STEP = "step at 25 %", "step at 75 %"
EMAS = ("EMA, 1 %", "EMA, 10 %")
FREE = "schedule-free, exponential"


def make_mlp(shape, width, dropout):
    """Dropout keeps the gradients noisy to the end, as in larger trainings."""
    import keras
    from keras import layers

    hidden = [
        layer
        for _ in range(2)
        for layer in (layers.Dense(width, activation="relu"), layers.Dropout(dropout))
    ]
    return keras.Sequential(
        [keras.Input(shape), layers.Flatten(), *hidden, layers.Dense(10)]
    )


NETWORKS = {"mlp": make_mlp, "vit": make_vit}


class Trainer:
    """Trains every method from scratch, once per seed."""

    def __init__(self, network, setting, data, total):
        from tqdm import tqdm

        self.make_network, self.setting = NETWORKS[network], setting
        (x, y), self.test = data
        # A last batch of few images would compile anew.
        whole = len(x) - len(x) % setting.batch_size
        self.train = x[:whole], y[:whole]
        self.steps = setting.epochs * whole // setting.batch_size
        self.progress = tqdm(total=total, unit="epoch", disable=total is None)

    def make_model(self, method):
        """A network that is ready to train; the rate it is given is never used."""
        import keras

        from keras_lrs.optimizers import ScheduleFree

        model = self.make_network(self.train[0].shape[1:], **self.setting.network)
        if method.schedule_free:
            average = method.average and method.average(self.steps)
            optimizer = ScheduleFree(keras.optimizers.Adam(beta_1=0.0), average=average)
        else:
            optimizer = keras.optimizers.Adam()
        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=program.jit_compile(),
        )
        model.optimizer.build(model.trainable_variables)
        return model

    def make_callbacks(self, method, rate):
        """The lengths are open: `fit` fills them in."""
        from keras_lrs import Epochs, callbacks, schedules

        warmup = Epochs(WARMUP * self.setting.epochs)
        schedule = schedules.Warmup(method.schedule(rate), warmup)
        found = [callbacks.HyperparameterScheduler(learning_rate=schedule)]
        if method.schedule_free:
            found.append(callbacks.AveragedEvaluation())
        elif method.average is not None:
            found.append(callbacks.WeightAveraging(method.average(self.steps)))
        return found

    def run(self, name, method, rate, seeds, points):
        """The losses and the errors in percent after some epochs, an array each."""
        import keras
        import numpy as np

        count = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: self.progress.update()
        )
        epochs = self.setting.epochs * method.budget // 100
        model = self.make_model(method)
        model.evaluate(*self.test, batch_size=512, verbose=0)  # Builds the metrics.
        found = []
        for seed in range(seeds):
            self.progress.set_description(f"{name}, {rate:g}, seed {seed}")
            keras.utils.set_random_seed(seed)  # Weights, dropout, order of the data.
            program.restart(model, self.make_model(method))
            training = model.fit(
                *self.train,
                batch_size=self.setting.batch_size,
                epochs=epochs,
                validation_data=self.test,
                validation_batch_size=512,
                validation_freq=[point for point in points if point <= epochs],
                callbacks=[*self.make_callbacks(method, rate), count],
                verbose=0,
            )
            history = training.history
            errors = 100.0 - 100.0 * np.array(history["val_accuracy"])
            found.append((history["val_loss"], errors))
        return np.array(found).transpose(1, 0, 2)


def make_points(epochs):
    """After which epochs to validate; the ends of all budgets are among them."""
    points = {round(epochs * number / POINTS) for number in range(1, POINTS + 1)}
    return sorted(points - {0} | {epochs * budget // 100 for budget in BUDGETS})


def count_epochs(methods, setting, seeds):
    return seeds * sum(setting.epochs * m.budget // 100 for m in methods.values())


def compare(network, setting, data, rates, seeds):
    """The test losses and errors by method: arrays of seeds and points."""
    methods, points = make_methods(), make_points(setting.epochs)
    trainer = Trainer(network, setting, data, count_epochs(methods, setting, seeds))
    with trainer.progress:
        return {
            name: trainer.run(name, method, rate, seeds, points)
            for (name, method), rate in zip(methods.items(), rates, strict=True)
        }


def tune(network, setting, data, seeds):
    """The mean losses at the end on held-out data, by method and rate."""
    methods = make_methods()
    total = len(setting.grid) * count_epochs(methods, setting, seeds)
    trainer = Trainer(network, setting, hold_out(data), total)
    with trainer.progress:
        return {
            name: {
                rate: trainer.run(
                    name, method, rate, seeds, [setting.epochs * method.budget // 100]
                )[0].mean()
                for rate in setting.grid
            }
            for name, method in methods.items()
        }


def best_rate(by_rate):
    """The rate with the least loss; one that diverged has none."""
    return min(
        by_rate, key=lambda rate: (by_rate[rate] != by_rate[rate], by_rate[rate])
    )


def print_tuning(held_out):
    grid = list(next(iter(held_out.values())))
    print(f"\n{'loss on held-out data':<28}", *(f"{rate:>8g}" for rate in grid))
    for name, by_rate in held_out.items():
        print(f"{name:<28}", *(f"{loss:>8.4f}" for loss in by_rate.values()))
    best = {name: best_rate(by_rate) for name, by_rate in held_out.items()}
    for name, rate in best.items():
        if rate in (grid[0], grid[-1]):
            print(f"The rate of {name} is at the edge of the grid: {rate:g}")
    print("Best: --rates", *(f"{rate:g}" for rate in best.values()))


class Results:
    """Test losses at the ends of budgets, and differences within seeds."""

    def __init__(self, found, points):
        self.found, self.points = found, points

    def losses(self, name, budget=100):
        """Of all seeds, after a share of the whole training in percent."""
        return self.found[name][0][
            :, self.points.index(self.points[-1] * budget // 100)
        ]

    def gap(self, name, other, budget=100):
        """The mean difference of the losses and the half of its 95 % interval."""
        differences = self.losses(name, budget) - self.losses(other, budget)
        return differences.mean(), half_interval(differences)


def report(results, rates, setting, network, dataset):
    """The tables, as Markdown."""
    import keras

    yield f"# Averages and decays: {network} on {dataset}"
    yield ""
    seeds = len(results.losses(CONSTANT))
    about = (
        f"{setting.epochs} epochs of batches of {setting.batch_size}, {seeds} seeds. "
        "Loss and error on the test data at the end, ± the standard deviation over "
        "seeds. Then the gap: how much larger the loss is, after a share of the "
        "training, than that of the linear decay that ends there, ± half the 95 % "
        "interval of the mean difference within seeds. Made on "
        f"{keras.backend.backend()} by `examples/averaging.py --model {network} "
        f"--dataset {dataset} --epochs {setting.epochs} --seeds {seeds}`."
    )
    yield from textwrap.wrap(about, 88, break_on_hyphens=False)
    yield ""
    yield from table(
        ["method", "rate", "loss", "error (%)", *(f"gap at {b} %" for b in BUDGETS)],
        rows(results, rates, make_methods()),
    )
    yield ""
    yield "Loss and error of a linear decay are those at the end of its budget."


def rows(results, rates, methods):
    for (name, method), rate in zip(methods.items(), rates, strict=True):
        losses, errors = results.found[name][:, :, -1]
        cells = [name, f"{rate:g}"]
        cells += [f"{losses.mean():.4f} ± {losses.std():.4f}"]
        cells += [f"{errors.mean():.2f} ± {errors.std():.2f}"]
        # What a schedule has before its end is nothing to compare.
        anytime = method.average or method.schedule_free or name == CONSTANT
        for budget in BUDGETS:
            if (anytime or budget == method.budget) and name != linear(budget):
                mean, half = results.gap(name, linear(budget), budget)
                cells.append(f"{mean:+.4f} ± {half:.4f}")
            else:
                cells.append("")
        yield cells


def draw(results, path):
    """The ends of the linear decays, and beside them the curves of the others."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 5.0), layout="constrained")
    panels = figure.subplots(1, 2)
    points = results.points
    methods = make_methods()
    curves = [n for n, m in methods.items() if m.average or m.schedule_free]
    ends = [points[-1] * budget // 100 for budget in BUDGETS]
    for number, panel in enumerate(panels):
        for name in (CONSTANT, *curves):
            runs = results.found[name][number]
            mean, error = runs.mean(0), runs.std(0) / len(runs) ** 0.5
            (line,) = panel.plot(points, mean, label=name)
            panel.fill_between(
                points, mean - error, mean + error, color=line.get_color(), alpha=0.15
            )
        runs = np.array([results.found[linear(b)][number, :, -1] for b in BUDGETS])
        errors = runs.std(1) / runs.shape[1] ** 0.5
        panel.errorbar(
            ends,
            runs.mean(1),
            errors,
            fmt="ko--",
            capsize=3,
            label="ends of linear decays",
        )
        for name, marker in ((COSINE, "s"), (LATE_STEP, "v"), (EARLY_STEP, "^")):
            value = results.found[name][number, :, -1].mean()
            panel.plot(points[-1], value, f"k{marker}", fillstyle="none", label=name)
        panel.set(xlabel="epoch", ylabel=("test loss", "test error (%)")[number])
        panel.set_yscale("log")
        panel.set_ylim(top=2.5 * runs.mean(1).max())  # Of the shortest decay.
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}")
        panel.grid(alpha=0.3, which="both")
    panels[0].set_title("means over seeds, ± the standard error", fontsize="medium")
    panels[1].legend(fontsize="small")
    figure.savefig(path)


def main(arguments=None):
    parser = program.make_parser(__doc__, "averaging.png", seeds=None)
    parser.add_argument("--model", choices=list(NETWORKS), default="mlp")
    parser.add_argument("--dataset", choices=["digits", "cifar10"], default="digits")
    parser.add_argument("--epochs", type=int, help="of the whole training")
    parser.add_argument(
        "--rates", type=float, nargs="+", help="of the methods, in order"
    )
    parser.add_argument("--tune", action="store_true", help="only choose the rates")
    # For networks this small it is several times quicker than the others.
    if importlib.util.find_spec("jax"):
        os.environ.setdefault("KERAS_BACKEND", "jax")
    options = program.parse(parser, arguments)
    setting = SETTINGS.get((options.model, options.dataset))
    if setting is None:
        parser.error(f"{options.dataset} is for --model vit")
    if options.epochs is not None:
        setting = dataclasses.replace(setting, epochs=options.epochs)
    if setting.epochs % len(BUDGETS):
        parser.error(f"--epochs must be a multiple of {len(BUDGETS)}")
    seeds = options.seeds or setting.seeds
    rates = options.rates or setting.rates
    if rates is None and not options.tune:
        parser.error(f"{options.dataset} needs --rates; --tune chooses them")
    methods = make_methods()
    if rates is not None and len(rates) != len(methods):
        parser.error(f"--rates must be {len(methods)}: of {', '.join(methods)}")

    data = load_data() if options.dataset == "digits" else load_cifar10()
    if options.tune:
        print_tuning(tune(options.model, setting, data, seeds))
        return
    found = compare(options.model, setting, data, rates, seeds)
    results = Results(found, make_points(setting.epochs))
    lines = report(results, rates, setting, options.model, options.dataset)
    text = "\n".join(lines)
    print(f"\n{text}")
    picture = Path(options.output)
    picture.with_suffix(".md").write_text(f"{text}\n", encoding="utf-8")
    draw(results, picture)
    print(f"\nTables and curves: {picture.with_suffix('.md')}, {picture}")


if __name__ == "__main__":
    main()
