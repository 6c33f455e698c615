"""Processes that write to a folder until they are killed."""

import contextlib

import numpy as np

from keras_lrs._storage.checkpoints import Checkpoint, Checkpoints
from keras_lrs.ensembles.store import Record, Store
from tests import processes


@contextlib.contextmanager
def writing(function, *arguments):
    """Calls a function in a new process; gives it, and what it sends."""
    ours, theirs = processes.context.Pipe()
    process = processes.context.Process(target=function, args=(*arguments, theirs))
    process.start()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()


def checkpoints(folder, end):
    """Sends the number of each epoch that has been saved."""
    found = Checkpoints(folder)
    for epoch in range(10**6):
        state = {"epoch": epoch, "values": np.full(2000, float(epoch))}
        found.save(Checkpoint(0, epoch, 0, epoch), state)
        end.send(epoch)


def snapshots(folder, contents, end):
    """Sends the step of each member that has been written; two are kept."""
    found = Store(folder)
    found.begin([[3, 2], [2]], lambda record: False)
    for step in range(1, 10**6):
        record = Record(0, step, step, True, 0.1, {"loss": float("nan")})
        found.add(record, contents[step % len(contents)], keep_last=2)
        found.set_metrics(step, {"loss": 1.0})
        end.send(step)
