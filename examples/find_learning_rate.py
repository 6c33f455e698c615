"""Whether a range test finds usable rates, in about three minutes on two cores.

    python examples/find_learning_rate.py
    python examples/find_learning_rate.py --backend jax --epochs 8 --seeds 10

A range test of 100 steps, before any training, suggests rates for a small network on
1,797 handwritten digits, one for each way to read its curve. They are used as they are:
as a fixed rate, as the maximum of triangular cycles (their minimum is a quarter of it)
and as the peak of 1cycle (Smith, "Cyclical Learning Rates", 2015, arXiv:1506.01186).
Beside them stand fixed rates of a grid, and the one that a sweep chooses on held-out
training data. Every training has the same length and begins from scratch, once per
seed; the range test is made anew for each seed.

Before that, sweeps on a log scale: over a grid, at random, and over a range that is too
low, which says so and extends itself (Cutkosky, "Lecture Notes 5: tuning and learning
rate schedules").
"""

import argparse
import os
import statistics
import warnings

from one_cycle import BATCH_SIZE, hold_out, load_data, make_network, state

GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RANGE = (GRID[0], GRID[-1])
TOO_LOW = (1e-5, 1e-3)
LOG_GRID, RANDOM = "A grid", "At random"
LOW, EXTENDED = "Too low a range", "The same, extending itself"
FIXED, CYCLES, ONE_CYCLE = "fixed rate", "triangular cycles", "1cycle"
METHODS = (FIXED, CYCLES, ONE_CYCLE)


def make_schedule(method, rate):
    """A schedule for a rate. The lengths are open: `fit` fills them in."""
    from keras_lrs import Fraction, schedules

    if method == FIXED:
        return schedules.Constant(rate)
    if method == CYCLES:  # Two of them.
        return schedules.CyclicalLearningRate(rate / 4, rate, Fraction(0.25))
    return schedules.OneCycle(rate)


class Trainer:
    """Trains one network again and again, each time from scratch."""

    def __init__(self, data, epochs):
        (x, y), self.test = data
        # A last batch of few images would compile anew and normalize badly.
        whole = len(x) - len(x) % BATCH_SIZE["digits"]
        self.x, self.y, self.epochs = x[:whole], y[:whole], epochs
        self.model = make_network("digits")
        self.accuracy()  # Builds what the first `fit` would otherwise build.

    def accuracy(self):
        """Of the test data, in percent."""
        return 100.0 * self.model.evaluate(*self.test, batch_size=512, verbose=0)[1]

    def restart(self, seed):
        """Gives the network all that a new one has."""
        import keras

        keras.utils.set_random_seed(seed)  # Weights, dropout and the order of the data.
        for mine, fresh in zip(
            state(self.model), state(make_network("digits")), strict=True
        ):
            mine.assign(fresh)

    def fit(self, callbacks=(), **arguments):
        """Trains on all of the training data."""
        return self.model.fit(
            self.x,
            self.y,
            batch_size=BATCH_SIZE["digits"],
            epochs=self.epochs,
            callbacks=list(callbacks),
            verbose=0,
            **arguments,
        )

    def run(self, method, rate, seed):
        """The accuracy at the end of a training."""
        from keras_lrs.callbacks import HyperparameterScheduler

        self.restart(seed)
        schedule = make_schedule(method, rate)
        self.fit([HyperparameterScheduler(learning_rate=schedule)])
        return self.accuracy()

    def range_test(self, seed):
        """The curve of a range test before the training."""
        from keras_lrs import tuning

        self.restart(seed)
        return tuning.range_test(
            self.model, self.x, self.y, batch_size=BATCH_SIZE["digits"], verbose=0
        )


def sweep(trainer, search, num_trials, ends, extend=False):
    """A sweep over the rate, and the warnings that it gave."""
    from keras_lrs import tuning

    def build_model(learning_rate):
        trainer.restart(0)
        trainer.model.optimizer.learning_rate = learning_rate
        return trainer.model

    def fit(model, callbacks):
        return trainer.fit(callbacks, validation_data=trainer.test)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = tuning.sweep(
            build_model,
            fit,
            search=search,
            num_trials=num_trials,
            monitor="val_accuracy",
            extend=extend,
            learning_rate=ends,
        )
    return found, [str(warning.message) for warning in caught]


def run_sweeps(data, epochs, grid=None):
    """Sweeps on held-out training data and the warnings that they gave, by title."""
    trainer = Trainer(hold_out(data), epochs)
    number = len(grid or GRID)
    asked = {
        LOG_GRID: ("grid", number, RANGE),
        RANDOM: ("random", number, RANGE),
        LOW: ("grid", 4, TOO_LOW),
        EXTENDED: ("grid", 4, TOO_LOW, True),
    }
    return {title: sweep(trainer, *arguments) for title, arguments in asked.items()}


def print_sweeps(sweeps):
    for title, (found, messages) in sweeps.items():
        low, high = found.ranges["learning_rate"]
        print(
            f"{title}: {len(found.trials)} rates in [{low:.3g}, {high:.3g}]; best "
            f"{found.best_parameters['learning_rate']:.3g}, "
            f"{100 * found.best.value:.2f} % on held-out data"
        )
        for message in messages:
            print(f"  warned: {message}")


def compare(trainer, seeds, grid=None, methods=METHODS):
    """Range tests by seed; accuracies of each method, and by rate of the grid."""
    from tqdm import tqdm

    grid = grid or GRID
    tests = [trainer.range_test(seed) for seed in range(seeds)]
    asked = {
        **{
            (reading, method): [test.suggestion(reading) for test in tests]
            for reading in tests[0].suggestions()
            for method in methods
        },
        **{rate: [rate] * seeds for rate in grid},
    }
    found = {}
    with tqdm(total=len(asked) * seeds, unit="training") as progress:
        for name, rates in asked.items():
            method = FIXED if isinstance(name, float) else name[1]
            found[name] = []
            for seed, rate in enumerate(rates):
                if rate is not None:
                    found[name].append(trainer.run(method, rate, seed))
                progress.update()
    return tests, found, {rate: found.pop(rate) for rate in grid}


