"""Trains for an hour with everything on, and looks for what grows or drifts.

    python benchmarks/soak.py [--minutes 60] [--resume] [--publish]
                              [--output docs/reliability.md]

One `fit`, of as many epochs as it takes: a schedule of the rate and one of momentum,
averages, snapshots, a plateau rule, logs of every step, and checkpoints to resume from.
Every epoch it notes the memory of the process, the rate that was used, and the size of
the files. Uses the backend that Keras is set to. What it found is kept in
`benchmarks/results/soak.jsonl`: with `--resume` it is not run again if the code is the
same, and `--publish` runs nothing, but writes the page again.
"""

import argparse
import functools
import pathlib
import tempfile
import time

import kept
import keras
import numpy as np
import reliability_page

from keras_lrs import callbacks
from keras_lrs import schedules as S  # noqa: N812

STEPS, BATCH = 200, 32


def main(arguments=None):
    """Trains, keeps what it found, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    kept.add_options(parser, __file__)
    options = parser.parse_args(arguments)
    if not options.publish:
        store = kept.Kept(options.work, [__file__], options.resume)
        case = {"backend": keras.backend.backend(), "minutes": options.minutes}
        store.measure(case, functools.partial(measured, options.minutes))
    reliability_page.publish(options, reliability_page.soak, kept.read(options.work))


def measured(minutes):
    """Trains for so long; returns what was found."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        seconds = train(folder / "short", 20)[0]
        again = train(folder / "again", 40)[0]
        # Without the time that startup takes.
        pace = (again - seconds) / 20
        epochs = max(int(60 * minutes / pace), 40)
        return summary(*train(folder / "long", epochs))


class Watch(keras.callbacks.Callback):
    """Notes memory, rate and files at the ends of epochs."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.memory, self.rates, self.sizes = [], [], []

    def on_epoch_end(self, epoch, logs=None):
        """Notes them."""
        self.memory.append(resident())
        # What the compiled step has put there.
        rate = self.model.optimizer.learning_rate
        self.rates.append(keras.ops.convert_to_numpy(rate).item())
        if epoch % 50 == 0:
            self.sizes.append(sizes(self.folder))


def resident():
    """The memory of this process, in MB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def sizes(folder):
    """Bytes in each of the folders."""
    return {
        each.name: sum(f.stat().st_size for f in files(each))
        for each in sorted(folder.iterdir())
    }


def files(path):
    """The file, or those in the folder."""
    return [f for f in [path, *path.rglob("*")] if f.is_file()]


def train(folder, epochs):
    """Trains for so many epochs; the seconds, what was seen, and the true rates."""
    folder.mkdir()
    keras.utils.set_random_seed(0)
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(STEPS * BATCH, 16)).astype("float32")
    y = numbers.integers(0, 4, len(x))
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy"
    )
    schedule = S.CosineRestarts(0.05, num_cycles=10, t_mul=1.0, end_learning_rate=1e-4)
    watch = Watch(folder)
    started = time.monotonic()
    model.fit(
        x,
        y,
        BATCH,
        epochs,
        verbose=0,
        validation_data=(x[:256], y[:256]),
        callbacks=[
            callbacks.HyperparameterScheduler(
                learning_rate=schedule, momentum=S.LinearDecay(0.95, None, 0.8)
            ),
            callbacks.ReduceOnPlateau("loss", patience=10**9, state_path=folder / "p"),
            callbacks.WeightAveraging(),
            callbacks.SnapshotEnsemble(folder / "snapshots", keep_last=3),
            callbacks.HyperparameterLogger(every=1, log_dir=folder / "logs"),
            callbacks.ResumableTraining(folder / "checkpoints", delete_at_end=False),
            watch,
        ],
    )
    seconds = time.monotonic() - started
    steps = epochs * STEPS
    last = np.arange(STEPS - 1, steps, STEPS)
    return seconds, watch, schedule.bind(steps, STEPS)(last), epochs, sizes(folder)


def summary(seconds, watch, rates, epochs, last):
    """What the page says, and no more: not the measurements of thousands of epochs."""
    memory = np.array(watch.memory)
    # What is built at the start is not growth.
    tenth = len(memory) // 10
    settled = memory[tenth:]
    slope = np.polyfit(np.arange(len(settled)), settled, 1)[0] * len(settled)
    steps = epochs * STEPS
    return {
        "epochs": epochs,
        "steps": steps,
        "seconds": seconds,
        "growth_mb": slope,
        "measurements": len(settled),
        "last_mb": memory[-1],
        "tenths_mb": [memory[i * tenth : (i + 1) * tenth].mean() for i in range(10)],
        "rate_error": float(np.max(np.abs(np.array(watch.rates) / rates - 1.0))),
        "log_bytes_per_step": last["logs"] / steps,
        "plateau_bytes": last["p"],
        "files": {name: size for name, size in last.items() if name != "p"},
    }


if __name__ == "__main__":
    main()
