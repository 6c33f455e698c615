"""A step decay from its ends."""

import bounded_step_decay as example
import program

from claims.experiment import STEPS, Experiment, Row, job
from claims.judging import Fact, Statement, spread

GAMMA, INTERVAL = 0.999309463003, 100  # As published.
AS_ASKED = 1e-3  # Of the first and the last rate, relatively.


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
        "first": {name: float(schedule(0)) for name, schedule in schedules.items()},
        "last": last,
    }


def jobs(size):
    return {"all": job(run, seeds=size.seeds, quick=size.quick)}


def collect(found, size):
    return found["all"]


def judge(results):
    gamma, interval = results["example"]
    yield Statement(
        "the worked example has the published gamma and n",
        Fact("gamma", round(gamma, 12) == GAMMA, f"{gamma:.12f}"),
        Fact("n", interval == INTERVAL, f"{interval}"),
    )
    yield Statement(
        "the first rate that an update has is eta_0",
        *(
            Fact(
                name,
                abs(rate / example.FIRST - 1.0) <= AS_ASKED,
                f"{rate / example.FIRST:.3f} eta_0",
            )
            for name, rate in results["first"].items()
        ),
    )
    for kind, what in (
        ("drops", "m drops, as published"),
        ("plateaus", "m plateaus, one drop less"),
    ):
        names = [name for name in results["last"] if name.endswith(kind)]
        yield Statement(
            f"the last rate that an update has is eta_m: {what}",
            *(last_rate(results, name) for name in names),
        )


def last_rate(results, name):
    """Whether the last update had eta_m; of m drops, also what eta_m / gamma is."""
    ratio = results["last"][name] / example.LAST
    by = f"{ratio:.3f} eta_m"
    number, kind = name.split()
    if kind == "drops":
        before = (example.FIRST / example.LAST) ** (1.0 / int(number))
        by += f", where eta_m / gamma is {before:.3f} eta_m"
    return Fact(name, abs(ratio - 1.0) <= AS_ASKED, by)


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
    (training, _), (test, _) = example.load_data()
    return (
        "The convolutional network of `examples/quickstart.py`, SGD with momentum 0.9, "
        f"{len(training):,} handwritten digits and {len(test)} to test, "
        f"{results['epochs']} epochs ({results['steps']} steps), from eta_0 = "
        f"{example.FIRST:g} to eta_m = {example.LAST:g}, {results['seeds']} seeds with "
        "the same data; by `examples/bounded_step_decay.py`."
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
            "the steps M; gamma and n follow. The rates begin with eta_0 and end with "
            "eta_m.",
            "gamma and n are compared with the published ones, gamma to all its "
            "digits. Then the rates that the first and the last update had are "
            f"compared with eta_0 and eta_m, to {100.0 * AS_ASKED:g} %. Updates are "
            "numbered from 0, so the last one is at step M - 1. But the last of the m "
            "published drops, which reaches eta_m, is at step M: the last update still "
            "has the rate before it, eta_m / gamma. With one drop less, hence m "
            "plateaus, the last drop is earlier.",
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
