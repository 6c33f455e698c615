"""The Pareto figure: trajectories of runs against the ends of linear decays."""

import itertools

import averaging as example
import numpy as np
import program

from claims import regime
from claims.averages import judge_forms, memories, memory_words
from claims.experiment import TUTORIAL, Experiment, Row, job
from claims.harness import Kind, grid_words, words_of
from claims.judging import LOSS_MARGIN, Statement, loss_difference
from claims.regime import ADAM

MEMORY = example.EMAS[1]


def jobs(size):
    epochs = size.pick(regime.AVERAGED_EPOCHS, 4)
    return {
        name: job(traced, name=name, epochs=epochs, seeds=size.seeds)
        for name in example.make_methods()
    }


def collect(found, size):
    first = next(iter(found.values()))
    if any(one["rate"] != first["rate"] for one in found.values()):
        raise ValueError("All methods of the Pareto figure must share one rate.")
    return {
        "epochs": size.pick(regime.AVERAGED_EPOCHS, 4),
        "seeds": size.seeds,
        "rate": first["rate"],
        "curves": {name: found[name]["curves"] for name in example.make_methods()},
    }


def traced(harness, name, epochs, seeds):
    """Training losses, test losses and errors (%) by seed, at one rate for all.

    It is the best for the end of a run at a constant rate.
    """
    from keras_lrs import Epochs, callbacks, schedules

    method = example.make_methods()[name]
    steps = epochs * harness.steps_per_epoch(Kind(ADAM))
    warmup = Epochs(example.WARMUP * epochs)

    def scheduler(schedule):
        return callbacks.HyperparameterScheduler(
            learning_rate=schedules.Warmup(schedule, warmup)
        )

    def constant(rate):
        return [scheduler(schedules.Constant(rate))]

    rate, _ = harness.choose(constant, epochs, Kind(ADAM), "constant")
    average = method.average and method.average(steps)
    free = method.schedule_free
    kind = Kind(ADAM, free=free, average=average if free else None)
    length = epochs * method.budget // 100
    points = [point for point in example.make_points(epochs) if point <= length]
    curves = []
    for seed in range(seeds):
        chosen = [scheduler(method.schedule(rate))]
        statistics = {
            "batch_norm": "recalibrate",
            "batch_norm_data": harness.data.train(seed)[0],
        }
        if free:
            chosen.append(callbacks.AveragedEvaluation(**statistics))
        elif average is not None:
            chosen.append(callbacks.WeightAveraging(average, **statistics))
        _, history = harness.fit(chosen, length, seed, kind, looks=points)
        errors = [round(100.0 - 100.0 * each, 4) for each in history["val_accuracy"]]
        losses = (history["loss"], history["val_loss"])
        curves.append([*([round(e, 5) for e in each] for each in losses), errors])
    return {"rate": rate, "curves": curves}


