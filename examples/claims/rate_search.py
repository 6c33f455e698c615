"""Tune on a log scale, inside of the range; a range test finds the bounds."""

import statistics
import warnings

import find_learning_rate as example
import numpy as np
import program
from one_cycle import MOMENTUM

from claims import regime
from claims.experiment import NOTES, OVERVIEW, Experiment, Row, job
from claims.harness import Kind, words_of
from claims.judging import Fact, Statement, better, no_worse, spread

POINT = 1.0  # Of accuracy: what is lost at most where bounds are usable.
# 10^x with x from -3 to 1, of the rate and of the weight decay.
RATES = DECAYS = (1e-3, 10.0)
GRID_SIDE = 3
EPOCHS = 8


def search_two(harness, seeds, epochs, side):
    """Test accuracies where a grid and a random search of two parameters end."""
    from keras_lrs import callbacks, tuning
    from keras_lrs.schedules import Constant

    found = {"grid": [], "random": []}

    def fit(rate, decay, seed):
        scheduler = callbacks.HyperparameterScheduler(
            learning_rate=Constant(rate), weight_decay=Constant(decay)
        )
        model, _ = harness.fit([scheduler], epochs, seed)
        return [
            *harness.score(model, harness.data.held_out),
            *harness.score(model, harness.data.test),
        ]

    for seed in range(seeds):
        scores = [
            fit(rate, decay, seed)
            for rate in np.geomspace(*RATES, side).tolist()
            for decay in np.geomspace(*DECAYS, side).tolist()
        ]
        found["grid"].append(100.0 - min(scores)[2])
        scores = []

        def train(model, callbacks, learning_rate, decay, scores=scores, seed=seed):
            scores.append(fit(learning_rate, decay, seed))
            return scores[-1][0]

        with warnings.catch_warnings():
            # Here a best rate at the edge is as good as any.
            warnings.filterwarnings("ignore", ".* edge", UserWarning)
            tuning.sweep(
                lambda: harness.restart(Kind(), 0),
                train,
                search="random",
                num_trials=side**2,
                seed=seed,
                learning_rate=RATES,
                decay=DECAYS,
            )
        found["random"].append(100.0 - min(scores)[2])
    parameters = "rate and weight decay"
    return {"parameters": parameters, "trials": side**2, "epochs": epochs, **found}


def read_bounds(harness, seeds, epochs):
    """By seed: both bounds, and the accuracy (%) of triangular cycles between them.

    The bounds are read off the accuracy on held-out data; None where a test has none.
    """
    from keras_lrs import Fraction, schedules, tuning
    from keras_lrs.callbacks import HyperparameterScheduler

    data = example.load_data()
    testing = example.Trainer(example.hold_out(data), epochs)
    trainer = example.Trainer(data, epochs)
    found = []
    for seed in range(seeds):
        testing.restart(seed)
        test = tuning.range_test(
            testing.model,
            testing.x,
            testing.y,
            batch_size=example.BATCH_SIZE["digits"],
            validation_data=testing.test,
            monitor="accuracy",
            verbose=0,
        )
        bounds = test.suggestion("bounds")
        if bounds is not None:
            trainer.restart(seed)
            cycles = schedules.CyclicalLearningRate(*bounds, Fraction(0.25))
            trainer.fit([HyperparameterScheduler(learning_rate=cycles)])
        found.append([bounds, None if bounds is None else trainer.accuracy()])
    return found


def jobs(size):
    epochs, side = size.pick(10, 1), size.pick(GRID_SIDE, 2)
    return {
        "all": job(run, seeds=size.seeds, quick=size.quick),
        "bounds": job(read_bounds, seeds=size.seeds, epochs=size.pick(EPOCHS, 1)),
        "two": job(search_two, seeds=size.seeds, epochs=epochs, side=side),
    }


def collect(found, size):
    return {**found["all"], "bounds": found["bounds"], "two": found["two"]}


def run(harness, seeds, quick):
    """The program's sweeps, range tests and runs, on its own data."""
    epochs = 1 if quick else EPOCHS
    grid = (0.1, 0.3) if quick else example.GRID
    data = example.load_data()
    sweeps = example.run_sweeps(data, epochs, grid)
    tests, suggested, fixed = example.compare(
        example.Trainer(data, epochs),
        seeds,
        grid,
        (example.CYCLES,) if quick else example.METHODS,
    )
    return {
        "epochs": epochs,
        "seeds": seeds,
        "sweeps": {title: describe(*pair) for title, pair in sweeps.items()},
        "tests": [
            {
                "learning_rates": test.learning_rates.tolist(),
                "losses": test.losses.tolist(),
                "num_steps": test.num_steps,
                "smoothing": test.smoothing,
            }
            for test in tests
        ],
        "suggested": [[*key, runs] for key, runs in suggested.items()],
        "grid": [[rate, runs] for rate, runs in fixed.items()],
    }


