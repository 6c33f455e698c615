"""S2a to S2c: decays of the rate against averages of the weights."""

import dataclasses

import averaging as example
import numpy as np
import program

from claims.harness import Experiment, Part, Row

NETWORK = "mlp"
SETTING = example.SETTINGS[NETWORK, "digits"]


def run(size):
    setting = dataclasses.replace(SETTING, epochs=size.pick(SETTING.epochs, 4))
    # Five cannot tell the decays' gain from noise; docs/averaging.md has twenty.
    seeds = size.seeds * size.pick(4, 1)
    data = example.load_data()
    found = example.compare(NETWORK, setting, data, setting.rates, seeds)
    return {
        "epochs": setting.epochs,
        "seeds": seeds,
        "found": {name: np.round(runs, 5).tolist() for name, runs in found.items()},
    }


def decoded(results):
    found = {name: np.array(runs) for name, runs in results["found"].items()}
    return example.Results(found, example.make_points(results["epochs"]))


def judged(*chosen):
    """The claims of the example's own judge, by their number."""

    def judge(results):
        claims = list(example.compare_claims(decoded(results)))
        for claim, comparisons, by in (claims[number] for number in chosen):
            for what, holds in comparisons.items():
                told = None if holds is None else bool(holds)
                yield Part(f"{claim}: {what}", told, by)

    return judge


def tables(results):
    header = ["method", "rate", "loss", "error (%)"]
    header += [f"gap at {budget} %" for budget in example.BUDGETS]
    yield "Loss and error on the test data at the end, ± the standard deviation over"
    yield "seeds; then how much larger the loss is, after a share of the training, than"
    yield "that of the linear decay that ends there, ± half the 95 % interval:"
    yield ""
    yield from program.table(header, example.rows(decoded(results), SETTING.rates))


def setting(results):
    return (
        "A network of two hidden layers of 128 units with dropout 0.5, Adam, 1,347 "
        f"handwritten digits and 450 to test, {results['epochs']} epochs of batches of "
        f"{SETTING.batch_size}, a linear decay of its own for each budget of "
        f"{', '.join(map(str, example.BUDGETS))} %, {results['seeds']} seeds; each "
        "method at the rate of one grid that is best for it on data held out; by "
        "`examples/averaging.py`, whose tiny vision transformer is in "
        "[another table](averaging_vit.md)."
    )


def draw(results, path):
    example.draw(decoded(results), path)


CRITERION = (
    "One mean loss is worse than another if the 95 % interval (Student) of the "
    "differences within seeds lies above 0."
)
SHARE = (
    "What is to be as good as a decay must have 75 % of the decay's gain over the "
    "constant rate at the end, and where the form is to matter little at most 125 %."
)
SOURCE = "The tutorial on learning rate scheduling (tiny vision transformer, CIFAR-10)"
EXPERIMENT = Experiment(
    "averages",
    (
        Row(
            "S2a",
            SOURCE,
            "Decay helps at every budget; its exact form matters little; a late step "
            "decay is nearly as good.",
            f"{CRITERION} {SHARE}",
            judged(0, 1, 2),
            tables,
        ),
        Row(
            "S2b",
            SOURCE,
            "An exponential average at a constant rate matches cosine at the end; a "
            "Polyak average lags.",
            f"{CRITERION} {SHARE}",
            judged(3, 4),
            tables,
        ),
        Row(
            "S2c",
            SOURCE,
            "Schedule-free training with exponential averaging lies on or below the "
            "whole family of linear decays.",
            CRITERION,
            judged(5),
            tables,
        ),
    ),
    run,
    setting,
    draw,
)
