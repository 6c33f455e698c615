"""What the loss does where the rate falls, and where it rises again."""

import numpy as np
import program

from claims import methods
from claims.experiment import NOTES, Experiment, Row, job, wrap
from claims.harness import Harness, Kind, grid_words, words_of
from claims.judging import Statement, difference, loss_difference, spread
from claims.methods import PHASED, PHASES, THIRDS
from claims.regime import SGD

EPOCHS = 28
EVERY = 4  # Steps that a recorded loss is the mean of.
EARLIER, BEFORE, AFTER = "a window earlier", "before", "after"
LATER = (AFTER, "second after", "third after")


class Stepwise(Harness):
    """One whose executions are short: the loss of every few steps is recorded."""

    def make_model(self, kind):
        """One that is ready to train."""
        model = super().make_model(kind)
        model.steps_per_execution = EVERY
        return model


def jobs(size):
    epochs = size.pick(EPOCHS, sum(PHASES))
    return {
        name: job(trace, method=name, epochs=epochs, seeds=size.seeds)
        for name in (THIRDS, PHASED)
    }


def collect(found, size):
    return {
        "epochs": size.pick(EPOCHS, sum(PHASES)),
        "seeds": size.seeds,
        "methods": found,
    }


def trace(harness, method, epochs, seeds):
    """The training loss of every few steps, and the steps at which the rate jumps."""
    from keras_lrs.callbacks import HyperparameterScheduler

    def make_callbacks(rate):
        return [methods.make_callback(method, rate)]

    rate, _ = harness.choose(make_callbacks, epochs, key=method)
    per_epoch, batch = harness.steps_per_epoch(), harness.batch_size(Kind())
    steps = epochs * per_epoch // EVERY * EVERY
    bound = methods.make_methods()[method](rate).bind(steps, per_epoch)
    rates = bound.curve(steps)
    # Phases are as long as their cosines; what jumps is the rate from one to the next.
    changes = np.diff(np.log(rates)) * (1.0 if method == PHASED else -1.0)
    jumps = np.flatnonzero(changes > 0.5) + 1
    # Without the correction, Keras's velocity keeps the old rate after a drop.
    scheduler = HyperparameterScheduler(learning_rate=bound, momentum_correction=True)
    stepwise = Stepwise(harness.data, harness.quick)
    losses = []
    for seed in range(seeds):
        model = stepwise.restart(Kind(), seed)
        x, y = harness.data.train(seed)
        rng = np.random.default_rng(seed)

        def batches(x=x, y=y, rng=rng):
            # Not epoch by epoch: what is seen for the second time has a lower loss.
            while True:
                chosen = rng.integers(len(x), size=batch)
                yield x[chosen], y[chosen]

        history = model.fit(
            batches(),
            steps_per_epoch=EVERY,
            epochs=steps // EVERY,
            shuffle=False,  # The batches come in an order of their own.
            callbacks=[scheduler],
            verbose=0,
        ).history
        losses.append([round(loss, 5) for loss in history["loss"]])
    # The same number of steps on each side of a jump: half an epoch.
    window = max(per_epoch // (2 * EVERY), 1)
    return {
        "rate": rate,
        "jumps": jumps.tolist(),
        "window": window,
        "rates": rates[EVERY - 1 :: EVERY].tolist(),
        "losses": losses,
    }


def around(found, jump):
    """The mean losses of all seeds in two windows before a jump, and in those after it.

    The update at a jump is the first with the new rate. Its loss is taken before it, so
    that of the next update is the first that the new rate affects. A record whose steps
    are on both sides is in no window.
    """
    losses, window = np.array(found["losses"]), found["window"]
    affected = jump + 1
    end, start = affected // EVERY, -(-affected // EVERY)
    firsts = [end - 2 * window, end - window]
    firsts += [start + number * window for number in range(len(LATER))]
    return [
        losses[:, first : first + window].mean(1)
        if 0 <= first <= losses.shape[1] - window
        else np.full(len(losses), np.nan)  # Of a run that is too short for it.
        for first in firsts
    ]


def judge(results):
    found = results["methods"][THIRDS]
    drops = []
    for number, jump in enumerate(found["jumps"], start=1):
        earlier, before, after, *_ = around(found, jump)
        drops += [
            # A loss that rises less than before does not decrease faster.
            loss_difference(f"drop {number}", after, before),
            loss_difference(f"drop {number}, faster", after - before, before - earlier),
        ]
    yield Statement(
        "right after a drop of the rate, the loss falls, and faster than before", *drops
    )
    found = results["methods"][PHASED]
    rises = []
    for number, jump in enumerate(found["jumps"], start=2):
        _, before, after, *_ = around(found, jump)
        rises.append(difference(f"phase {number}", after, before, unit="", digits=4))
    yield Statement(
        "where the rate rises at the start of a phase, the loss rises (a positive "
        "difference)",
        *rises,
    )


def tables(results):
    window, share = window_of(results)
    yield from wrap(
        f"Mean training loss in windows of {window} steps ({share:.2g} epochs), ± the "
        "standard deviation over seeds. The step is the first with the new rate, "
        "counted from 0:"
    )
    yield ""
    rows = []
    for name, found in results["methods"].items():
        for jump in found["jumps"]:
            cells = [
                spread(values.tolist(), 4) if np.isfinite(values).all() else ""
                for values in around(found, jump)
            ]
            rows.append([name, f"{jump}", *cells])
    yield from program.table(["schedule", "step", EARLIER, BEFORE, *LATER], rows)


def window_of(results):
    """The length of a window in steps, and in epochs."""
    found = next(iter(results["methods"].values()))
    return found["window"] * EVERY, (
        found["window"] * results["epochs"] / len(found["rates"])
    )


def setting(results, data):
    return (
        f"{words_of(data)} {SGD}, {results['epochs']} epochs, {results['seeds']} "
        "seeds. The loss of a step is that of its batch, before the update; what is "
        f"recorded is the mean of {EVERY} steps. The examples of a batch are drawn "
        "with replacement, so that no loss depends on where in an epoch it is. The "
        "velocity is scaled with the rate (`momentum_correction`): otherwise the first "
        "steps after a drop keep the old rate. Each schedule uses "
        f"{grid_words(data, SGD)}."
    )


def draw(results, path):
    """The training loss around every jump, and the rates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 6.0), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col")
    for (upper, lower), (name, found) in zip(
        panels.T, results["methods"].items(), strict=True
    ):
        losses = np.array(found["losses"])
        first = EVERY * np.arange(losses.shape[1])  # Of each record.
        steps = first + (EVERY - 1) / 2
        mean, error = losses.mean(0), losses.std(0) / len(losses) ** 0.5
        upper.plot(steps, mean, "C0")
        upper.fill_between(steps, mean - 2 * error, mean + 2 * error, alpha=0.3)
        lower.plot(first + EVERY - 1, found["rates"], "C1")  # Those of the last steps.
        for axes in (upper, lower):
            for jump in found["jumps"]:
                axes.axvline(jump, color="gray", linestyle=":")
            axes.grid(alpha=0.3)
        upper.set(title=name, yscale="log", ylabel="training loss, ± 2 standard errors")
        lower.set(xlabel="step", yscale="log", ylabel="learning rate")
    figure.savefig(path)


EXPERIMENT = Experiment(
    "drops",
    (
        Row(
            "Loss after each drop",
            NOTES,
            "There is a rapid decrease in loss in the first iterations after the rate "
            "is decreased; where the rate rises at the start of a phase, the loss "
            "oscillates.",
            "Mean training losses in windows of equal length are compared. The new "
            "rate affects no loss in a window before its change, and every loss in one "
            'after it. "Faster" compares the change across the drop with that from the '
            "window before. Both statements are about the first window after a change; "
            "what comes later is in the table. At the start of a phase, a rise of the "
            "loss stands for the oscillation that the source speaks of.",
            judge,
            tables,
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
