"""Learning rates for large batches, in about two minutes on two cores.

    python examples/large_batch.py
    python examples/large_batch.py --backend jax --seeds 10
    python examples/large_batch.py --tune

Cutkosky's lecture notes say why a batch B times as large wants a rate B times as large,
at equal epochs: one step with the rate `B eta` on a batch is close to B steps with the
rate `eta` on its parts, as long as gradients do not change on the way; early in
training they do, which is what a warmup is for (Goyal et al., 2017, arXiv:1706.02677).

Two experiments with SGD on scans of digits:

- a network trains for the same epochs at batch sizes 32, 128 and 512; the rate is that
  of batch 32, or scaled with the ratio of the sizes or with its square root, with and
  without a warmup from the base rate;
- 16 steps on batches of 32 against one step on the 512 images with 16 times the rate,
  without momentum: how far apart they end, relative to how far the 16 steps went, from
  the first weights and from those after some epochs.

The rate at batch 32 is the best of `tuning.sweep` on a quarter of the training data
held out (`--tune`), never on the test data.
"""

import statistics

import program
from quickstart import load_data

BASE = 32
BATCH_SIZES = (128, 512)
RULES = ("fixed", "sqrt", "linear")
RATE = 0.1  # What `--tune` chose for batch 32.
MOMENTUM = 0.9
IMAGES, EPOCHS, WARMUP_EPOCHS = 1024, 20, 4
NUM_TRIALS = 10  # Of `--tune`.
STAGES = (0, 1, 5, 20)  # After how many epochs iterates are compared.


def load_images():
    """As many images as every batch size divides, flat; and the test data."""
    (x, y), (x_test, y_test) = load_data()
    return (x[:IMAGES].reshape(-1, 64), y[:IMAGES]), (x_test.reshape(-1, 64), y_test)