def losses(results, name, budget=100):
    """The test losses of all seeds, after a share of the epochs in percent."""
    points = example.make_points(results["epochs"])
    index = points.index(results["epochs"] * budget // 100)
    return [run[1][index] for run in results["curves"][name]]


def judge(results):
    ends = {b: losses(results, example.linear(b), b) for b in example.BUDGETS}
    yield Statement(
        "with one rate for all, the ends of linear decays are a Pareto front: each is "
        "lower than that of the next shorter one",
        *(
            loss_difference(f"at {longer} %", ends[longer], ends[shorter])
            for shorter, longer in itertools.pairwise(ends)
        ),
    )
    yield Statement(
        "with one rate for all, no end is above the trajectory at a constant rate",
        *(
            loss_difference(
                f"at {budget} %",
                ends[budget],
                losses(results, example.CONSTANT, budget),
                LOSS_MARGIN,
            )
            for budget in example.BUDGETS
        ),
    )
    yield from judge_forms(
        lambda name: losses(results, name), "with one rate for all, "
    )
    for name, what in (
        (MEMORY, memory_words(MEMORY)),
        (example.FREE, "schedule-free training with an exponential average"),
    ):
        yield Statement(
            f"with one rate for all, {what} is on or below the end of every linear "
            "decay",
            *(
                loss_difference(
                    f"at {budget} %",
                    losses(results, name, budget),
                    ends[budget],
                    LOSS_MARGIN,
                )
                for budget in example.BUDGETS
            ),
        )
    yield Statement(
        "with one rate for all, a Polyak average lags: its loss is above that of the "
        "same training without an average (without - with)",
        *(
            loss_difference(
                f"at {budget} %",
                losses(results, example.CONSTANT, budget),
                losses(results, example.POLYAK, budget),
            )
            for budget in example.BUDGETS
        ),
    )


def tables(results):
    yield f"Losses and errors with a rate of {results['rate']:g} for all, at the end of"
    yield "each method's budget. The training loss is the mean of the last epoch, at"
    yield "the weights that gradients are computed at, not at their average:"
    yield ""
    rows = []
    for name, runs in results["curves"].items():
        ends = np.array([[curve[-1] for curve in run] for run in runs])
        cells = [
            f"{mean:.{digits}f} ± {deviation:.{digits}f}"
            for mean, deviation, digits in zip(
                ends.mean(0), ends.std(0), (4, 4, 2), strict=True
            )
        ]
        rows.append([name, *cells])
    header = ["method", "training loss", "test loss", "test error (%)"]
    yield from program.table(header, rows)


def setting(results, data):
    budgets = ", ".join(map(str, example.BUDGETS))
    when = " at the end of a run at a constant rate"
    return (
        f"{words_of(data)} {ADAM}, {results['epochs']} epochs, a linear decay of its "
        f"own for each budget of {budgets} % of them, a warmup over "
        f"{100 * example.WARMUP:g} % of the {results['epochs']} epochs for all, "
        f"whatever the budget; {results['seeds']} seeds. {memories()} As in the "
        f"tutorial, all methods share one rate: {grid_words(data, ADAM, when=when)}."
    )


def draw(results, path):
    """Three panels: the training loss as a moving mean, test loss and test error."""
    from matplotlib.figure import Figure

    # One above the other, so that they can be read at the width of a page.
    figure = Figure(figsize=(9.0, 13.0), layout="constrained")
    panels = figure.subplots(3, 1)
    epochs = results["epochs"]
    methods = example.make_methods()
    labels = ("training loss (mean of an epoch)", "test loss", "test error (%)")
    for number, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        ends = []
        for index, (name, runs) in enumerate(results["curves"].items()):
            curves = np.array([run[number] for run in runs])
            length = epochs * methods[name].budget // 100
            points = [p for p in example.make_points(epochs) if p <= length]
            places = points if number else np.arange(1, length + 1)
            if name in map(example.linear, example.BUDGETS):
                ends.append([length, curves[:, -1].mean(), curves[:, -1].std()])
            else:
                line = "-" if index % 2 else "--"
                axes.plot(places, curves.mean(0), line, linewidth=1.2, label=name)
        ends = np.array(ends).T
        error = 2.0 * ends[2] / results["seeds"] ** 0.5
        axes.errorbar(
            ends[0],
            ends[1],
            error,
            fmt="ko--",
            capsize=3,
            label="ends of linear decays",
        )
        low = min(axes.get_ylim()[0], (ends[1] - error).min())
        axes.set(xlabel="epoch", ylabel=label, ylim=(low, 2.5 * ends[1].max()))
        axes.grid(alpha=0.3)
    panels[0].set_title("means over seeds; bars: twice the standard error")
    panels[0].legend(fontsize="small", ncols=2)
    figure.savefig(path)


EXPERIMENT = Experiment(
    "pareto",
    (
        Row(
            "Pareto figure",
            TUTORIAL,
            "The ends of linear decays are a Pareto front of steps and loss; an "
            "exponential average, and schedule-free training with one, are on it or "
            "below, along the trajectory of a single run; a Polyak average lags the "
            "training without an average. A decay's form matters little, a late step "
            "is nearly as good, and an early one slows learning.",
            'Test losses are compared, at a rate that was chosen by error. "On or '
            'below", "as good as" and "no end is above" mean less than '
            f"{LOSS_MARGIN:g} above. Of the exponential averages, that of 10 % is "
            "judged. As in the tutorial, all methods share one rate. It was chosen for "
            "a constant rate; those that linear decays chose for themselves are in the "
            "table of [Decay at every budget](#decay-at-every-budget). Where they are "
            "larger, the one rate favors the constant rate and the averages that are "
            "compared with the decays. Where each method has its own rate, that claim "
            "and [Schedule-free training](#schedule-free-training) say what is so.",
            judge,
            tables,
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