def describe(found, messages):
    return {
        "asked": example.TOO_LOW if found.ranges["learning_rate"][0] < 1e-4 else None,
        "range": found.ranges["learning_rate"],
        "trials": [
            [trial.parameters["learning_rate"], trial.value] for trial in found.trials
        ],
        "best": [found.best_parameters["learning_rate"], found.best.value],
        "at edge": found.at_edge.get("learning_rate"),
        "warnings": messages,
    }


def range_tests(results):
    """The curves, their ways to read them, and the accuracies; as of the example."""
    from keras_lrs.tuning import RangeTest

    tests = [
        RangeTest(
            np.array(test["learning_rates"]),
            np.array(test["losses"]),
            test["num_steps"],
            test["smoothing"],
        )
        for test in results["tests"]
    ]
    suggested = {(reading, m): runs for reading, m, runs in results["suggested"]}
    return tests, suggested, dict(results["grid"])


def judge_sweeps(results):
    sweeps, two = results["sweeps"], results["two"]
    for title in (example.LOG_GRID, example.RANDOM):
        found = sweeps[title]
        rate, value = found["best"]
        yield Statement(
            f"{title.lower()} on a log scale, the best rate is inside of the range",
            Fact(
                "",
                not found["at edge"],
                f"best {rate:.3g} in [{found['range'][0]:g}, {found['range'][1]:g}], "
                f"{100.0 * value:.2f} %",
            ),
        )
    low, extended = sweeps[example.LOW], sweeps[example.EXTENDED]
    yield Statement(
        "a range that is too low says so",
        Fact(
            "",
            low["at edge"] == "high" and bool(low["warnings"]),
            f"best {low['best'][0]:.3g} at the edge, {len(low['warnings'])} warning",
        ),
    )
    yield Statement(
        "it extends itself until the best rate is inside, which in this run has a "
        "higher accuracy on the held-out data",
        Fact(
            "",
            not extended["at edge"] and extended["best"][1] > low["best"][1],
            f"best {extended['best'][0]:.3g}, {100.0 * extended['best'][1]:.2f} % "
            f"instead of {100.0 * low['best'][1]:.2f} %",
        ),
    )
    yield better(
        f"with two parameters, {two['trials']} random trials find more than a grid",
        two["random"],
        two["grid"],
    )


def sweep_tables(results):
    rows = [
        [
            title,
            f"{len(found['trials'])}",
            f"[{found['range'][0]:.3g}, {found['range'][1]:.3g}]",
            f"{found['best'][0]:.3g}",
            f"{100.0 * found['best'][1]:.2f} %",
            f"at the edge ({found['at edge']})" if found["at edge"] else "inside",
        ]
        for title, found in results["sweeps"].items()
    ]
    header = ["search", "trials", "final range", "best rate", "accuracy", "it lies"]
    yield "The searches over the rate alone, with the best rate's accuracy on the"
    yield "held-out data:"
    yield ""
    yield from program.table(header, rows)
    two = results["two"]
    yield ""
    together = f"{two['parameters'][0].upper()}{two['parameters'][1:]}"
    yield f"{together} together, {two['trials']} trials: test accuracy of the trial"
    yield "that was best on the held-out data, ± the standard deviation over seeds:"
    yield ""
    yield from program.table(
        ["search", "accuracy (%)"],
        [[name, spread(two[name])] for name in ("grid", "random")],
    )


def judge_bounds(results):
    _, suggested, grid = range_tests(results)
    best = max(grid, key=lambda rate: statistics.mean(grid[rate]))
    readings = {
        ("bounds", example.CYCLES): bounded_runs(results),
        **{key: runs for key, runs in suggested.items() if key[1] != example.FIXED},
    }
    for (reading, method), runs in readings.items():
        text = (
            f"`{reading}` for {method}: less than {POINT:g} point below the fixed rate "
            f"{best:g}"
        )
        if len(runs) == results["seeds"]:
            yield no_worse(text, runs, grid[best], POINT)
        else:
            by = f"a suggestion in {len(runs)} of {results['seeds']} seeds only"
            yield Statement(text, Fact("", False, by))


def bounded_runs(results):
    """The accuracies of the seeds whose tests have both bounds."""
    return [accuracy for bounds, accuracy in results["bounds"] if bounds is not None]


def bound_tables(results):
    tests, suggested, grid = range_tests(results)
    yield "Test accuracy (%) with the suggested rate, unchanged, ± the standard"
    yield "deviation over seeds. Each seed uses the rate that its own test suggests:"
    yield "the table has their geometric mean, the least and the largest. For `bounds`,"
    yield "these are the upper bounds."
    yield ""
    runs = bounded_runs(results)
    cycles = spread(runs) if runs else "none"
    uppers = [bounds and bounds[1] for bounds, _ in results["bounds"]]
    rows = [["bounds", *rates_of(uppers), "", cycles, ""]]
    for reading in tests[0].suggestions():
        cells = [suggested.get((reading, method)) for method in example.METHODS]
        cells = [spread(each) if each else "none" for each in cells]
        rates = [test.suggestion(reading) for test in tests]
        rows.append([reading, *rates_of(rates), *cells])
    header = ["reading", "rate", "least and largest", *example.METHODS]
    yield from program.table(header, rows)
    yield ""
    yield "The grid of fixed rates:"
    yield ""
    yield from program.table(
        ["fixed rate", "accuracy (%)"],
        [[f"{rate:g}", spread(runs)] for rate, runs in grid.items()],
    )