def make_network(momentum=MOMENTUM, rate=RATE):
    """A plain network, without normalization and dropout."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=momentum),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # For a network this small, TensorFlow's own kernels are faster on a CPU.
        jit_compile=keras.backend.backend() == "jax",
    )
    model.optimizer.build(model.trainable_variables)
    return model


def make_schedule(batch_size, rule, warmup):
    """A cosine whose rates are scaled; its length is open."""
    from keras_lrs import Epochs, schedules, tuning

    cosine = schedules.CosineAnnealing(RATE)
    steps = Epochs(WARMUP_EPOCHS) if warmup else 0
    if rule == "fixed":
        return schedules.Warmup(cosine, steps, initial_fraction=1.0)
    return tuning.scale_learning_rate(
        cosine, batch_size, BASE, rule=rule, warmup_steps=steps
    )


def configurations():
    """Batch size, rule, and whether with a warmup; the base comes first."""
    for warmup in (False, True):
        yield BASE, "fixed", warmup
    for batch_size in BATCH_SIZES:
        for rule in RULES:
            for warmup in (False, True):
                yield batch_size, rule, warmup


def compare(seeds, epochs, data):
    """The accuracies of all runs in percent, and the schedules."""
    import keras
    from tqdm import tqdm

    from keras_lrs import callbacks

    (x, y), test = data
    model = make_network()
    model.evaluate(*test, batch_size=512, verbose=0)  # Builds what `fit` would build.
    accuracies, schedules = {}, {}
    with tqdm(list(configurations()), unit="setting") as progress:
        for batch_size, rule, warmup in progress:
            progress.set_description(f"batch {batch_size}, {rule}")
            key = batch_size, rule, warmup
            accuracies[key] = []
            for seed in range(seeds):
                keras.utils.set_random_seed(seed)
                program.restart(model, make_network())
                scheduler = callbacks.HyperparameterScheduler(
                    learning_rate=make_schedule(*key)
                )
                model.fit(
                    x, y, batch_size=batch_size, epochs=epochs, callbacks=[scheduler],
                    verbose=0,
                )  # fmt: skip
                accuracy = model.evaluate(*test, batch_size=512, verbose=0)[1]
                accuracies[key].append(100.0 * accuracy)
            schedules[key] = scheduler.bound["learning_rate"]
    return accuracies, schedules


def compare_iterates(seeds, stages, data):
    """How far one large step ends from many small ones, relatively, by stage."""
    import keras
    import numpy as np
    from tqdm import tqdm

    from keras_lrs import tuning

    (x, y), _ = data
    size = max(BATCH_SIZES)
    small = make_network(momentum=0.0)
    large = make_network(0.0, tuning.scale_learning_rate(RATE, size, BASE))
    trained = make_network()
    gaps = {stage: [] for stage in stages}

    def weights(model):
        return np.concatenate([w.ravel() for w in model.get_weights()])

    for seed in tqdm(range(seeds), desc="iterates", unit="seed"):
        keras.utils.set_random_seed(seed)
        program.restart(trained, make_network())
        for epoch in range(max(stages) + 1):
            if epoch in gaps:
                start = weights(trained)
                chosen = np.random.default_rng(seed).permutation(len(x))[:size]
                for model, batch in ((small, BASE), (large, size)):
                    model.set_weights(trained.get_weights())
                    model.fit(
                        x[chosen], y[chosen], batch_size=batch, shuffle=False, verbose=0
                    )
                way = np.linalg.norm(weights(small) - start)
                gap = np.linalg.norm(weights(small) - weights(large)) / way
                gaps[epoch].append(float(gap))
            trained.fit(x, y, batch_size=BASE, verbose=0)
    return gaps


def print_tables(accuracies, gaps, epochs):
    print(
        f"\nTest accuracy (%) after {epochs} epochs, base rate {RATE:g} at batch {BASE}"
    )
    print(f"{'batch':>5} {'rule':<8} {'without warmup':>18} {'with warmup':>18}")
    for batch_size, rule, warmup in accuracies:
        if not warmup:
            cells = (
                program.spread(accuracies[batch_size, rule, warmed])
                for warmed in (False, True)
            )
            print(f"{batch_size:>5} {rule:<8}", *(f"{cell:>18}" for cell in cells))
    print("\n± is the standard deviation over seeds.")
    ratio = max(BATCH_SIZES) // BASE
    print(
        f"\nOne step on {max(BATCH_SIZES)} images against {ratio} steps on {BASE}: "
        "distance over distance moved"
    )
    for stage, runs in gaps.items():
        print(f"after {stage:>3} epochs {program.spread(runs):>14}")


def draw(accuracies, schedules, epochs, path):
    """Errors by batch size on the left, the schedules on the right."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, rule in enumerate(RULES):
        for warmup, line in ((False, "-"), (True, "--")):
            keys = [(BASE, "fixed", warmup)]
            keys += [(size, rule, warmup) for size in BATCH_SIZES]
            sizes = [key[0] for key in keys]
            label = rule + (", warmup" if warmup else "")
            left.errorbar(
                sizes,
                [100.0 - statistics.mean(accuracies[key]) for key in keys],
                [statistics.pstdev(accuracies[key]) for key in keys],
                fmt=f"C{number}o{line}",
                capsize=3,
                label=label,
            )
            steps = epochs * IMAGES // max(BATCH_SIZES)
            curve = schedules[keys[-1]].curve(steps)
            right.plot(epochs * np.arange(steps) / steps, curve, f"C{number}{line}")
    left.set(xlabel="batch size", ylabel="test error (%)", xscale="log", yscale="log")
    left.set_xticks([BASE, *BATCH_SIZES], labels=[BASE, *BATCH_SIZES])
    left.minorticks_off()
    right.set(
        xlabel="epoch", ylabel="learning rate", title=f"at batch {max(BATCH_SIZES)}"
    )
    left.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path)


def tune(epochs, data):
    """A sweep of the rate at the base batch size, on held-out training data."""
    import keras

    from keras_lrs import callbacks, schedules, tuning

    (x, y), _ = data
    cut = 3 * len(x) // 4

    def build_model():
        keras.utils.set_random_seed(0)
        return make_network()

    def train(model, learning_rate):
        scheduler = callbacks.HyperparameterScheduler(
            learning_rate=schedules.CosineAnnealing(learning_rate)
        )
        return model.fit(
            x[:cut], y[:cut], batch_size=BASE, epochs=epochs, callbacks=[scheduler],
            validation_data=(x[cut:], y[cut:]), verbose=0,
        )  # fmt: skip

    result = tuning.sweep(
        build_model,
        train,
        learning_rate=(1e-3, 1.0),
        num_trials=NUM_TRIALS,
        extend=True,
    )
    print(result)
    print(f"Best: {result.best_parameters['learning_rate']:.3g}")


def main(arguments=None):
    parser = program.make_parser(__doc__, "large_batch.png")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each training")
    parser.add_argument("--tune", action="store_true", help="only choose the rate")
    options = program.parse(parser, arguments)
    data = load_images()
    if options.tune:
        tune(options.epochs, data)
        return
    accuracies, schedules = compare(options.seeds, options.epochs, data)
    gaps = compare_iterates(options.seeds, STAGES, data)
    print_tables(accuracies, gaps, options.epochs)
    draw(accuracies, schedules, options.epochs, options.output)
    print(f"Errors and schedules: {options.output}")


if __name__ == "__main__":
    main()
