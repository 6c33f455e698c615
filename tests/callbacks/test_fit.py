"""What our callbacks do to a model during `fit` is undone, and costs no compilation."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs._fit.train_function import TrainFunction
from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    OneCycleScheduler,
    ReduceOnPlateau,
)
from tests import processes
from tests.callbacks import references, resumed
from tests.ramp import Positions, ramp

S = lrs.schedules
BACKEND = keras.backend.backend()
COMPILED = [False] if BACKEND == "torch" else [False, True]


def sgd():
    return keras.optimizers.SGD(0.01, momentum=0.9)


def everything():
    """One callback of each kind."""
    return [
        HyperparameterLogger(),
        HyperparameterScheduler(
            learning_rate=S.LinearDecay(0.05), momentum=S.LinearDecay(0.9, None, 0.5)
        ),
        ReduceOnPlateau("loss", 0.5, patience=1),
    ]


def assert_untouched(model):
    """The optimizer is as it was compiled, and the model's own step is back."""
    gc.collect()
    optimizer = model.optimizer
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    assert optimizer.momentum == 0.9
    assert type(optimizer.momentum) is float
    for name in ("apply", "_backend_update_step", "finalize_variable_values"):
        assert name not in vars(optimizer)
    # The iterations, the rate, and a velocity where it has been built.
    assert len(optimizer.variables) == (3 if optimizer.built else 2)
    assert not isinstance(model.train_function, TrainFunction)
    assert "train_step" not in vars(model)
    assert not any("keras_lrs" in name for name in vars(model))


class At(keras.callbacks.Callback):
    """Does something at the end of an epoch, or in a validation."""

    def __init__(self, action, hook="on_epoch_end"):
        super().__init__()
        setattr(self, hook, lambda *arguments, **logs: action(self.model))


def raising(error):
    def action(model):
        raise error("stop")

    return action


class TestTheEnd:
    def test_of_a_training(self):
        model = references.linear_model(sgd())
        for _ in range(2):
            references.fit(model, everything())
            assert_untouched(model)

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    @pytest.mark.parametrize(
        "hook", ["on_epoch_end", "on_epoch_begin", "on_test_batch_end", "on_train_end"]
    )
    def test_by_an_exception_of_a_callback(self, error, hook):
        model = references.linear_model(sgd())
        validation = (references.X, references.Y)
        with pytest.raises(error):
            references.fit(
                model,
                [*everything(), At(raising(error), hook)],
                validation_data=validation,
            )
        assert_untouched(model)

    def test_by_an_exception_in_the_step(self):
        class Breaking(keras.layers.Layer):
            broken = False

            def call(self, inputs):
                if self.broken:
                    raise RuntimeError("in the step")
                return inputs

        breaking = Breaking()
        model = keras.Sequential(
            [keras.Input((3,)), breaking, keras.layers.Dense(1, use_bias=False)]
        )
        model.compile(sgd(), "mse", run_eagerly=True)
        breaking.broken = True
        with pytest.raises(RuntimeError, match="in the step"):
            references.fit(model, everything())
        assert_untouched(model)

    @pytest.mark.parametrize(
        "hook", ["on_epoch_begin", "on_epoch_end", "on_test_batch_end", "on_train_end"]
    )
    def test_while_somebody_keeps_the_traceback(self, hook):
        # As a notebook does: nothing that waits for objects to be freed would do.
        model = references.linear_model(sgd())
        validation = (references.X, references.Y)
        breaking = At(raising(KeyboardInterrupt), hook)
        try:
            references.fit(model, [*everything(), breaking], validation_data=validation)
        except KeyboardInterrupt as error:
            kept = error
        assert_untouched(model)
        assert str(kept) == "stop"

    def test_where_the_data_breaks_off(self):
        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                if index == 2:
                    raise RuntimeError("no more")
                return references.X[:4], references.Y[:4]

        # Nobody of ours is called, but by the next training.
        model = references.linear_model(sgd())
        schedule = HyperparameterScheduler(learning_rate=S.Constant(0.05))
        kept = None
        try:
            model.fit(Batches(), verbose=0, callbacks=[schedule], shuffle=False)
        except Exception as error:
            kept = error
        before = references.weights(model)
        twin = references.linear_model(sgd())
        twin.set_weights(model.get_weights())
        twin.optimizer.build(twin.trainable_variables)
        for mine, theirs in zip(
            twin.optimizer.variables, model.optimizer.variables, strict=True
        ):
            mine.assign(keras.ops.convert_to_numpy(theirs))
        twin.optimizer.learning_rate = 0.01
        references.fit(model, epochs=1)
        references.fit(twin, epochs=1)
        assert np.abs(before - references.weights(model)).max() > 1e-3
        np.testing.assert_array_equal(
            references.weights(model), references.weights(twin)
        )
        assert_untouched(model)
        assert "no more" in str(kept)

    def test_a_plain_fit_after_a_broken_one_is_plain(self):
        model, twin = (references.linear_model(sgd()) for _ in range(2))
        broken = [
            HyperparameterScheduler(learning_rate=S.Constant(0.0)),
            At(raising(RuntimeError)),
        ]
        with pytest.raises(RuntimeError):
            references.fit(model, broken)
        references.fit(model, epochs=2)
        # The broken one's rate was 0: the batches of its epoch moved nothing.
        references.fit(twin, epochs=2)
        np.testing.assert_array_equal(
            references.weights(model), references.weights(twin)
        )

    def test_a_scheduled_fit_after_a_broken_one_knows_the_users_rate(self):
        model = references.linear_model(sgd())
        with pytest.raises(RuntimeError):
            references.fit(model, [*everything(), At(raising(RuntimeError))])
        references.fit(model, everything())
        assert_untouched(model)

    def test_zero_epochs(self):
        model = references.linear_model(sgd())
        references.fit(model, everything(), epochs=0)
        assert not any("keras_lrs" in name for name in vars(model))

    def test_models_are_freed(self):
        model = references.linear_model(sgd())
        references.fit(model, everything(), epochs=1)
        reference = weakref.ref(model)
        keras.backend.clear_session()
        del model
        gc.collect()
        assert reference() is None


