"""Measures what groups of variables add to a training step.

    python benchmarks/groups.py [--backends tensorflow jax torch] [--quick]
                                [--output docs/performance.md]

AdamW trains 42 variables in 13 groups: with one schedule for all, with multipliers of
it, with weight decays besides, with rates of their own, and with Keras's
`MultiOptimizer`, an optimizer for each group. The models are trained turn and turn
about, as in `benchmarks/steps.py`; a second model with one schedule shows the noise.
Every backend is measured in a process of its own.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import intervals
import steps
from report import add_outputs, aim_cell, aims_part, milliseconds, publish, table
from steps import NUM_CLASSES, NUM_FEATURES, RATE, Contender, Size

TITLE = "# Groups of variables"
ONE, AGAIN = "one schedule", "one schedule, again"
MULTIPLIERS = "`rate_multipliers`"
DECAYS = "`rate_multipliers`, weight decay of two kinds"
RATES = "`PerVariable` rates"
MULTI = "Keras's `MultiOptimizer`, 13 AdamWs"
ROWS = (AGAIN, MULTIPLIERS, DECAYS, RATES, MULTI)
# To the step with one schedule.
TARGETS = {"TensorFlow": 1.05, "TensorFlow XLA": 1.05, "JAX": 1.05, "PyTorch": 1.15}
OURS = (MULTIPLIERS, DECAYS, RATES)
SIZES = {False: Size(25.0, 15, 0), True: Size(0.0, 3, 0)}
ADAMW, SEVERAL = "AdamW", "13 of AdamW"
LAYERS, GROUPS = 21, 13


# --- What is compared -----------------------------------------------------------------


def pattern(group):
    return f"(^|/)group_{group}_"


def network():
    """Dense layers, each of 13 groups."""
    import keras

    names = [f"group_{i * GROUPS // LAYERS}_{i}" for i in range(LAYERS)]
    *hidden, last = names
    layers = [keras.layers.Dense(64, activation="relu", name=name) for name in hidden]
    head = keras.layers.Dense(NUM_CLASSES, name=last)
    return keras.Sequential([keras.Input((NUM_FEATURES,)), *layers, head])


def adamw(rate):
    import keras

    return network(), keras.optimizers.AdamW(rate)


def several(rate):
    import keras

    optimizers = keras.optimizers
    made = {
        f".*{pattern(group)[6:]}.*": optimizers.AdamW(rate, name=f"adamw_{group}")
        for group in range(GROUPS - 1)
    }
    rest = optimizers.AdamW(rate, name="adamw_rest")
    return network(), optimizers.MultiOptimizer(optimizers.OptimizerMap(rest, made))


steps.WORKLOADS.update({ADAMW: adamw, SEVERAL: several})
steps.SHORTER.update(dict.fromkeys((ADAMW, SEVERAL), steps.SHORTER[steps.ADAMW]))


def scheduled(**more):
    """A function that makes the callback."""

    def callbacks(lrs, folder):
        given = {name: make(lrs) for name, make in more.items()}
        given.setdefault("learning_rate", steps.warmup_and_cosine(lrs))
        return [lrs.callbacks.HyperparameterScheduler(**given)]

    return callbacks


def multipliers(lrs):
    return {pattern(group): 0.9 ** (GROUPS - group) for group in range(GROUPS - 1)}


def decays(lrs):
    return lrs.PerVariable({"bias$": 0.0})


def rates(lrs):
    schedule = lrs.schedules.CosineAnnealing
    found = {pattern(i): schedule(RATE * 0.9**i) for i in range(GROUPS)}
    return lrs.PerVariable(found)


def contenders():
    """Ways to train, the one that others are compared to first."""
    import keras

    found = [
        Contender(ADAMW, ONE, callbacks=scheduled()),
        Contender(ADAMW, AGAIN, callbacks=scheduled()),
        Contender(
            ADAMW, MULTIPLIERS, callbacks=scheduled(rate_multipliers=multipliers)
        ),
        Contender(
            ADAMW,
            DECAYS,
            callbacks=scheduled(rate_multipliers=multipliers, weight_decay=decays),
        ),
        Contender(ADAMW, RATES, callbacks=scheduled(learning_rate=rates)),
    ]
    if hasattr(keras.optimizers, "MultiOptimizer"):
        found.append(Contender(SEVERAL, MULTI))
    return found


# --- Measuring, in a process per configuration ----------------------------------------


def measured(name, size):
    """Seconds per step, by contender, one per round."""
    print(f"Measuring groups on {name} ...", file=sys.stderr)
    configuration = steps.CONFIGURATIONS[name]
    with tempfile.TemporaryDirectory() as folder:
        found = steps.step_seconds(
            configuration, size, contenders(), pathlib.Path(folder)
        )
    return {**found[ADAMW], **found.get(SEVERAL, {})}


# --- The tables -----------------------------------------------------------------------


def markdown(results):
    """All that is said of it; results by configuration."""
    found = by_configuration(results)
    one = (milliseconds(of[ONE]) for of in results.values())
    lines = [["**one schedule**", *one]]
    lines += [[row, *(cell(of, row) for of in found.values())] for row in ROWS]
    return "\n\n".join(
        [
            TITLE,
            "The table shows how long a step of `model.fit` takes with AdamW, 42 "
            "variables and 13 groups, as a ratio to the same model with one schedule. "
            f'The row "{AGAIN}" shows the noise. Each cell is the median of the ratios '
            "within a round, with its 95 % interval. On PyTorch, Keras updates all "
            "variables at once; with groups there are 13 updates.",
            table(["", *results], lines),
        ]
    )


def by_configuration(results):
    """Estimates of all ratios: by configuration and name."""
    return {name: intervals.ratios(found, ONE) for name, found in results.items()}


def cell(found, row):
    return found[row].cell() if row in found else "not run"


def aims_of(results):
    """The aims of our rows, and whether they were met."""
    found = by_configuration(results)
    rows = [
        (
            row,
            {
                name: aim_cell(of[row], TARGETS[name], intervals.noise(of[AGAIN]))
                for name, of in found.items()
            },
        )
        for row in OURS
    ]
    return aims_part(TITLE, list(results), rows)


# --- The program ----------------------------------------------------------------------


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backends", nargs="+", choices=steps.BACKENDS, default=steps.BACKENDS
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    add_outputs(parser)
    parser.add_argument("--measure", choices=TARGETS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measured(options.measure, SIZES[options.quick])))
        return
    quick = ["--quick"] * options.quick
    results = {
        name: steps.run(
            __file__,
            steps.CONFIGURATIONS[name].backend,
            ["--measure", name, *quick],
        )
        for name in TARGETS
        if steps.CONFIGURATIONS[name].backend in options.backends
    }
    found = {"seconds": results, "ratios": by_configuration(results)}
    publish(__file__, options, markdown(results), found, aims_of(results))


if __name__ == "__main__":
    main()
