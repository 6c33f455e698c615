"""Decays of the rate against averages of the weights."""

import dataclasses
import functools
import itertools

import averaging as example
import numpy as np
import program

from claims import regime
from claims.experiment import TUTORIAL, Experiment, Row, job, wrap
from claims.harness import Kind, grid_words, words_of
from claims.judging import (
    LOSS_MARGIN,
    MARGIN,
    Statement,
    difference,
    loss_difference,
    lower_loss,
)
from claims.regime import ADAM

FULL, FREE = example.linear(100), example.FREE
LOSS, ERROR = range(2)  # The places of the curves of losses and of errors.
MEASURES = {LOSS: "test loss", ERROR: "test error"}
MARGINS = {LOSS: LOSS_MARGIN, ERROR: MARGIN}
COMPARE = {LOSS: loss_difference, ERROR: functools.partial(difference, sign=-1.0)}


def jobs(size):
    epochs = size.pick(regime.AVERAGED_EPOCHS, 4)
    return {
        name: job(averaged, name=name, epochs=epochs, seeds=size.seeds)
        for name in make_methods()
    }


def collect(found, size):
    ours = example.make_methods()
    return {
        "epochs": size.pick(regime.AVERAGED_EPOCHS, 4),
        "seeds": size.seeds,
        "rates": [found[name]["rate"] for name in ours],
        "found": {name: found[name]["curves"] for name in ours},
        "constants": {name: one for name, one in found.items() if name not in ours},
    }


def make_methods():
    """The example's, and a constant rate that is chosen for each shorter budget."""
    from keras_lrs import schedules

    constants = {
        constant(budget): example.Method(schedules.Constant, budget)
        for budget in example.BUDGETS
        if budget < 100
    }
    return example.make_methods() | constants


def constant(budget):
    """The name of a constant rate that is chosen for a budget."""
    return example.CONSTANT if budget == 100 else f"{example.CONSTANT}, {budget} %"


def averaged(harness, name, epochs, seeds):
    """The best rate for the end of its budget, and losses and errors (%) by seed."""
    from keras_lrs import Epochs, callbacks, schedules

    method = make_methods()[name]
    steps = epochs * harness.steps_per_epoch(Kind(ADAM))
    average = method.average and method.average(steps)
    free = method.schedule_free
    kind = Kind(ADAM, free=free, average=average if free else None)
    length = epochs * method.budget // 100

    def make_callbacks(rate, seed=0, choosing=True):
        warmup = Epochs(example.WARMUP * epochs)
        schedule = schedules.Warmup(method.schedule(rate), warmup)
        found = [callbacks.HyperparameterScheduler(learning_rate=schedule)]
        statistics = {
            "batch_norm": "recalibrate",
            "batch_norm_data": harness.data.train(seed, choosing)[0],
        }
        if free:
            found.append(callbacks.AveragedEvaluation(**statistics))
        elif average is not None:
            found.append(callbacks.WeightAveraging(average, **statistics))
        return found

    rate, _ = harness.choose(make_callbacks, length, kind, name)
    losses, errors = [], []
    points = [point for point in example.make_points(epochs) if point <= length]
    for seed in range(seeds):
        chosen = make_callbacks(rate, seed, choosing=False)
        _, history = harness.fit(chosen, length, seed, kind, looks=points)
        losses.append([round(loss, 5) for loss in history["val_loss"]])
        errors.append([round(100.0 - 100.0 * a, 4) for a in history["val_accuracy"]])
    return {"rate": rate, "curves": [losses, errors]}


def curves(results, name):
    """Test losses and errors of all seeds."""
    constants = results["constants"]
    return constants[name]["curves"] if name in constants else results["found"][name]


def decoded(results):
    found = {name: np.array(curves(results, name)) for name in make_methods()}
    return example.Results(found, example.make_points(results["epochs"]))


def at_budgets(results, ours, theirs, margin=0.0, measure=LOSS):
    """Comparisons at the budgets; ours and theirs may depend on the budget."""
    for budget in example.BUDGETS:
        yield COMPARE[measure](
            f"at {budget} %",
            *(
                values(results, one(budget) if callable(one) else one, budget, measure)
                for one in (ours, theirs)
            ),
            margin,
        )