class TestMeanwhile:
    @pytest.mark.slow
    def test_files_are_plain(self, tmp_path):
        paths = []

        def save(model):
            paths.append(tmp_path / f"{len(paths)}.keras")
            model.save(paths[-1])

        model = references.linear_model(sgd())
        references.fit(model, [*everything(), At(save)], epochs=2)
        code = (
            "import sys, keras\n"
            "for path, iterations in zip(sys.argv[1:], (10, 20), strict=True):\n"
            "    model = keras.saving.load_model(path)\n"
            "    assert model.optimizer.momentum == 0.9\n"
            "    assert len(model.optimizer.variables) == 3\n"
            "    assert int(model.optimizer.iterations) == iterations\n"
            "assert 'keras_lrs' not in sys.modules\n"
        )
        result = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", code, *map(str, paths)],
            env={**os.environ, "KERAS_BACKEND": BACKEND},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-2000:]

    def test_the_rate_reads_as_the_one_last_used(self):
        read = []
        model = ramp(keras.optimizers.SGD(0.3))
        x = np.zeros((8, 1), "float32")
        scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(0.1))
        look = At(lambda model: read.append(float(model.optimizer.learning_rate)))
        model.fit(x, x, 1, 3, verbose=0, callbacks=[scheduler, look])
        curve = S.LinearDecay(0.1, 24).curve(24)
        np.testing.assert_allclose(read, curve[[7, 15, 23]], rtol=1e-6)

    def test_evaluate_and_predict_take_our_callbacks(self):
        model = references.linear_model(sgd())
        callbacks = everything()
        model.evaluate(references.X, references.Y, verbose=0, callbacks=callbacks)
        inside = At(
            lambda model: model.evaluate(
                references.X, references.Y, verbose=0, callbacks=callbacks
            )
        )
        loop = references.SGD()
        scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(0.05))
        references.fit(model, [scheduler, inside])
        loop.train(40, learning_rate=S.LinearDecay(0.05, 40).curve(40))
        np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)
        model.predict(references.X, verbose=0, callbacks=callbacks)
        assert_untouched(model)

    def test_callbacks_that_come_first_see_what_ours_write(self):
        class First(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                seen.append(logs["learning_rate"])

        seen = []
        model = references.linear_model(sgd())
        history = references.fit(model, [First(), HyperparameterLogger()])
        assert seen == history.history["learning_rate"] == [pytest.approx(0.01)] * 4

    def test_two_models_do_not_interfere(self):
        models = [references.linear_model(sgd()) for _ in range(2)]
        rates = [0.05, 0.002]
        inner = HyperparameterScheduler(learning_rate=S.LinearDecay(rates[1]))
        nested = At(lambda model: references.fit(models[1], [inner], epochs=1))
        outer = HyperparameterScheduler(learning_rate=S.LinearDecay(rates[0]))
        references.fit(models[0], [outer, nested], epochs=2)
        for model, curve in zip(
            models,
            [
                S.LinearDecay(rates[0], 20).curve(20),
                np.tile(S.LinearDecay(rates[1], 10).curve(10), 2),
            ],
            strict=True,
        ):
            loop = references.SGD()
            loop.train(20, learning_rate=curve)
            np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)
            assert_untouched(model)

    def test_copies_take_no_part(self):
        callbacks = everything()
        model = references.linear_model(sgd())
        references.fit(model, callbacks, epochs=1)
        for callback in callbacks:
            for copied in (
                copy.deepcopy(callback),
                pickle.loads(pickle.dumps(callback)),
            ):
                assert type(copied) is type(callback)
                assert copied.run is None

    def test_a_step_that_updates_now_and_then(self):
        class Patient(keras.Sequential):
            batches = 0

            def train_step(self, *arguments):
                self.batches += 1
                if self.batches % 3:
                    logs = {"loss": keras.ops.zeros(())}
                    return (logs, arguments[0]) if BACKEND == "jax" else logs
                return super().train_step(*arguments)

        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = Patient([keras.Input((3,)), dense])
        model.compile(sgd(), "mse", run_eagerly=True)
        scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(0.05))
        references.fit(model, [scheduler], epochs=3)
        loop = references.SGD()
        for k in range(10):
            gradient = references.gradient(loop.w, 3 * k + 2)
            loop.update(gradient, S.LinearDecay(0.05, 10).curve(10)[k])
        np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)


