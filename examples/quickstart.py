"""Nine schedules on scans of handwritten digits, in about three minutes on two cores.

    python examples/quickstart.py
    python examples/quickstart.py --backend jax --schedules constant rex --seeds 1

Every schedule trains the same small convolutional network from the same initial weights
on the same batches, once per seed. All have the same peak rate, 0.1, the usual one for
SGD with momentum and batch normalization; nothing was tuned to any of them. Accuracies
are those of the last epoch. Dropout keeps the gradients noisy to the end, as they are
in larger trainings.
"""

import argparse
import os
import statistics
import time

PEAK = 0.1
BATCH_SIZE = 32
TIMING_ROUNDS = 6  # Per seed.


def make_schedules(peak=PEAK):
    """The schedules by name. Their lengths are open: `bind` fills them in."""
    from keras_lrs import Epochs, Fraction, schedules

    return {
        "constant": schedules.Constant(peak),
        "step": schedules.MultiStepDecay(peak, [Fraction(0.5), Fraction(0.75)]),
        "exponential": schedules.BoundedExponentialDecay(
            peak, end_learning_rate=peak / 100
        ),
        "linear": schedules.LinearDecay(peak),
        "cosine": schedules.CosineAnnealing(peak),
        "rex": schedules.REXDecay(peak),
        "1cycle": schedules.OneCycle(peak),
        "sgdr": schedules.CosineRestarts(peak, num_cycles=2),
        "wsd": schedules.WarmupStableDecay(peak, Epochs(0.5), Fraction(0.2)),
    }


def load_data():
    """1,797 scans of 8 x 8 pixels: three quarters to train with, a quarter to test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = digits.images[..., None].astype("float32") / 16.0
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.25, stratify=digits.target, random_state=0
    )
    return (x_train, y_train), (x_test, y_test)


def make_model(learning_rate):
    import keras

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.Activation("relu"),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.Activation("relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train(schedule, seed, epochs, data, progress):
    """Trains one network; returns it and the history of its training."""
    import keras

    keras.utils.set_random_seed(seed)  # Weights, dropout and the order of the data.
    train_data, test_data = data
    model = make_model(schedule)
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: progress.update())
    training = model.fit(
        *train_data,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=test_data,
        callbacks=[count],
        verbose=0,
    )
    return model, training.history


def train_all(schedules, seeds, epochs, data):
    """The last network and the histories of all seeds, by the schedule's name."""
    from tqdm import tqdm

    models, histories = {}, {name: [] for name in schedules}
    with tqdm(total=len(schedules) * seeds * epochs, unit="epoch") as progress:
        for name, schedule in schedules.items():
            for seed in range(seeds):
                progress.set_description(f"{name}, seed {seed}")
                models[name], history = train(schedule, seed, epochs, data, progress)
                histories[name].append(history)
    return models, histories


def time_steps(models, data, rounds):
    """Milliseconds per step of each model: those of its fastest epoch of many."""
    from tqdm import tqdm

    (x, y), _ = data
    fastest = dict.fromkeys(models, float("inf"))
    # Other programs only ever add time; the models take turns to meet as little of it.
    for _ in tqdm(range(rounds), desc="timing", unit="round"):
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(x, y, batch_size=BATCH_SIZE, verbose=0)
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    steps = count_steps(x)
    return {name: 1000.0 * seconds / steps for name, seconds in fastest.items()}


def count_steps(x):
    """The steps of an epoch, of which the last may have a smaller batch."""
    return -(-len(x) // BATCH_SIZE)


def print_table(histories, times):
    """Accuracy over the seeds, and time per step relative to the constant rate."""
    reference = next(iter(times))
    print(f"\n{'schedule':<12} {'test accuracy':>17} {'best':>9} {'time per step':>21}")
    for name, runs in histories.items():
        final = [100.0 * history["val_accuracy"][-1] for history in runs]
        mean, spread = statistics.mean(final), statistics.pstdev(final)
        ratio = times[name] / times[reference]
        print(
            f"{name:<12} {mean:>8.2f} ± {spread:4.2f} % {max(final):>7.2f} % "
            f"{times[name]:>8.2f} ms ({ratio:.2f} x)"
        )
    print(f"\n± is the standard deviation over seeds, 1.00 x the time of {reference}.")


def draw(schedules, histories, steps_per_epoch, path):
    """The rates above, the means of the validation curves below."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 7.0), layout="constrained")
    axes = figure.subplot_mosaic([["rate", "rate"], ["accuracy", "loss"]])
    lines = []
    for name, schedule in schedules.items():
        accuracy = np.mean([run["val_accuracy"] for run in histories[name]], axis=0)
        loss = np.mean([run["val_loss"] for run in histories[name]], axis=0)
        epochs = np.arange(1, len(loss) + 1)
        rates = schedule.curve(len(epochs) * steps_per_epoch)
        lines += axes["rate"].plot(np.arange(len(rates)) / steps_per_epoch, rates)
        axes["accuracy"].plot(epochs, 100.0 * accuracy)
        axes["loss"].plot(epochs, loss)
    axes["rate"].set(xlabel="epoch", ylabel="learning rate")
    axes["accuracy"].set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(90.0, 100.0))
    axes["loss"].set(xlabel="epoch", ylabel="test loss", yscale="log")
    for panel in axes.values():
        panel.grid(alpha=0.3)
    figure.legend(lines, list(schedules), loc="outside lower center", ncols=9)
    figure.savefig(path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=4, help="runs per schedule")
    parser.add_argument("--schedules", nargs="+", help="names; all by default")
    parser.add_argument("--output", default="quickstart.png", help="the picture's path")
    options = parser.parse_args(arguments)
    if options.epochs < 1 or options.seeds < 1:
        parser.error("--epochs and --seeds must be at least 1")

    # Keras reads its backend when it is imported, so it is imported in the functions.
    if options.backend is not None:
        os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    schedules = make_schedules()
    names = options.schedules or list(schedules)
    for name in names:
        if name not in schedules:
            known = ", ".join(schedules)
            parser.error(f"unknown schedule {name!r}; there are {known}")

    data = load_data()
    steps_per_epoch = count_steps(data[0][0])
    total_steps = options.epochs * steps_per_epoch
    bound = {name: schedules[name].bind(total_steps, steps_per_epoch) for name in names}
    models, histories = train_all(bound, options.seeds, options.epochs, data)
    times = time_steps(models, data, options.seeds * TIMING_ROUNDS)
    print_table(histories, times)
    draw(bound, histories, steps_per_epoch, options.output)
    print(f"Rates and curves: {options.output}")


if __name__ == "__main__":
    main()