def values(results, name, budget=100, measure=LOSS):
    """Those of all seeds, after a share of the whole training in percent."""
    points = example.make_points(results["epochs"])
    index = points.index(results["epochs"] * budget // 100)
    return [run[index] for run in curves(results, name)[measure]]


def memory_words(name):
    """An exponential average in a sentence: `EMA, 1 %` is a 1 % EMA."""
    return f"a {name.removeprefix('EMA, ')} EMA"


def memories():
    """What the shares in the names of exponential averages are, in words."""
    steps, methods = 10_000, example.make_methods()  # The share is that of any number.
    decays = [methods[name].average(steps).decay for name in (*example.EMAS, FREE)]
    *shares, free = (f"{100.0 / steps / (1.0 - decay):g} %" for decay in decays)
    names = " and ".join(f'"{name}"' for name in example.EMAS)
    return (
        f"The exponential averages {names} have a time constant of "
        f"{' and '.join(shares)} of the steps of the whole run, and that of "
        f"schedule-free training one of {free}."
    )


def judge_decays(results):
    yield Statement(
        f"decay helps at {percents()}: the linear decay is better than a constant "
        "rate, each at the rate that was chosen for that budget",
        *at_budgets(results, example.linear, constant),
    )
    yield from judge_forms(lambda name: values(results, name))


def judge_forms(ends, beginning=""):
    """How decays of several forms end; also of the Pareto figure.

    Args:
        ends: A function from the name of a method to the losses of all seeds.
        beginning: Of the statements.
    """
    linear, cosine, late, early = map(
        ends, (FULL, example.COSINE, example.LATE_STEP, example.EARLY_STEP)
    )
    yield Statement(
        f"{beginning}linear and cosine are as good as each other",
        loss_difference("cosine", cosine, linear, LOSS_MARGIN),
        loss_difference("linear", linear, cosine, LOSS_MARGIN),
    )
    yield lower_loss(
        f"{beginning}a late step decay (75 %) is nearly as good as the linear decay",
        late,
        linear,
        LOSS_MARGIN,
    )
    yield lower_loss(
        f"{beginning}an early step decay (25 %) is worse than a late one (late - "
        "early)",
        late,
        early,
    )


def percents():
    """The budgets in words."""
    *others, last = (f"{budget}" for budget in example.BUDGETS)
    return f"{', '.join(others)} and {last} % of the epochs"


def by_both_measures(results):
    """What `judge_decays` compares, by loss and by error: rows of a table."""
    pairs = [
        (f"linear - constant, {b} %", (example.linear(b), constant(b)), b)
        for b in example.BUDGETS
    ]
    pairs += [
        (what, names, 100)
        for what, names in {
            "cosine - linear": (example.COSINE, FULL),
            "late step - linear": (example.LATE_STEP, FULL),
            "late step - early step": (example.LATE_STEP, example.EARLY_STEP),
        }.items()
    ]
    for what, names, budget in pairs:
        cells = [
            COMPARE[measure](
                "", *(values(results, name, budget, measure) for name in names)
            ).by
            for measure in MEASURES
        ]
        yield [what, *cells]


def judge_averages(results):
    cosine = values(results, example.COSINE)
    for name in example.EMAS:
        yield lower_loss(
            f"at the end, {memory_words(name)} at a constant rate is as good as the "
            "cosine",
            values(results, name),
            cosine,
            LOSS_MARGIN,
        )


def judge_schedule_free(results):
    for measure, margin in MARGINS.items():
        compared = at_budgets(results, FREE, example.linear, margin, measure)
        above = above_shorter(results, measure)
        yield Statement(
            "schedule-free training with an exponential average lies on or below the "
            f"end of every linear decay, by {MEASURES[measure]}",
            *(
                dataclasses.replace(one, by=f"{one.by}; {above[b]}", vacuous=True)
                if b in above
                else one
                for b, one in zip(example.BUDGETS, compared, strict=True)
            ),
        )


def above_shorter(results, measure):
    """The budgets whose linear decay ends above a shorter one, by how much in words."""
    ends = {b: values(results, example.linear(b), b, measure) for b in example.BUDGETS}
    found = {}
    for shorter, longer in itertools.combinations(ends, 2):
        gap = COMPARE[measure]("", ends[longer], ends[shorter])
        if gap.high < 0.0:
            found[longer] = (
                f"the linear decay over {longer} % is above that over {shorter} % by "
                f"{gap.by}"
            )
    return found


def judge_uniform(results):
    decay, average = values(results, FULL), values(results, example.POLYAK)
    yield Statement(
        "at the end, the uniform (Polyak) average of a constant rate and the linear "
        "decay are as good as each other",
        loss_difference("the average", average, decay, LOSS_MARGIN),
        loss_difference("the linear decay", decay, average, LOSS_MARGIN),
    )


def tables(results):
    header = ["method", "rate", "loss", "error (%)"]
    header += [f"gap at {budget} %" for budget in example.BUDGETS]
    rates = dict(zip(example.make_methods(), results["rates"], strict=True))
    rates |= {name: one["rate"] for name, one in results["constants"].items()}
    methods = make_methods()
    yield from wrap(
        "Loss and error on the test data at the end of each method's budget, ± the "
        "standard deviation over seeds; then how much larger the loss is, after a "
        "share of the whole run, than that of the linear decay that ends there, ± half "
        'the 95 % interval. The rate of "constant, 25 %" was chosen for a run of that '
        "length."
    )
    yield ""
    rows = example.rows(decoded(results), [rates[name] for name in methods], methods)
    yield from program.table(header, rows)
    yield ""
    yield from wrap(
        "The differences that are judged, which are those of the test loss, and the "
        "same of the test error, which are not:"
    )
    yield ""
    header = ["difference", "test loss", "test error"]
    yield from program.table(header, list(by_both_measures(results)))


def setting(results, data):
    budgets = ", ".join(map(str, example.BUDGETS))
    return (
        f"{words_of(data)} {ADAM}, {results['epochs']} epochs; for each budget of "
        f"{budgets} % of them, a linear decay of its own and a constant rate of its "
        f"own; a warmup over {100 * example.WARMUP:g} % of the {results['epochs']} "
        f"epochs for all, whatever the budget; {results['seeds']} seeds. {memories()} "
        f"Each method uses {grid_words(data, ADAM, when=' at the end of its budget')}."
    )


def draw(results, path):
    example.draw(decoded(results), path)


CRITERION = (
    "Test losses are compared, at rates that were chosen by error. "
    f'"As good as" and "nearly as good as" mean less than {LOSS_MARGIN:g} above.'
)
ONE_RUN = (
    "An average has one rate, which was chosen for the end of the whole run; each "
    "linear decay has one that was chosen for its own end."
)
EXPERIMENT = Experiment(
    "averages",
    (
        Row(
            "Decay at every budget",
            TUTORIAL,
            "Decay helps at every budget; its exact form matters little; a late step "
            "decay is nearly as good, an early one slows learning.",
            f"{CRITERION} Of the forms, only linear and cosine, which are much alike, "
            "are compared with each other here; others are in [Profiles and sampling "
            "rates across budgets](#profiles-and-sampling-rates-across-budgets). "
            "Smaller budgets are judged in [Decay at small "
            "budgets](#decay-at-small-budgets). Test errors may say something else; "
            'they are in the table. "Slows learning" is judged by the loss at the end, '
            "against that of the late step. Each method has a rate of its own; in the "
            "tutorial all share one, as in [Pareto figure](#pareto-figure).",
            judge_decays,
            tables,
        ),
        Row(
            "Averages at a constant rate",
            TUTORIAL,
            "An exponential average at a constant rate matches cosine at the end.",
            f"{CRITERION} Each method has a rate of its own. Whether a Polyak average "
            "lags the same training without one is judged where all have one rate: "
            "[Pareto figure](#pareto-figure).",
            judge_averages,
            tables,
        ),
        Row(
            "Linear decay and uniform averages",
            TUTORIAL,
            "Linear decay acts like uniform averaging.",
            f"{CRITERION} Both rates were chosen for the end of the whole run, so that "
            "is where they are compared. For smaller budgets only the decay has a rate "
            "of its own; the gaps are in the table.",
            judge_uniform,
            tables,
        ),
        Row(
            "Schedule-free training",
            TUTORIAL,
            "Schedule-free training with exponential averaging lies on or below the "
            "whole family of linear decays.",
            "Test losses and test errors are compared, at rates that were chosen by "
            f'held-out error. "On or below" means less than {LOSS_MARGIN:g} of loss, '
            f"or {MARGIN:g} points of error, above. {ONE_RUN} A linear decay may end "
            "above a shorter one, by the same measure and beyond the 95 % interval. "
            "Then it is not on the lower edge of the family: lying above it counts "
            "against the claim, but lying below it shows nothing, and counts as cannot "
            "be told.",
            judge_schedule_free,
            tables,
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