class Counted(keras.layers.Layer):
    """Counts how often it is traced."""

    traces = 0

    def call(self, inputs):
        self.traces += 1
        return inputs


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch traces nothing")
@pytest.mark.parametrize("jit_compile", COMPILED)
class TestCompilations:
    def counted_model(self, jit_compile):
        counted = Counted()
        dense = keras.layers.Dense(1, use_bias=False)
        model = keras.Sequential([keras.Input((3,)), counted, dense])
        model.compile(sgd(), "mse", jit_compile=jit_compile)
        return model, counted

    def test_equal_schedules_share_one(self, jit_compile):
        if BACKEND == "jax" and not jit_compile:
            pytest.skip("JAX without compilation runs the Python code at every step")
        model, counted = self.counted_model(jit_compile)
        references.fit(model, epochs=1)
        references.fit(model, everything(), epochs=1)
        counted.traces = 0
        for _ in range(3):
            references.fit(model, everything(), epochs=1)
            references.fit(model, epochs=1)
        assert counted.traces == 0

    def test_a_factor_that_changes_needs_none(self, jit_compile):
        if BACKEND == "jax" and not jit_compile:
            pytest.skip("JAX without compilation runs the Python code at every step")
        model, counted = self.counted_model(jit_compile)
        plateau = ReduceOnPlateau("loss", 0.5, patience=1, min_delta=1e9)
        references.fit(model, [plateau], epochs=1)
        counted.traces = 0
        references.fit(model, [plateau], epochs=5)
        assert counted.traces == 0
        assert plateau.state["factor"] == 0.5**4

    def test_few_are_kept(self, jit_compile):
        model, _ = self.counted_model(jit_compile)
        for rate in np.linspace(0.01, 0.02, 12):
            scheduler = HyperparameterScheduler(learning_rate=S.Constant(float(rate)))
            references.fit(model, [scheduler], epochs=1)
        assert len(model.train_function.keras_lrs_compiled) <= 8


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Keras 3.12.
def test_threads_of_compiled_pytorch():
    if BACKEND != "torch":
        pytest.skip("a compiler of PyTorch")
    model = references.linear_model(sgd(), jit_compile=True)
    scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(0.05))
    try:
        references.fit(model, [scheduler])
    except Exception as error:  # Whatever a missing C++ compiler raises.
        if "compiler" not in str(error).lower():
            raise
        pytest.skip("PyTorch finds no C++ compiler")
    loop = references.SGD()
    loop.train(40, learning_rate=S.LinearDecay(0.05, 40).curve(40))
    np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)


