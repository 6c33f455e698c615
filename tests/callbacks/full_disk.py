"""Trains where the disk is full after two epochs; meant for a process of its own."""

import contextlib
import gc
import os
import subprocess

import keras

from keras_lrs import callbacks as C  # noqa: N812
from keras_lrs import ensembles
from keras_lrs import schedules as S  # noqa: N812
from tests.callbacks import references

EPOCHS, FULL = 4, 2

KINDS = {
    "snapshots": lambda folder: C.SnapshotEnsemble(folder, schedule=[10, 20, 30, 40]),
    "checkpoints": lambda folder: C.ResumableTraining(folder, verbose=0),
    "averages": lambda folder: C.PosthocAveraging(folder),
    "plateau": lambda folder: C.ReduceOnPlateau("loss", state_path=folder / "p.json"),
}


class Full(keras.callbacks.Callback):
    def __init__(self, fill, callback):
        super().__init__()
        self.fill, self.callback = fill, callback

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == FULL:
            # The thread that writes snapshots is done with those of earlier epochs.
            for writing in getattr(self.callback, "_writing", []):
                writing.result()
            self.fill()


@contextlib.contextmanager
def limited(folder):
    """A function after which no file may grow: EFBIG, in the middle of a write."""
    import resource

    plain = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, plain[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, plain)


@contextlib.contextmanager
def mounted(folder):
    """A disk of 256 kB on the folder, and a function that fills it: ENOSPC."""
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:

        def fill():
            with (
                open(folder / "other", "wb", buffering=0) as file,
                contextlib.suppress(OSError),
            ):
                while True:
                    file.write(bytes(4096))

        yield fill
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def model():
    return references.linear_model(keras.optimizers.SGD(S.Constant(0.002)))


def train(folder, kind, how):
    """Returns what was raised, and what the files are good for afterwards."""
    with {"limited": limited, "mounted": mounted}[how](folder) as fill:
        raised = None
        try:
            callback = KINDS[kind](folder)
            references.fit(model(), [callback, Full(fill, callback)], EPOCHS)
        except Exception as error:
            raised = [type(error).__name__, error.errno, str(error.filename)]
        gc.collect()  # What HDF5 holds of a file is closed, at the latest.
        found = sorted(name for name in os.listdir(folder) if name != "other")
        with contextlib.suppress(FileNotFoundError):
            os.remove(folder / "other")
        left = None
        if kind == "snapshots":
            left = [member.step for member in ensembles.load(folder, model())]
    if how == "limited" and kind == "checkpoints":
        resumable = KINDS[kind](folder)
        references.fit(model(), [resumable], EPOCHS)
        left = resumable.resumed_from.epoch
    return raised, found, left