def rates_of(suggested):
    """The rates that the seeds use, in words: their mean, and the ends of their range.

    The mean is the geometric one: rates are compared on a log scale.
    """
    rates = [rate for rate in suggested if rate is not None]
    if not rates:
        return ["none", ""]
    ends = f"{min(rates):.2g} to {max(rates):.2g}"
    if len(rates) < len(suggested):
        ends += f" ({len(rates)} of {len(suggested)} seeds)"
    return [f"{statistics.geometric_mean(rates):.2g}", ends]


NETWORK = (
    "The convolutional network of `examples/quickstart.py` with SGD with Nesterov's "
    f"momentum of {MOMENTUM:g}"
)


def sweeps_setting(results, data):
    two = results["two"]
    return (
        f"{NETWORK}, {results['epochs']} epochs on three quarters of 1,347 handwritten "
        "digits; the rest is held out. With two parameters, rate and weight decay, "
        f"both are from {RATES[0]:g} to {RATES[1]:g} on a log scale, and a grid or "
        f"{two['trials']} random trials train for {two['epochs']} epochs with SGD with "
        f"momentum {regime.MOMENTUM:g}; {results['seeds']} seeds. Their data and "
        f"network are those of other claims: {words_of(data)}"
    )


def bounds_setting(results, data):
    return (
        f"{NETWORK}, {results['epochs']} epochs on 1,347 handwritten digits, 450 "
        f"others to test; {results['seeds']} seeds, by "
        "`examples/find_learning_rate.py`. A range test has 100 steps; that for "
        "`bounds` trains with three quarters of the 1,347 digits, and looks at the "
        "accuracy on the others. There are two triangular cycles, between both bounds, "
        "or between a quarter of the suggested rate and that rate. The peak of 1cycle "
        "is the suggested rate, at a constant momentum."
    )


def draw(results, path):
    """The searches over the rate above; range tests and what they suggest below."""
    from matplotlib.figure import Figure

    tests, suggested, grid = range_tests(results)
    figure = Figure(figsize=(10.0, 10.0), layout="constrained")
    top, bottom = figure.subfigures(2, 1)
    axes = top.subplots()
    for marker, (title, found) in zip("osx^", results["sweeps"].items(), strict=True):
        rates, values = zip(*found["trials"], strict=True)
        accuracies = [100.0 * value for value in values]
        axes.plot(rates, accuracies, marker, linestyle="none", label=title)
    axes.set(xscale="log", xlabel="learning rate", ylabel="held-out accuracy (%)")
    axes.set_title("searches over the rate")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    example.draw_tests(tests, suggested, grid, bottom.subplots(1, 2))
    figure.savefig(path)


EXPERIMENT = Experiment(
    "rate_search",
    (
        Row(
            "Tuning on a log scale",
            NOTES,
            "Tune on a log scale; the best rate must not lie on the edge of the range; "
            "random search when several parameters interact.",
            "The first four statements are about the searches in the table, one run "
            "each. No linear scale was tried: they say only that the searches do what "
            "the source asks for. With two parameters, test accuracies are compared.",
            judge_sweeps,
            sweep_tables,
            setting=sweeps_setting,
        ),
        Row(
            "Bounds from a range test",
            OVERVIEW,
            "A range test before the training finds usable bounds for cyclical rates "
            "and for 1cycle.",
            'As in the publication, `RangeTest.suggestion("bounds")` reads both bounds '
            "of triangular cycles off the accuracy on held-out data; they are tried "
            "for these only. The other ways read one rate off the loss "
            "(`RangeTest.suggestions()`, see [the "
            "guide](guides/choosing_a_learning_rate.md)). That rate is used unchanged: "
            "as the upper bound of triangular cycles, whose lower bound is a quarter "
            "of it, and as the peak of 1cycle. The accuracy with it as a fixed rate is "
            "in the table, but is not judged. Test accuracies are compared with those "
            "of the best fixed rate of the grid, which is chosen on the test data; "
            "every seed's test must suggest a rate.",
            judge_bounds,
            bound_tables,
            "Smith, 2015, arXiv:1506.01186; for 1cycle: Smith and Topin, 2017, "
            "arXiv:1708.07120",
            bounds_setting,
        ),
    ),
    jobs,
    collect,
    None,
    draw,
    swaps=False,
)
