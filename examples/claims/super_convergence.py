"""S1c: 1cycle, with the momentum cycled the other way, trains several times faster."""

import one_cycle as example
import program

from claims.harness import Experiment, Part, Row, spread

SEVERAL = 2.0


def run(size):
    budgets = size.pick(example.EPOCHS["digits"], (1, 2))
    rates = example.RATES["digits"]
    accuracies, _ = example.compare(
        "digits", example.load_data(), rates, budgets, size.seeds
    )
    return {
        "seeds": size.seeds,
        "rates": rates,
        "accuracies": {
            method: [[epochs, runs] for epochs, runs in by_epochs.items()]
            for method, by_epochs in accuracies.items()
        },
    }


def accuracies_of(results):
    return {method: dict(pairs) for method, pairs in results["accuracies"].items()}


def needed(results):
    """The accuracy to be reached, and in how many epochs each method does."""
    accuracies = accuracies_of(results)
    target = example.target_accuracy(accuracies)
    return target, {
        method: example.epochs_to_reach(target, by_epochs)
        for method, by_epochs in accuracies.items()
    }


def judge(results):
    _, epochs = needed(results)
    for method in (example.PLAIN, example.FULL):
        ratio = epochs[method] and epochs[example.STEP] / epochs[method]
        yield Part(
            f"{method} needs at least {SEVERAL:g} times fewer epochs than step decay",
            bool(ratio) and ratio >= SEVERAL,
            f"{ratio:.2f} times fewer" if ratio else "it does not get there",
        )
    full, plain = epochs[example.FULL], epochs[example.PLAIN]
    yield Part(
        "the momentum's half saves epochs",
        full is not None and (plain is None or full < plain),
        f"{full or 'none'} with it, {plain or 'none'} without",
    )


def tables(results):
    accuracies = accuracies_of(results)
    yield "Test accuracy (%), ± the standard deviation over seeds:"
    yield ""
    rows = [
        [f"{epochs}", *(spread(runs[epochs]) for runs in accuracies.values())]
        for epochs in accuracies[example.STEP]
    ]
    target, epochs = needed(results)
    last = [f"epochs to reach {target:.2f} %"]
    rows.append(last + [f"{epochs[method] or 'none'}" for method in accuracies])
    yield from program.table(["epochs", *accuracies], rows)


def setting(results):
    rates = ", ".join(f"{rate:g}" for rate in results["rates"])
    budgets = ", ".join(f"{e}" for e in accuracies_of(results)[example.STEP])
    return (
        f"The convolutional network of `examples/quickstart.py`, SGD with Nesterov's "
        f"momentum, 1,347 handwritten digits and 450 to test; a training of its own "
        f"for each of {budgets} epochs, {results['seeds']} seeds; rates {rates}, each "
        "the best of a grid on data held out; by `examples/one_cycle.py`."
    )


def draw(results, path):
    accuracies = accuracies_of(results)
    longest = max(accuracies[example.STEP])
    per_epoch = len(example.load_data()[0][0]) // example.BATCH_SIZE["digits"]
    schedules = {
        method: {
            name: schedule.bind(longest * per_epoch, per_epoch)
            for name, schedule in example.make_callback(method, rate).schedules.items()
        }
        for method, rate in zip(example.METHODS, results["rates"], strict=True)
    }
    example.draw(accuracies, schedules, longest * per_epoch, path)


EXPERIMENT = Experiment(
    "super_convergence",
    (
        Row(
            "S1c",
            "Wolfe, The Best Learning Rate Schedules; Smith and Topin, 2017, "
            "arXiv:1708.07120",
            "1cycle, with the momentum cycled the other way, trains several times "
            "faster than step decay.",
            "Epochs are those of the shortest training whose mean accuracy reaches "
            "that of step decay in the longest, less one standard error. Several times "
            "is at least twice.",
            judge,
            tables,
        ),
    ),
    run,
    setting,
    draw,
)
