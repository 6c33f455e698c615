"""Callbacks whose folders are in a storage of objects: in memory, and on S3."""

import contextlib
import os
import signal

import keras
import numpy as np
import pytest

from keras_lrs import averages, checkpoints, ensembles
from keras_lrs._storage import leases
from keras_lrs.callbacks import (
    PosthocAveraging,
    ReduceOnPlateau,
    ResumableTraining,
    SnapshotEnsemble,
)
from tests import processes
from tests.callbacks import references
from tests.callbacks.references import STEPS, linear_model
from tests.storage import objects
from tests.warned import warns

pytest.importorskip("fsspec")
pytestmark = pytest.mark.only("torch")

ALL_STEPS = 4 * STEPS


@pytest.fixture(params=["memory", "s3"])
def folder(request, monkeypatch):
    """An empty folder: the URL of it."""
    with contextlib.ExitStack() as stack:
        if request.param == "s3":
            pytest.importorskip("s3fs")
            pytest.importorskip("moto")
            found = stack.enter_context(objects.on_s3(monkeypatch))
        else:
            found = stack.enter_context(objects.in_memory())
        yield found


def aws():
    """What tells a process of the server: it may be forked from an older one."""
    return {k: value for k, value in os.environ.items() if k.startswith("AWS_")}


class Break(keras.callbacks.Callback):
    def __init__(self, step, how):
        super().__init__()
        self.step, self.how = step, how

    def on_train_batch_begin(self, batch, logs=None):
        if self.model.optimizer.iterations == self.step:
            self.how()


def power_cut():
    raise KeyboardInterrupt


def train(folder, *more):
    """Trains with everything that writes; returns the weights."""
    model = linear_model(keras.optimizers.SGD(0.002, momentum=0.9))
    callbacks = [
        SnapshotEnsemble(folder, schedule=[5, 15, 35]),
        PosthocAveraging(folder),
        ReduceOnPlateau("loss", 0.5, patience=1, state_path=f"{folder}/plateau.json"),
        ResumableTraining(folder, 7, verbose=0),
        *more,
    ]
    references.fit(model, callbacks, 4)
    return references.weights(model)


def written(folder):
    """What is left: the members of the ensemble, and an average."""
    model = linear_model(keras.optimizers.SGD(0.002))
    members = ensembles.load(str(folder), model)
    return (
        [(member.step, member.metrics) for member in members],
        [np.asarray(value) for member in members for value in member.values],
        averages.posthoc(str(folder), 0.07, step=ALL_STEPS),
    )


def check(folder, weights, straight, straight_weights):
    np.testing.assert_array_equal(weights, straight_weights)
    for found, expected in zip(written(folder), written(straight), strict=True):
        np.testing.assert_equal(found, expected)
    assert checkpoints.verify(folder) == []
    kinds = {file.kind for file in checkpoints.files(folder)}
    assert kinds == {"snapshots", "averages"}  # A run that is over has no checkpoints.
    assert not list(folder.glob("*.lock*"))


def test_a_run_is_resumed_from_there_bit_for_bit(tmp_path, folder):
    straight = train(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(str(folder), Break(25, power_cut))
    assert checkpoints.verify(folder) == []
    assert checkpoints.files(folder)[1].entry["iterations"] == 21
    check(folder, train(str(folder)), tmp_path, straight)


def killed(url, variables):
    os.environ.update(variables)
    train(url, Break(25, lambda: os.kill(os.getpid(), signal.SIGKILL)))


def resumed(url, variables):
    os.environ.update(variables)
    leases.TERM = leases.POLL = 0.2
    with warns(r"s3://bucket/folder` is in use by process \d+"):
        return train(url)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["s3"], indirect=True)
def test_a_run_that_was_killed_is_resumed_by_another_process(tmp_path, folder):
    straight = train(tmp_path)
    with pytest.raises(Exception, match="terminated abruptly"):
        processes.call(killed, str(folder), aws())
    assert list(folder.glob("*.lock*"))
    weights = processes.call(resumed, str(folder), aws())
    check(folder, weights, tmp_path, straight)


def second(url, variables):
    os.environ.update(variables)
    leases.POLL = 0.05
    try:
        train(url)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["s3"], indirect=True)
def test_a_second_run_is_refused_while_the_first_lives(folder, monkeypatch):
    monkeypatch.setattr(leases, "RENEWAL", 0.3)
    refusals = []

    def ask():
        refusals.append(processes.call(second, str(folder), aws()))

    train(str(folder), Break(25, ask))
    assert "one run at a time" in refusals[0]
    assert f"which process {os.getpid()} on" in refusals[0]


@pytest.mark.parametrize("folder", ["s3"], indirect=True)
def test_a_bucket_that_is_not_there_is_named_before_the_first_step(folder):
    steps = []
    url = "s3://none/run"
    for callback in (
        SnapshotEnsemble(url, schedule=[5]),
        ResumableTraining(url),
        PosthocAveraging(url),
        ReduceOnPlateau("loss", state_path=f"{url}/plateau.json"),
    ):
        model = linear_model(keras.optimizers.SGD(0.002))
        noting = Break(0, lambda: steps.append(1))
        with pytest.raises(OSError, match=r"bucket does not exist.*s3://none/run/"):
            references.fit(model, [callback, noting], 1)
    assert not steps
