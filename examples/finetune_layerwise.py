"""Fine-tuning with one rate, layer-wise decay or gradual unfreezing, in three minutes.

    python examples/finetune_layerwise.py
    python examples/finetune_layerwise.py --backend jax --seeds 30
    python examples/finetune_layerwise.py --tune
    python examples/finetune_layerwise.py --quick

(On two cores with PyTorch.)

A small network learns the digits from 0 to 4, and is fine-tuned to tell those from 5 to
9 by ten images of each. Its convolutions are kept, its head is new. Howard and Ruder
("Universal Language Model Fine-tuning", 2018, arXiv:1801.06146) found that rates that
fall from the head down, and layers that are unfrozen one after the other, keep what was
learned. This asks the same of 1,797 handwritten digits.

All methods fine-tune the same networks, one per seed, on the same images in the same
order. Each has the rate of one grid that is best for it on images held out of the
training data (`--tune`), never on the test data. Differences are those of runs with the
same seed, with their 95 % interval.

With 30 seeds on PyTorch the head alone is 14 points worse than one rate for all layers,
so the layers have to move. Gradual unfreezing gains a point, hardly more than noise;
the gain of layer-wise decay is within the noise. A network that learns from scratch
is better than one rate for all: what tells 0 to 4 apart is of little use for 5 to 9. So
this shows how to do it, and how to measure it, and not that it helps.
"""

import statistics

import program
from program import half_interval, spread, table
from quickstart import load_data

SHOTS = 10  # Images of each new digit.
BATCH_SIZE = 10
EPOCHS = {"pretrain": 5, "finetune": 40}
QUICK = {"pretrain": 2, "finetune": 3}
RATE_GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
ONE = "one rate"
# Those that `--tune --backend torch --seeds 6` chose.
RATES = {
    ONE: 1e-2,
    "layer-wise decay, 0.5": 1e-2,
    "gradual unfreezing": 3e-2,
    "head alone": 1e-1,
    "from scratch": 1e-2,
}


def make_multipliers(method, model):
    """What the rates of the layers are multiplied by; None for one rate."""
    import keras_lrs as lrs

    def frozen_for(share):
        steps = [lrs.Fraction(share)]
        return lrs.schedules.PiecewiseConstant(steps, [0.0, 1.0])

    return {
        "layer-wise decay, 0.5": lrs.layerwise_decay(model, 0.5),
        "gradual unfreezing": {
            "/dense/": frozen_for(0.1),
            "/conv_2/": frozen_for(0.2),
            "/conv_1/": frozen_for(0.3),
        },
        "head alone": {"/(conv_1|conv_2|dense)/": 0.0},
    }.get(method)


def make_model():
    """A network for five digits; the rate it is given is never used."""
    import keras
    from keras import layers

    hidden = [
        layers.Conv2D(16, 3, padding="same", activation="relu", name="conv_1"),
        layers.Conv2D(32, 3, 2, padding="same", activation="relu", name="conv_2"),
        layers.Flatten(),
        layers.Dense(64, activation="relu", name="dense"),
        layers.Dropout(0.3),
    ]
    head = layers.Dense(5, name="head")
    model = keras.Sequential([keras.Input((8, 8, 1)), *hidden, head], name="net")
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=program.jit_compile(),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def make_tasks(data, held_out):
    """Digits from 0 to 4, to learn; from 5 to 9, to choose from, and to test with.

    If some are held out, these are a half of the latter's training data.
    """
    (x, y), test = data
    new = y >= 5
    old = x[~new], y[~new]
    x, y = x[new], y[new] - 5
    if held_out:
        half = len(x) // 2
        return old, (x[:half], y[:half]), (x[half:], y[half:])
    new = test[1] >= 5
    return old, (x, y), (test[0][new], test[1][new] - 5)


def choose(data, seed):
    """A few images of each digit."""
    import numpy as np

    x, y = data
    random = np.random.default_rng(seed)
    rows = [random.choice(np.nonzero(y == one)[0], SHOTS, False) for one in range(5)]
    rows = random.permutation(np.concatenate(rows))
    return x[rows], y[rows]