class TestOneCycle:
    @pytest.mark.parametrize(
        "arguments", [{}, {"three_phase": True, "shape": "linear"}]
    )
    def test_the_momentum_mirrors_the_rate(self, arguments):
        model = references.linear_model(sgd())
        scheduler = OneCycleScheduler(0.05, 0.8, 0.9, **arguments)
        references.fit(model, [scheduler])
        rate = scheduler.bound["learning_rate"].curve(41)
        momentum = scheduler.bound["momentum"].curve(41)
        loop = references.SGD()
        loop.train(40, learning_rate=rate, momentum=momentum)
        np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)
        assert momentum.argmin() == rate.argmax() == 12
        assert momentum.min() == 0.8
        assert momentum[0] == momentum[40] == 0.9
        # Between its ends each goes where the other comes from.
        rise = (rate[:13] - rate[0]) / (rate[12] - rate[0])
        np.testing.assert_allclose(momentum[:13], 0.9 - 0.1 * rise, rtol=1e-12)
        if arguments:
            np.testing.assert_allclose(momentum[24:], 0.9, rtol=1e-12)

    @pytest.mark.parametrize(
        ("optimizer", "name"),
        [
            (lambda: keras.optimizers.RMSprop(0.01, momentum=0.5), "momentum"),
            (lambda: keras.optimizers.Adam(0.01), "beta_1"),
            (lambda: keras.optimizers.Nadam(0.01), "beta_1"),
            (lambda: keras.optimizers.Lamb(0.01), "beta_1"),
        ],
    )
    def test_the_name_of_the_other_half(self, optimizer, name):
        model = references.linear_model(optimizer())
        scheduler = OneCycleScheduler(0.01)
        history = references.fit(model, [scheduler, HyperparameterLogger()], epochs=2)
        assert set(scheduler.bound) == {"learning_rate", name}
        last = scheduler.bound[name].curve(20)[[9, 19]]
        np.testing.assert_allclose(history.history[name], last, rtol=1e-6)

    def test_torch_gives_the_same_numbers(self):
        torch = pytest.importorskip("torch")
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
        # Its last value is at step total - 1; ours at the end of the training.
        theirs = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.1, total_steps=41, pct_start=13 / 41
        )
        momenta = []
        for _ in range(40):
            momenta.append(optimizer.param_groups[0]["momentum"])
            optimizer.step()
            theirs.step()
        cycle = S.OneCycle(0.1, 40, warmup_fraction=0.3)
        ours = lrs.schedules.composed.MirroredOneCycle(cycle).curve(40)
        np.testing.assert_allclose(ours, momenta, rtol=1e-6)

    def test_an_optimizer_with_neither(self):
        model = references.linear_model(keras.optimizers.Adagrad(0.01))
        with pytest.raises(ValueError, match=r"`momentum`.*`Adagrad`"):
            references.fit(model, [OneCycleScheduler(0.1)])

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            ({"max_learning_rate": -1.0}, "max_learning_rate"),
            ({"max_learning_rate": 0.1, "base_momentum": 1.0}, "base_momentum"),
            ({"max_learning_rate": 0.1, "max_momentum": 0.5}, "base_momentum"),
            ({"max_learning_rate": 0.1, "warmup_fraction": 2.0}, "warmup_fraction"),
        ],
    )
    def test_bad_arguments(self, arguments, name):
        with pytest.raises(ValueError, match=f"`{name}`"):
            OneCycleScheduler(**arguments)


class TestResuming:
    """k epochs, saved, and k more in a new process: the same numbers as 2k epochs."""

    @pytest.mark.parametrize("how", ["model", "backup"])
    @pytest.mark.every_backend(1)
    @pytest.mark.slow
    def test_in_a_new_process(self, tmp_path, how):
        def train(folder, part):
            return processes.call(resumed.train, tmp_path / folder, how, part)

        straight = train("straight", "straight")
        first = train("resumed", "first")
        second = train("resumed", "second")
        for name in ("learning_rate", "momentum", "loss"):
            assert first[name] + second[name] == straight[name]
        assert second["weights"] == straight["weights"]
        assert second["plateau"] == straight["plateau"]
        assert straight["plateau"]["factor"] < 1.0


def test_positions_of_a_ramp_are_recorded():
    record = Positions()
    x = np.zeros((2, 1), "float32")
    ramp(keras.optimizers.SGD(0.5)).fit(x, x, 1, 2, verbose=0, callbacks=[record])
    assert record.positions == [0.0, 1.0, 2.0]
