"""Writes an ensemble with a fault at one of its file operations.

As a program, it is killed at each of them in turn, in processes of their own, and
prints how often that was and how many directories did not load.
"""

import builtins
import contextlib
import functools
import os
import pathlib
import signal
import sys
import unittest.mock

import keras
import numpy as np

from keras_lrs import ensembles
from keras_lrs._keras.weights import copied_weights
from keras_lrs.ensembles import store


class FaultError(Exception):
    pass


def model(value=0.0):
    found = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    found.set_weights([np.full((3, 2), value), np.full(2, value)])
    return found


@contextlib.contextmanager
def watched(before):
    """Calls a function before every operation on files that we or Python make."""

    def each(function):
        def call(*arguments, **keywords):
            before()
            return function(*arguments, **keywords)

        return call

    def opened(path, mode="r", *arguments, **keywords):
        if not set(mode) & set("wxa"):
            return plain(path, mode, *arguments, **keywords)
        before()
        file = plain(path, mode, *arguments, **keywords)
        return Watched(file, before)

    plain = builtins.open
    names = ("mkdir", "fsync", "replace", "unlink", "open")
    with contextlib.ExitStack() as stack:
        for name in names:
            changed = unittest.mock.patch.object(os, name, each(getattr(os, name)))
            stack.enter_context(changed)
        stack.enter_context(unittest.mock.patch.object(builtins, "open", opened))
        yield


class Watched:
    """A file of which only a half may be written."""

    def __init__(self, file, before):
        self.file, self.before = file, before

    def write(self, content):
        half = len(content) // 2
        self.file.write(content[:half])
        self.file.flush()
        self.before()
        self.file.write(content[half:])

    def flush(self):
        self.before()
        self.file.flush()

    def fileno(self):
        return self.file.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


@functools.cache  # Making models takes longer than all else.
def contents():
    return {step: bytes(copied_weights(model(step)).content()) for step in (10, 20, 30)}


def scenario(folder, completed=None, fails_at=None, kill=False):
    """A training run: three members, of which the last two are kept.

    Args:
        folder: Where.
        completed: A list that is given the steps of members as they are completed.
        fails_at: The number of the operation that does not happen.
        kill: Whether the process does not survive it.
    """
    completed = [] if completed is None else completed
    files, count = contents(), [0]

    def before():
        count[0] += 1
        if count[0] - 1 == fails_at:
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise FaultError

    with watched(before):
        found = store.Store(folder)
        found.begin([[3, 2], [2]], lambda record: False)
        for number, (step, content) in enumerate(files.items()):
            record = store.Record(0, step, number + 1, True, 0.1, {"loss": 1.0})
            found.add(record, content, keep_last=2)
            completed.append(step)
            found.set_metrics(step, {"loss": 1.0, "val_loss": 2.0})
    return count[0]


def counted(folder):
    """How many operations there are."""
    return scenario(folder)


@functools.cache
def like_those_trained():
    return model()


def check(folder, completed):
    """Raises unless all that was completed loads, and is what was written."""
    try:
        ensemble = ensembles.load(folder, like_those_trained())
    except FileNotFoundError:
        assert not completed
        return
    except ValueError as error:
        if completed or "no member" not in str(error):
            raise
        return
    steps = [member.step for member in ensemble]
    # The next one may be complete, though its writer did not learn of it.
    following = [*completed, (len(completed) + 1) * 10]
    assert steps in (completed[-2:], following[-2:]), (steps, completed)
    for member in ensemble:
        for value in member.values:
            np.testing.assert_array_equal(value, member.step)


def main(folder):
    folder = pathlib.Path(folder)
    contents(), like_those_trained()  # Not once in each process.
    killed = unreadable = 0
    for number in range(1_000):
        path, log = folder / str(number), folder / f"{number}.log"
        process = os.fork()
        if process == 0:
            with open(log, "w", buffering=1) as file:

                class Completed(list):
                    def append(self, step):
                        super().append(step)
                        file.write(f"{step}\n")

                scenario(path, Completed(), number, kill=True)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            break
        killed += 1
        completed = [int(line) for line in log.read_text().split()]
        try:
            check(path, completed)
        except Exception as error:
            print(number, repr(error), file=sys.stderr)
            unreadable += 1
    print(killed, unreadable)


if __name__ == "__main__":
    main(*sys.argv[1:])
