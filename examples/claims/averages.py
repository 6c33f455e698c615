"""Decays of the rate against averages of the weights."""

import averaging as example
import numpy as np
import program

from claims import regime
from claims.experiment import TUTORIAL, Experiment, Row, job
from claims.harness import Kind, grid_words, words_of
from claims.judging import LOSS_MARGIN, Fact, Statement, loss_difference, lower_loss
from claims.regime import ADAM


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


def decoded(results):
    found = {name: np.array(runs) for name, runs in results["found"].items()}
    return example.Results(found, example.make_points(results["epochs"]))


def at_budgets(results, ours, theirs, margin=0.0):
    """Comparisons of losses at the budgets; theirs may depend on the budget."""
    for budget in example.BUDGETS:
        other = theirs(budget) if callable(theirs) else theirs
        yield loss_difference(
            f"at {budget} %",
            losses(results, ours(budget) if callable(ours) else ours, budget),
            losses(results, other, budget),
            margin,
        )


def losses(results, name, budget=100):
    """The test losses of all seeds, after a share of the whole training in percent."""
    points = example.make_points(results["epochs"])
    index = points.index(results["epochs"] * budget // 100)
    return [run[index] for run in results["found"][name][0]]


def memory_words(name):
    """An exponential average in a sentence: `EMA, 1 %` is a 1 % EMA."""
    return f"a {name.removeprefix('EMA, ')} EMA"


def judge_decays(results):
    full, cosine = losses(results, FULL), losses(results, example.COSINE)
    late, early = (
        losses(results, name) for name in (example.LATE_STEP, example.EARLY_STEP)
    )
    yield Statement(
        "decay helps at every budget: the linear decay is better than a constant rate",
        *at_budgets(results, example.linear, example.CONSTANT),
    )
    yield Statement(
        "the form matters little: linear and cosine are as good as each other",
        loss_difference("cosine", cosine, full, LOSS_MARGIN),
        loss_difference("linear", full, cosine, LOSS_MARGIN),
    )
    yield lower_loss(
        "a late step decay (75 %) is nearly as good as the linear decay",
        late,
        full,
        LOSS_MARGIN,
    )
    yield lower_loss(
        "an early step decay (25 %) slows learning: it is worse than the late one",
        late,
        early,
    )


def judge_averages(results):
    cosine = losses(results, example.COSINE)
    for name in example.EMAS:
        yield lower_loss(
            f"at the end, {memory_words(name)} at a constant rate is as good as the "
            "cosine",
            losses(results, name),
            cosine,
            LOSS_MARGIN,
        )
    yield Statement(
        "a Polyak average lags: it is worse than the same training without an average",
        *at_budgets(results, example.CONSTANT, example.POLYAK),
    )


def judge_schedule_free(results):
    ends = {b: losses(results, example.linear(b), b) for b in example.BUDGETS}
    compared = at_budgets(results, example.FREE, example.linear, LOSS_MARGIN)
    found = []
    for budget, one in zip(example.BUDGETS, compared, strict=True):
        # A decay over more steps that ends higher has a rate that does not suit it.
        shorter = {
            b: loss_difference("", ends[budget], ends[b]) for b in ends if b < budget
        }
        worse = [b for b, gap in shorter.items() if gap.high < 0.0]
        if worse:
            by = (
                f"not comparable, the linear decay over {budget} % is worse than that "
                f"over {worse[-1]} % ({shorter[worse[-1]].by})"
            )
            one = Fact(one.what, None, by)
        found.append(one)
    yield Statement(
        "schedule-free training with an exponential average lies on or below the end "
        "of every linear decay",
        *found,
    )


def judge_uniform(results):
    yield Statement(
        "linear decay acts like uniform averaging: at every budget the uniform average "
        "of a constant rate is as good as the linear decay that ends there",
        *at_budgets(results, example.POLYAK, example.linear, LOSS_MARGIN),
    )
    yield Statement(
        "and the linear decay is as good as the uniform average",
        *at_budgets(results, example.linear, example.POLYAK, LOSS_MARGIN),
    )


def tables(results):
    header = ["method", "rate", "loss", "error (%)"]
    header += [f"gap at {budget} %" for budget in example.BUDGETS]
    yield "Loss and error on the test data at the end, ± the standard deviation over"
    yield "seeds; then how much larger the loss is, after a share of the run, than that"
    yield "of the linear decay that ends there, ± half the 95 % interval:"
    yield ""
    yield from program.table(header, example.rows(decoded(results), results["rates"]))


def setting(results, data):
    budgets = ", ".join(map(str, example.BUDGETS))
    return (
        f"{words_of(data)} {ADAM}, {results['epochs']} epochs, a linear decay of its "
        f"own for each budget of {budgets} %, a warmup over {100 * example.WARMUP:g} % "
        f"for all; {results['seeds']} seeds. Each method uses "
        f"{grid_words(ADAM, when=' at the end of its budget,')}."
    )


def draw(results, path):
    example.draw(decoded(results), path)


COMPARED = "Test losses are compared."
CRITERION = f'{COMPARED} "As good as" means less than {LOSS_MARGIN:g} above.'
FULL = example.linear(100)
EXPERIMENT = Experiment(
    "averages",
    (
        Row(
            "Decay at every budget",
            TUTORIAL,
            "Decay helps at every budget; its exact form matters little; a late step "
            "decay is nearly as good, an early one slows learning.",
            CRITERION,
            judge_decays,
            tables,
        ),
        Row(
            "Averages at a constant rate",
            TUTORIAL,
            "An exponential average at a constant rate matches cosine at the end; a "
            "Polyak average lags the training without an average.",
            CRITERION,
            judge_averages,
            tables,
        ),
        Row(
            "Linear decay and uniform averages",
            TUTORIAL,
            "Linear decay acts like uniform averaging.",
            CRITERION,
            judge_uniform,
            tables,
        ),
        Row(
            "Schedule-free training",
            TUTORIAL,
            "Schedule-free training with exponential averaging lies on or below the "
            "whole family of linear decays.",
            f'{COMPARED} "On or below" means less than {LOSS_MARGIN:g} above. A '
            "linear decay that ends higher than a shorter one, beyond the interval, "
            "has a rate that does not suit it: nothing is compared with it.",
            judge_schedule_free,
            tables,
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
