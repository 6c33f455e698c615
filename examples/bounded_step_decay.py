"""A step decay that ends where it should, in about a minute on two cores.

    python examples/bounded_step_decay.py
    python examples/bounded_step_decay.py --backend jax --drops 2 5 50 --seeds 10

To choose a step decay from its ends ("Reverse engineering a step decay"): the first
rate `eta_0`, the last `eta_m`, the number of drops `m` and the length of the training
`M` are given; then every drop multiplies by `gamma = (eta_m / eta_0) ** (1 / m)` and
comes `n = M / m` steps after the one before. The worked example has eta_0 = 0.1,
eta_m = 0.0001, m = 10,000 and M = 1,000,000: gamma = 0.999309463003 and n = 100.

The last of these drops comes at step M, when the training is over: no update has the
rate `eta_m`, the last ones have `eta_m / gamma`. For few drops that is far off. So that
the last updates do have it, let `m - 1` drops end one plateau earlier: `m` plateaus.
Both are trained on scans of digits, and the rates are those that `model.fit` has used.
"""

import statistics

import program
from quickstart import load_data, make_model

FIRST, LAST = 0.1, 1e-3
BATCH_SIZE, EPOCHS = 64, 12
DROPS = (2, 4, 12)
SMOOTH = "smooth"


def make_schedules(drops, steps):
    """Schedules by name: m drops, m plateaus, and the smooth exponential."""
    from keras_lrs import schedules

    found = {}
    for m in drops:
        found[f"{m} drops"] = schedules.BoundedExponentialDecay(
            FIRST, steps, LAST, updates=m
        )
        found[f"{m} plateaus"] = schedules.BoundedExponentialDecay(
            FIRST, steps - steps // m, LAST, updates=m - 1
        )
    found[SMOOTH] = schedules.BoundedExponentialDecay(FIRST, steps - 1, LAST)
    return found


def worked_example():
    """`gamma` and `n` of the published example."""
    from keras_lrs import schedules

    drops, steps = 10_000, 1_000_000
    schedule = schedules.BoundedExponentialDecay(0.1, steps, 1e-4, updates=drops)
    return schedule.decay_rate, steps // drops


def train(model, schedule, seed, epochs, data):
    """The accuracy in percent, and the rate of the last update."""
    import keras

    from keras_lrs import callbacks

    keras.utils.set_random_seed(seed)  # Weights, dropout and the order of the data.
    program.restart(model, new_model())
    scheduler = callbacks.HyperparameterScheduler(learning_rate=schedule)
    (x, y), test = data
    history = model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        callbacks=[scheduler, callbacks.HyperparameterLogger()],
        verbose=0,
    )
    accuracy = 100.0 * model.evaluate(*test, batch_size=512, verbose=0)[1]
    return accuracy, history.history["learning_rate"][-1]


def new_model():
    model = make_model(FIRST)
    model.optimizer.build(model.trainable_variables)
    return model


def compare(schedules, seeds, epochs, data):
    """Accuracies of all seeds and the last rate that was used, by schedule."""
    from tqdm import tqdm

    model = new_model()
    model.evaluate(*data[1], verbose=0)  # Builds what `fit` would otherwise build.
    accuracies, last = {}, {}
    with tqdm(total=len(schedules) * seeds, unit="run") as progress:
        for name, schedule in schedules.items():
            accuracies[name] = []
            for seed in range(seeds):
                accuracy, last[name] = train(model, schedule, seed, epochs, data)
                accuracies[name].append(accuracy)
                progress.update()
    return accuracies, last


def print_table(schedules, accuracies, last):
    gamma, interval = worked_example()
    print(
        "\nPublished example: gamma = 0.999309463003, n = 100; "
        f"here: gamma = {gamma:.12f}, n = {interval}"
    )
    print(f"\nFrom {FIRST:g} to {LAST:g} on scans of digits:")
    print(
        f"{'':<14} {'gamma':>8} {'last rate used':>15} {'/ eta_m':>8} {'accuracy':>18}"
    )
    for name, schedule in schedules.items():
        print(
            f"{name:<14} {schedule.decay_rate:>8.4f} {last[name]:>15.6f} "
            f"{last[name] / LAST:>8.2f} {program.spread(accuracies[name]):>16} %"
        )
    best = max(statistics.mean(runs) for runs in accuracies.values())
    worst = min(statistics.mean(runs) for runs in accuracies.values())
    print(
        f"\n± is the standard deviation over seeds; the means lie within "
        f"{best - worst:.2f} %."
    )


def draw(schedules, steps, path):
    """The rates, with `eta_m` as a line."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, schedule) in enumerate(schedules.items()):
        line = "k:" if name == SMOOTH else f"C{number // 2}" + "--"[: 1 + number % 2]
        axes.plot(np.arange(steps), schedule.curve(steps), line, label=name)
    axes.axhline(LAST, color="gray", linewidth=0.5)
    axes.annotate("eta_m", (0, LAST), va="bottom", color="gray")
    axes.set(xlabel="step", ylabel="learning rate", yscale="log")
    axes.legend()
    figure.savefig(path)


def main(arguments=None):
    parser = program.make_parser(__doc__, "bounded_step_decay.png")
    parser.add_argument("--drops", type=int, nargs="+", default=DROPS, metavar="M")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each training")
    options = program.parse(parser, arguments)
    if min(options.drops) < 2:
        parser.error("--drops must be at least 2")
    data = load_data()
    steps = options.epochs * -(-len(data[0][0]) // BATCH_SIZE)
    if max(options.drops) > steps:
        parser.error(f"--drops must be at most {steps}, the number of steps")
    schedules = make_schedules(options.drops, steps)
    accuracies, last = compare(schedules, options.seeds, options.epochs, data)
    print_table(schedules, accuracies, last)
    draw(schedules, steps, options.output)
    print(f"Schedules: {options.output}")


if __name__ == "__main__":
    main()
