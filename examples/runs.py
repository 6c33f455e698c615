"""What a training of hours needs besides its model.

Batches that are the same again, a clock, logs, files, and going on after an
interruption.
"""

import contextlib
import json
import re
import shutil
import statistics
import time
from pathlib import Path

import program

# Pixels by which images are moved at most, and whether they are mirrored: not digits.
AUGMENTATION = {"cifar10": (4, True), "digits": (1, False)}
EVERY = 10  # Steps from one logged rate to the next.
# What may be another when a training goes on.
FREE = ("backend", "directory", "resume", "log_dir")


def make_parser(description, name):
    """A parser with the options of every program for full-size trainings."""
    parser = program.base_parser(description)
    parser.add_argument("--dataset", choices=list(AUGMENTATION), default="cifar10")
    parser.add_argument("--epochs", type=int, help="of a whole training")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rate", type=float, help="the peak of the learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mixed-precision", choices=["float16", "bfloat16"])
    parser.add_argument(
        "--directory", default=f"runs/{name}", help="for backups and trained models"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with what is in the directory"
    )
    parser.add_argument("--log-dir", help="a folder for TensorBoard")
    return parser


# --- What `fit` is given --------------------------------------------------------------


def make_batches(data, batch_size, seed):
    """Training data in the order that seed and epoch determine.

    So an epoch that is begun again is the same. Without the last batch, if it is small.
    """
    import keras
    import numpy as np

    x, y = data

    class Batches(keras.utils.PyDataset):
        def begin(self, epoch):
            self.order = np.random.default_rng((seed, epoch)).permutation(len(x))

        def __len__(self):
            return len(x) // batch_size

        def __getitem__(self, index):
            rows = self.order[index * batch_size : (index + 1) * batch_size]
            return x[rows], y[rows]

    batches = Batches()
    batches.begin(0)
    return batches


def make_augmentation(dataset):
    """A layer that moves and mirrors training images on the device of the model.

    The state of its random numbers belongs to the model, so a backup has it, too.
    """
    from reproduce.augmentation import RandomShift

    pixels, mirror = AUGMENTATION[dataset]
    return RandomShift(pixels, mirror=mirror)


def make_clock():
    """A callback that measures the steps of each epoch, without the validation."""
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seconds = []

        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_test_begin(self, logs=None):
            # The logs of the epoch have been read: the device has no more to do.
            self.seconds.append(time.perf_counter() - self.start)

        def milliseconds(self):
            """Per step; of the first epoch, which compiles, only if there is no other.

            None if there was none at all.
            """
            later = self.seconds[1:] or self.seconds
            steps = self.params["steps"]
            return 1e3 * statistics.median(later) / steps if later else None

    return Clock()


def resuming(folder):
    """The callback that takes up a training where it was interrupted."""
    from keras_lrs.callbacks import ResumableTraining

    return ResumableTraining(folder / "backup")


def loggers(log_dir, name):
    """The losses, metrics and rates of the epochs, and the rate along the steps."""
    import keras

    from keras_lrs.callbacks import HyperparameterLogger

    if log_dir is None:
        return [HyperparameterLogger()]
    folder = str(Path(log_dir) / name)
    rates = HyperparameterLogger(every=EVERY, log_dir=folder)

    # Keras's own `TensorBoard` needs TensorFlow, and to be called after every batch.
    from tensorboard.summary import Writer

    class Scalars(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.writer = Writer(folder)

        def on_epoch_end(self, epoch, logs=None):
            for tag, value in logs.items():
                self.writer.add_scalar(f"epoch/{tag}", float(value), epoch + 1)
            self.writer.flush()

        def on_train_end(self, logs=None):
            self.writer.close()

    return [rates, Scalars()]


@contextlib.contextmanager
def precision(name):
    """In which networks are built: float32, or mixed with what has this name."""
    import keras

    before = keras.config.dtype_policy()
    if name is not None:
        keras.config.set_dtype_policy(f"mixed_{name}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def make_curves(path, measure=None):
    """A callback that keeps the logs of all epochs in a file, also when it resumes.

    Args:
        path: Of the file.
        measure: A function from the model to more numbers by name.
    """
    import keras

    class Curves(keras.callbacks.Callback):
        def read(self):
            return json.loads(path.read_text()) if path.exists() else []

        def on_epoch_end(self, epoch, logs=None):
            numbers = (logs or {}) | (measure(self.model) if measure else {})
            found = {name: float(value) for name, value in numbers.items()}
            # An epoch that was interrupted is run again.
            before = [each for each in self.read() if each["epoch"] <= epoch]
            write(path, [*before, {"epoch": epoch + 1, **found}])

    return Curves()


def fit(model, batches, test, epochs, callbacks, folder, log_dir):
    """Trains, or goes on; returns milliseconds per step.

    Args:
        model: A compiled model.
        batches: A `PyDataset` with a method `begin`, which is told the epoch.
        test: Data to validate with after each epoch.
        epochs: The length.
        callbacks: Those of this training.
        folder: For the backup.
        log_dir: For TensorBoard, or None.
    """
    import keras

    clock = make_clock()
    follow = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: batches.begin(epoch)
    )
    model.fit(
        batches,
        epochs=epochs,
        validation_data=test,
        validation_batch_size=512 if isinstance(test, tuple) else None,
        callbacks=[
            resuming(folder),
            clock,
            follow,
            *callbacks,
            *loggers(log_dir, folder.name),
        ],
        shuffle=False,  # Keras's order of the batches could not be had again.
        verbose=2,
    )
    return clock.milliseconds()


# --- Trainings by name ----------------------------------------------------------------


def file_name(name):
    """The name of a training as that of a folder, and on the command line."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run_all(parser, options, names, train):
    """What `train(name, folder)` found, a dictionary each, by the trainings' names.

    What is finished is read from a file, if the program is to resume.
    """
    if len({file_name(name) for name in names}) < len(names):
        parser.error(f"all names must differ. Received: {', '.join(names)}")
    root = Path(options.directory)
    prepare(parser, options, root)
    found = {}
    for number, name in enumerate(names, 1):
        folder = root / "trainings" / file_name(name)
        result = folder / "result.json"
        if result.exists():
            print(f"[{number}/{len(names)}] {name}: finished before", flush=True)
        else:
            print(f"[{number}/{len(names)}] {name}", flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            write(result, train(name, folder))
        found[name] = json.loads(result.read_text())
    return found


def prepare(parser, options, root):
    """Refuses a folder of others, and to go on with a training of other settings.

    Without `--resume` all trainings in the folder are deleted.
    """
    file = root / "settings.json"
    settings = {
        name: value
        for name, value in vars(options).items()
        if name not in FREE and not isinstance(value, list)
    }
    if not file.exists():
        if root.exists() and any(root.iterdir()):
            parser.error(f"--directory {root} holds something else")
    elif options.resume:
        before = json.loads(file.read_text())
        for name, value in settings.items():
            if before.get(name) != value:
                option = f"--{name.replace('_', '-')}"
                parser.error(
                    f"{root} was begun with {option} {before.get(name)}, which must "
                    f"stay to resume. Received: {value}"
                )
    else:
        shutil.rmtree(root / "trainings", ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    write(file, settings)


def write(file, content):
    """All of it, or nothing."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content, indent=2), encoding="utf-8")
    new.replace(file)


def milliseconds(found):
    """A cell of a table: the time per step, if one was made in this process."""
    time = found["milliseconds"]
    return "-" if time is None else f"{time:.2f} ms"