def pretrain(old, seed, epochs):
    """The weights of a network that has learned the first digits."""
    import keras

    from keras_lrs import callbacks, schedules

    keras.utils.set_random_seed(seed)
    model = make_model()
    rate = schedules.LinearDecay(3e-3)
    model.fit(
        *old,
        batch_size=64,
        epochs=epochs,
        verbose=0,
        callbacks=[callbacks.HyperparameterScheduler(learning_rate=rate)],
    )
    return model.get_weights()


def finetune(model, method, rate, weights, data, seed, epochs):
    """The accuracy in percent after the training on a few images."""
    import keras

    from keras_lrs import callbacks, schedules

    chosen, test = data
    keras.utils.set_random_seed(seed)  # The head, dropout, order of the data.
    new = make_model()
    if method != "from scratch":
        new.set_weights([*weights[:-2], *new.get_weights()[-2:]])
    program.restart(model, new)
    scheduler = callbacks.HyperparameterScheduler(
        learning_rate=schedules.CosineAnnealing(rate),
        rate_multipliers=make_multipliers(method, model),
    )
    model.fit(
        *chosen,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[scheduler],
    )
    return 100.0 * model.evaluate(*test, batch_size=512, verbose=0)[1]


def compare(data, rates, seeds, epochs, held_out=False):
    """Accuracies in percent by method and rate, one per seed."""
    from tqdm import tqdm

    old, new, test = make_tasks(data, held_out)
    # Those that share a network share what is compiled for it.
    models = {method: make_model() for method in rates}
    for model in models.values():
        model.evaluate(*test, batch_size=512, verbose=0)  # Builds the metrics.
    found = {method: {rate: [] for rate in rates[method]} for method in rates}
    for seed in tqdm(range(seeds), unit="seed"):
        weights = pretrain(old, seed, epochs["pretrain"])
        tasks = choose(new, seed), test
        for method, by_rate in found.items():
            for rate, accuracies in by_rate.items():
                accuracies.append(
                    finetune(
                        models[method],
                        method,
                        rate,
                        weights,
                        tasks,
                        seed,
                        epochs["finetune"],
                    )
                )
    return found


def report(found):
    """A row per method, with the difference from one rate for all layers."""
    import numpy as np

    (base,) = found[ONE].values()
    rows = []
    for method, by_rate in found.items():
        ((rate, accuracies),) = by_rate.items()
        differences = np.subtract(accuracies, base)
        half = half_interval(differences)
        gap = "" if method == ONE else f"{differences.mean():+.2f} ± {half:.2f}"
        rows.append([method, f"{rate:g}", spread(accuracies), gap])
    head = ["method", "rate", "accuracy (%)", "from one rate, 95 %"]
    yield from table(head, rows)


def report_tuning(found):
    """A row per method: the mean accuracies on held-out data, by rate."""
    rows = []
    for method, by_rate in found.items():
        means = {rate: statistics.mean(runs) for rate, runs in by_rate.items()}
        best = max(means, key=means.get)
        rows.append([method, *(f"{m:.2f}" for m in means.values()), f"{best:g}"])
    yield from table(["held out, by rate", *map(str, RATE_GRID), "best"], rows)


def main(arguments=None):
    parser = program.base_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="runs of each method")
    parser.add_argument("--tune", action="store_true", help="only choose the rates")
    parser.add_argument("--quick", action="store_true", help="a few epochs, two seeds")
    options = program.parse(parser, arguments)
    epochs, seeds = (QUICK, 2) if options.quick else (EPOCHS, options.seeds)
    data = load_data()
    if options.tune:
        grid = dict.fromkeys(RATES, RATE_GRID)
        found = compare(data, grid, seeds, epochs, held_out=True)
        print("\n".join(report_tuning(found)))
        return
    rates = {method: [rate] for method, rate in RATES.items()}
    print("\n".join(report(compare(data, rates, seeds, epochs))))


if __name__ == "__main__":
    main()
