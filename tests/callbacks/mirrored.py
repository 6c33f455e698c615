"""Trains on two logical devices; in a process that may configure them."""

import contextlib
import tempfile

import keras
import numpy as np

from keras_lrs import PerVariable
from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.callbacks import (
    HyperparameterScheduler,
    ReduceOnPlateau,
    ResumableTraining,
)
from keras_lrs.schedules import Samples
from tests.callbacks import devices, forward, grouped, references


def stop_later(epoch, logs=None):
    if epoch == 1:
        raise KeyboardInterrupt


def main():
    strategy = devices.two_replicas()

    rate, momentum = S.OneCycle(0.05, 40), S.LinearDecay(0.95, 40, 0.5)
    with strategy.scope():
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
        model = references.linear_model(optimizer)
    loop = references.SGD(nesterov=True)
    for loop.corrected in (False, True):
        loop.last = None
        scheduler = HyperparameterScheduler(
            learning_rate=rate, momentum=momentum, momentum_correction=loop.corrected
        )
        references.fit(model, [scheduler])
        loop.train(40, learning_rate=rate.curve(40), momentum=momentum.curve(40))
        np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)
    assert optimizer.momentum == 0.9
    assert "apply" not in vars(optimizer)

    schedules = {
        "learning_rate": rate,
        "beta_1": S.LinearDecay(0.95, 40, 0.8),
        "beta_2": S.LinearDecay(0.999, 40, 0.95),
        "weight_decay": S.LinearDecay(0.1, 40),
    }
    with strategy.scope():
        optimizer = keras.optimizers.AdamW(0.01)
        model = references.linear_model(optimizer)
    references.fit(model, [HyperparameterScheduler(**schedules)])
    loop = references.Adam()
    loop.train(40, **{name: s.curve(40) for name, s in schedules.items()})
    np.testing.assert_allclose(references.weights(model), loop.w, atol=5e-6)
    assert "_backend_update_step" not in vars(optimizer)

    # Checkpoints: metrics have a value on each replica.
    with tempfile.TemporaryDirectory() as folder, strategy.scope():
        ends = []
        for resumes in (False, True):
            model = references.linear_model(keras.optimizers.SGD(0.01, momentum=0.9))
            if resumes:
                stop = keras.callbacks.LambdaCallback(on_epoch_begin=stop_later)
                with contextlib.suppress(KeyboardInterrupt):
                    references.fit(model, [ResumableTraining(folder, 3), stop], 2)
                model = references.linear_model(
                    keras.optimizers.SGD(0.01, momentum=0.9)
                )
                resumable = ResumableTraining(folder, 3)
                references.fit(model, [resumable], 2)
                assert resumable.resumed_from is not None
            else:
                references.fit(model, epochs=2)
            ends.append(references.weights(model))
        np.testing.assert_array_equal(*ends)

    # Groups: rates, decays and momenta of their own.
    with strategy.scope():
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.3)
        model = grouped.linear_models(optimizer)
    rising = S.LinearDecay(0.0, 40, 1.0)
    scheduler = HyperparameterScheduler(
        learning_rate=rate,
        rate_multipliers={"early": 0.5, "late": rising},
        momentum=PerVariable({"late": momentum}),
        weight_decay=PerVariable({"early|head": 0.0}),
    )
    grouped.fit(model, [scheduler])
    grouped.assert_trained(
        model,
        references.SGD,
        early={"learning_rate": 0.5 * rate.curve(40)},
        late={
            "learning_rate": rate.curve(40) * rising.curve(40),
            "momentum": momentum.curve(40),
            "weight_decay": np.full(40, 0.3),
        },
        head={"learning_rate": rate.curve(40)},
    )
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 0.3)
    for name in ("apply", "update_step", "_apply_weight_decay", "_backend_update_step"):
        assert name not in vars(optimizer)

    # The same with absolute rates, where betas change: in Adam they correct all rates.
    betas = {name: schedules[name] for name in ("beta_1", "beta_2")}
    with strategy.scope():
        model = grouped.linear_models(keras.optimizers.AdamW(0.01, weight_decay=0.1))
    scheduler = HyperparameterScheduler(
        learning_rate=PerVariable({"early": rate, "late": 0.02}),
        weight_decay=PerVariable({"early": 0.0}),
        **betas,
    )
    grouped.fit(model, [scheduler])
    curves = {name: schedule.curve(40) for name, schedule in betas.items()}
    decay = {**curves, "weight_decay": np.full(40, 0.1)}
    grouped.assert_trained(
        model,
        references.Adam,
        atol=1e-5,
        early={"learning_rate": rate.curve(40), **curves},
        late={"learning_rate": np.full(40, 0.02), **decay},
        head={"learning_rate": np.full(40, 0.01), **decay},
    )

    # A schedule in the optimizer, and a factor on it: halved after every epoch.
    with strategy.scope():
        model = references.linear_model(keras.optimizers.SGD(rate, momentum=0.9))
    plateau = ReduceOnPlateau("loss", 0.5, patience=1, min_delta=1e9)
    references.fit(model, [plateau])
    loop = references.SGD()
    # The first look is the best; each of the others reduces.
    factors = np.repeat([1.0, 1.0, 0.5, 0.25], 10)
    loop.train(40, learning_rate=rate.curve(40) * factors)
    np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)

    # The average, put in and taken out.
    with strategy.scope():
        model = references.linear_model(keras.optimizers.SGD(0.05, momentum=0.9))
    devices.check_average(model, update_every=2)

    # A step has the samples of the batch that is given to `fit`.
    scheduler = HyperparameterScheduler(S.LinearDecay(0.05, Samples(80)))
    with strategy.scope():
        model = references.linear_model(keras.optimizers.SGD(0.01))
    references.fit(model, [scheduler], data=references.arrays())
    assert scheduler.bound["learning_rate"].decay_steps == 20

    for settings in ({}, {"run_eagerly": True}):
        with strategy.scope():
            model = forward.model(**settings)
        devices.check_variable(model)

    with strategy.scope():
        model = references.linear_model(keras.optimizers.SGD(0.05))
    devices.check_norms_and_range_test(model)