def print_suggestions(tests):
    """A row per seed, a column per way to read the curve."""
    methods = list(tests[0].suggestions())
    print("\nseed", *(f"{method:>10}" for method in methods), f"{'factor':>10}")
    for seed, test in enumerate(tests):
        found = test.suggestions()
        cells = ["none" if rate is None else f"{rate:.3g}" for rate in found.values()]
        spread = "none" if found.spread is None else f"{found.spread:.3g}"
        print(f"{seed:>4}", *(f"{cell:>10}" for cell in [*cells, spread]))


def describe(runs):
    """Mean and standard deviation over seeds, and how many these are."""
    if not runs:
        return "none"
    return f"{statistics.mean(runs):.2f} ± {statistics.pstdev(runs):.2f} %"


def summarize(tests, suggested, grid, swept, swept_runs):
    """Lines of two tables: what was suggested; the grid and the sweep's choice."""
    yield f"{'suggested by':<14}{'rate':>8}" + "".join(f"{m:>20}" for m in METHODS)
    for reading in tests[0].suggestions():
        rates = [test.suggestion(reading) for test in tests]
        rates = [rate for rate in rates if rate is not None]
        # The geometric mean: rates are compared on a log scale.
        middle = f"{statistics.geometric_mean(rates):.2g}" if rates else "none"
        cells = [describe(suggested[reading, method]) for method in METHODS]
        yield f"{reading:<14}{middle:>8}" + "".join(f"{cell:>20}" for cell in cells)
    yield f"\n{'fixed rate':<14}"
    for rate, runs in grid.items():
        yield f"{rate:<14g}{describe(runs):>16}"
    yield f"{f'{swept:.3g} (sweep)':<14}{describe(swept_runs):>16}"
    best = max(grid, key=lambda rate: statistics.mean(grid[rate]))
    yield f"\nThe best of the grid, {best:g}, is chosen here on the test data."


def draw(tests, suggested, grid, path):
    """Writes the figure of `draw_tests` to a file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 6.0), layout="constrained")
    draw_tests(tests, suggested, grid, figure.subplots(1, 2))
    figure.savefig(path)


def draw_tests(tests, suggested, grid, panels):
    """Range tests on the left; on the right accuracies over the fixed rate."""
    import numpy as np

    left, right = panels
    labels = set()
    for test in tests:
        left.plot(test.learning_rates, test.smoothed, color="gray", alpha=0.5)
        for index, (reading, rate) in enumerate(test.suggestions().items()):
            if rate is not None:
                loss = np.interp(rate, test.learning_rates, test.smoothed)
                label = None if reading in labels else reading
                left.plot(rate, loss, "o", color=f"C{index}", label=label)
                labels.add(reading)
    highest = max(test.smoothed[: len(test.smoothed) // 2].max() for test in tests)
    left.set(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
    left.set_ylim(0.0, 1.5 * highest)
    left.legend()
    means = [statistics.mean(runs) for runs in grid.values()]
    spreads = [statistics.pstdev(runs) for runs in grid.values()]
    right.errorbar(list(grid), means, spreads, fmt="ko-", capsize=3, label="fixed grid")
    for index, reading in enumerate(tests[0].suggestions()):
        for method, marker in zip(METHODS, "x^*", strict=True):
            rates = [test.suggestion(reading) for test in tests]
            rates = [rate for rate in rates if rate is not None]
            runs = suggested.get((reading, method))
            if runs:
                middle = statistics.geometric_mean(rates)
                # Each seed has a rate of its own: the bar is their range.
                right.errorbar(
                    middle,
                    statistics.mean(runs),
                    # The mean of equal rates may differ from them by a rounding.
                    xerr=np.abs([[middle - min(rates)], [max(rates) - middle]]),
                    fmt=marker,
                    color=f"C{index}",
                    elinewidth=0.7,
                    label=f"{reading}, {method}",
                )
    right.set(xscale="log", xlabel="learning rate", ylabel="test accuracy (%)")
    right.set_ylim(statistics.median(means) - 10.0, 100.0)
    # No wider than the axes, or it would cover their labels.
    right.legend(
        loc="lower center",
        fontsize="xx-small",
        ncols=2,
        handlelength=1.0,
        columnspacing=0.8,
    )
    for panel in panels:
        panel.grid(alpha=0.3)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"])
    parser.add_argument("--epochs", type=int, default=8, help="of each training")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each training")
    parser.add_argument("--output", default="find_learning_rate.png", help="picture")
    options = parser.parse_args(arguments)
    if options.epochs < 1 or options.seeds < 1:
        parser.error("--epochs and --seeds must be at least 1")

    # Keras reads its backend when it is imported, so it is imported in the functions.
    if options.backend is not None:
        os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = load_data()
    sweeps = run_sweeps(data, options.epochs)
    print_sweeps(sweeps)
    swept = sweeps[LOG_GRID][0].best_parameters["learning_rate"]
    trainer = Trainer(data, options.epochs)
    tests, suggested, grid = compare(trainer, options.seeds)
    runs = [trainer.run(FIXED, swept, seed) for seed in range(options.seeds)]
    print_suggestions(tests)
    print()
    print("\n".join(summarize(tests, suggested, grid, swept, runs)))
    draw(tests, suggested, grid, options.output)
    print(f"Curves and accuracies: {options.output}")


if __name__ == "__main__":
    main()
