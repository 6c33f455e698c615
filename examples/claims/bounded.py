"""A step decay from its ends."""

import bounded_step_decay as example
import program

from claims.experiment import STEPS, Experiment, Row, job
from claims.judging import Fact, Statement, spread

GAMMA, INTERVAL = 0.999309463003, 100  # As published.
AS_ASKED = 1e-3  # Of the last rate, relatively.


def run(harness, seeds, quick):
    """The program's runs, on its own data."""
    epochs = 1 if quick else example.EPOCHS
    drops = (2,) if quick else example.DROPS
    data = example.load_data()
    steps = epochs * -(-len(data[0][0]) // example.BATCH_SIZE)
    schedules = example.make_schedules(drops, steps)
    accuracies, last = example.compare(schedules, seeds, epochs, data)
    return {
        "epochs": epochs,
        "seeds": seeds,
        "drops": drops,
        "steps": steps,
        "example": example.worked_example(),
        "accuracies": accuracies,
        "last": last,
    }


def jobs(size):
    return {"all": job(run, seeds=size.few, quick=size.quick)}


def collect(found, size):
    return found["all"]


def judge(results):
    gamma, interval = results["example"]
    yield Statement(
        "the worked example has the published gamma and n",
        Fact("gamma", round(gamma, 12) == GAMMA, f"{gamma:.12f}"),
        Fact("n", interval == INTERVAL, f"{interval}"),
    )
    for kind, what in (
        ("drops", "m drops, as published"),
        ("plateaus", "m plateaus, one drop less"),
    ):
        off = {
            name: rate / example.LAST
            for name, rate in results["last"].items()
            if name.endswith(kind)
        }
        yield Statement(
            f"the last rate that an update has is eta_m: {what}",
            *(
                Fact(name, abs(ratio - 1.0) <= AS_ASKED, f"{ratio:.3f} eta_m")
                for name, ratio in off.items()
            ),
        )


def tables(results):
    yield "± is the standard deviation over seeds:"
    yield ""
    rows = [
        [name, f"{results['last'][name]:.6f}", spread(runs)]
        for name, runs in results["accuracies"].items()
    ]
    header = ["schedule", "last rate used", "test accuracy (%)"]
    yield from program.table(header, rows)


def setting(results, data):
    return (
        "The convolutional network of `examples/quickstart.py`, SGD with momentum 0.9, "
        f"1,347 handwritten digits and 450 to test, {results['epochs']} epochs, from "
        f"{example.FIRST:g} to {example.LAST:g}, {results['seeds']} seeds; by "
        "`examples/bounded_step_decay.py`."
    )


def draw(results, path):
    steps = results["steps"]
    example.draw(example.make_schedules(results["drops"], steps), steps, path)


EXPERIMENT = Experiment(
    "bounded",
    (
        Row(
            "Step decay from its ends",
            STEPS,
            "Choose the first rate eta_0, the last eta_m, the number of drops m and "
            "the steps M; gamma and n follow.",
            "gamma to all its published digits; the last rate to a thousandth. The "
            "published recipe makes its last drop at step M, when the training is "
            "over.",
            judge,
            tables,
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
    swaps=False,
)
