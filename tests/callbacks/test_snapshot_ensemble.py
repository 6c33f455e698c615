"""Snapshots are the weights after the last update of a cycle, and all are written."""

import copy
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs import Epochs, Fraction, ensembles
from keras_lrs._fit.train_function import TrainFunction
from keras_lrs._keras.optimizers import iterations
from keras_lrs._keras.weights import copied_weights, loaded_weights
from keras_lrs.callbacks import (
    HyperparameterScheduler,
    OneCycleScheduler,
    ReduceOnPlateau,
    SnapshotEnsemble,
    snapshot_ensemble,
)
from keras_lrs.ensembles import store
from tests import processes
from tests.callbacks import references
from tests.ensembles import resumed
from tests.warned import warns

S = lrs.schedules
BACKEND = keras.backend.backend()
STEPS = references.STEPS  # 10 per epoch.
UNEVEN = S.CosineRestarts(0.01, 7, t_mul=2.0)  # Ends at 7, 21, 49, 105 ...
RATES = [0.01, 0.02, 0.04, 0.08]


def network(rate=UNEVEN, **compile_arguments):
    """With a batch normalization, whose statistics no optimizer updates."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1),
        ]
    )
    optimizer = rate
    if not isinstance(rate, keras.Optimizer):
        optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    model.compile(optimizer, "mse", metrics=["mae"], **compile_arguments)
    return model


def uncompiled(model):
    return keras.Sequential.from_config(model.get_config())


def weights(model):
    """Copies, in the order of `get_weights`."""
    return [np.array(keras.ops.convert_to_numpy(v.value)) for v in model.weights]


class Record(keras.callbacks.Callback):
    """All weights after every batch, by a batch hook of Keras."""

    def __init__(self):
        super().__init__()
        self.after = {}

    def on_train_batch_end(self, batch, logs=None):
        if BACKEND == "jax":
            self.model.jax_state_sync()
        self.after[iterations(self.model.optimizer)] = weights(self.model)


def recorded(model, directory, callbacks=(), epochs=5, snapshots=None, **arguments):
    """Trains; returns the weights after every batch, and the members."""
    record = Record()
    snapshots = snapshots or SnapshotEnsemble(directory)
    references.fit(model, [*callbacks, snapshots, record], epochs, **arguments)
    return record.after, ensembles.load(directory, model)


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def member_weights(member, model):
    """In the order of `get_weights`, which leaves out the states of generators."""
    kept = {id(variable) for variable in model.weights}
    return [
        value
        for variable, value in zip(model.variables, member.values, strict=True)
        if id(variable) in kept
    ]


def assert_members(after, ensemble, steps):
    """The members are the weights that were recorded after these steps, to the bit."""
    assert [member.step for member in ensemble] == steps
    for member in ensemble:
        assert_equal(member_weights(member, ensemble.model), after[member.step])


def manifest(directory):
    return json.loads((directory / "manifest.json").read_bytes())


def names(directory):
    return sorted(path.name for path in directory.iterdir())


SCHEDULES = {
    "uneven": (UNEVEN, [7, 21, 49]),
    "within Warmup": (S.Warmup(S.CosineRestarts(0.01, 6, 1.0), 3), [9, 15, 21, 27]),
    "within Sequential": (
        S.Sequential([S.Constant(0.01), S.CosineRestarts(0.01, 11, 1.0)], [4]),
        [15, 26],
    ),
    "within Scaled": (S.Scaled(S.CosineRestarts(0.01, 13, 1.0), 0.5), [13, 26]),
    "Restarts of REX": (S.Restarts(S.REXDecay(0.01), 9, t_mul=2.0), [9, 27]),
    "CyclicalLearningRate": (S.CyclicalLearningRate(0.001, 0.01, 4), [8, 16, 24]),
    "PhasedCosine": (S.PhasedCosine([5, 12], [0.01, 0.005], [0.001, 0.0]), [5, 17]),
}


class TestTheStep:
    @pytest.mark.parametrize("name", SCHEDULES)
    def test_is_where_the_cycle_of_the_optimizers_schedule_ends(self, name, tmp_path):
        schedule, ends = SCHEDULES[name]
        epochs = 5 if name == "uneven" else 3
        after, ensemble = recorded(network(schedule), tmp_path, epochs=epochs)
        assert_members(after, ensemble, ends)
        expected = schedule.curve(50)[np.array(ends) - 1]
        rates = [member.learning_rate for member in ensemble]
        np.testing.assert_allclose(rates, expected, rtol=1e-6)
        assert [member.cycle for member in ensemble] == [*range(1, len(ends) + 1)]

    def test_is_where_the_cycle_of_a_bound_schedule_ends(self, tmp_path):
        # 50 steps in 4 cycles.
        scheduler = HyperparameterScheduler(
            learning_rate=S.CosineRestarts(0.01, t_mul=1.0, num_cycles=4)
        )
        after, ensemble = recorded(network(0.1), tmp_path, [scheduler])
        assert_members(after, ensemble, [13, 25, 38, 50])
        curve = scheduler.bound["learning_rate"].curve(50)
        rates = [member.learning_rate for member in ensemble]
        np.testing.assert_allclose(rates, curve[[12, 24, 37, 49]], rtol=1e-6)

    @pytest.mark.parametrize("before", [True, False])
    def test_does_not_depend_on_the_order_of_callbacks(self, before, tmp_path):
        scheduler = HyperparameterScheduler(
            learning_rate=S.CosineRestarts(0.01, Epochs(1.5), 1.0)
        )
        snapshots, record = SnapshotEnsemble(tmp_path), Record()
        callbacks = [scheduler, snapshots][:: -1 if before else 1]
        model = network(0.1)
        references.fit(model, [*callbacks, record], 3)
        assert_members(record.after, ensembles.load(tmp_path, model), [15, 30])

    def test_is_that_of_a_schedule_of_the_users(self, tmp_path):
        for schedule, ends in [
            (S.CosineRestarts(1.0, num_cycles=2, t_mul=1.0), [15, 30]),
            ([7, 12], [7, 12]),
            ([Epochs(0.5), 9, Fraction(1.0)], [5, 9, 30]),
        ]:
            folder = tmp_path / str(len(ends)) / str(ends[0])
            snapshots = SnapshotEnsemble(folder, schedule=schedule)
            after, ensemble = recorded(
                network(0.01), folder, snapshots=snapshots, epochs=3
            )
            assert_members(after, ensemble, ends)

    def test_goes_on_in_a_second_fit_with_the_optimizers_schedule(self, tmp_path):
        model = network()
        after, _ = recorded(model, tmp_path, epochs=1)
        more, ensemble = recorded(model, tmp_path, epochs=2)
        assert_members(after | more, ensemble, [7, 21])

    def test_begins_anew_in_a_second_fit_with_a_bound_schedule(self, tmp_path):
        model = network(0.1)
        scheduler = HyperparameterScheduler(
            learning_rate=S.CosineRestarts(0.01, 8, t_mul=1.0)
        )
        after, _ = recorded(model, tmp_path, [scheduler], epochs=1)
        more, ensemble = recorded(model, tmp_path, [scheduler], epochs=2)
        assert_members(after | more, ensemble, [8, 18, 26])
        assert names(tmp_path)[1:] == [f"snapshot-000{i}.weights.h5" for i in (1, 2, 3)]

    def test_counts_micro_batches_as_schedules_do(self, tmp_path):
        optimizer = keras.optimizers.SGD(
            UNEVEN, momentum=0.9, gradient_accumulation_steps=3
        )
        after, ensemble = recorded(network(optimizer), tmp_path, epochs=3)
        assert_members(after, ensemble, [7, 21])

    def test_of_loss_scaling_that_skips_updates(self, tmp_path):
        # The first scales overflow float32: some updates are skipped.
        inner = keras.optimizers.SGD(S.CosineRestarts(0.01, 6, t_mul=1.0))
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**127)
        model = network(optimizer)
        record, snapshots = Record(), SnapshotEnsemble(tmp_path)
        record.on_train_batch_end = lambda batch, logs=None: None
        references.fit(model, [snapshots, record], 3)
        count = iterations(inner)
        assert count < 30
        ensemble = ensembles.load(tmp_path, model)
        assert [m.step for m in ensemble] == list(range(6, count + 1, 6))

    def test_with_other_callbacks_of_ours(self, tmp_path):
        plateau = ReduceOnPlateau("loss", 0.5, patience=1)
        after, ensemble = recorded(network(), tmp_path, [plateau], epochs=3)
        assert_members(after, ensemble, [7, 21])

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    def test_of_data_of_unknown_length(self, tmp_path):
        def batches():
            for k in range(12):
                batch = slice(4 * (k % 10), 4 * (k % 10) + 4)
                yield references.X[batch], references.Y[batch]

        model, record = network(S.CosineRestarts(0.01, 5, 1.0)), Record()
        snapshots = SnapshotEnsemble(tmp_path)
        callbacks = [snapshots, record]
        model.fit(batches(), verbose=0, shuffle=False, callbacks=callbacks)
        assert_members(record.after, ensembles.load(tmp_path, model), [5, 10])

    @pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has one step per execution")
    def test_within_an_epoch_of_several_steps_per_execution(self, tmp_path):
        schedule = S.PhasedCosine([8, 2, 14, 6], RATES, [0.0] * 4)
        model = network(schedule, steps_per_execution=4)
        _, ensemble = recorded(model, tmp_path, epochs=3)
        assert [member.step for member in ensemble] == [8, 10, 24, 30]
        twin = network(schedule)
        after, _ = recorded(twin, tmp_path / "twin", epochs=3)
        for member in ensemble:
            for ours, theirs in zip(
                member_weights(member, model), after[member.step], strict=True
            ):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"directory": 3}, "`directory` must be a path"),
            ({"keep_last": 0}, "`keep_last` must be > 0"),
            ({"keep_last": 1.5}, "`keep_last` must be a whole number"),
            ({"partial": "maybe"}, "`partial` must be one of 'drop', 'keep'"),
            ({"schedule": "sgdr"}, "`schedule` must be a list"),
            ({"schedule": []}, "`schedule` must have a step"),
            ({"schedule": [0, 4]}, "`schedule` must be > 0"),
            ({"schedule": [4, 4]}, "`schedule` must be in increasing order"),
            ({"restore_last_completed": 1}, "must be True or False"),
        ],
        ids=str,
    )
    def test_arguments(self, arguments, message):
        with pytest.raises((ValueError, TypeError), match=message):
            SnapshotEnsemble(**{"directory": "folder", **arguments})

    @pytest.mark.parametrize(
        "rate",
        [
            0.1,
            S.CosineAnnealing(0.1, 30),
            keras.optimizers.schedules.CosineDecay(0.1, 5),
        ],
    )
    def test_a_schedule_without_cycles(self, rate, tmp_path):
        model = network(rate)
        with pytest.raises(ValueError, match="needs a schedule with cycles"):
            references.fit(model, [SnapshotEnsemble(tmp_path)])
        assert int(model.optimizer.iterations) == 0
        assert names(tmp_path) == []

    def test_a_bound_schedule_without_cycles(self, tmp_path):
        model = network(0.1)
        with pytest.raises(ValueError, match="needs a schedule with cycles"):
            references.fit(model, [OneCycleScheduler(0.1), SnapshotEnsemble(tmp_path)])
        assert int(model.optimizer.iterations) == 0

    @pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has one step per execution")
    @pytest.mark.parametrize(
        ("end", "before", "after"), [(7, 4, 8), (9, 8, 10), (13, 10, 14), (19, 18, 20)]
    )
    def test_a_cycle_that_ends_within_an_execution(self, end, before, after, tmp_path):
        model = network(0.01, steps_per_execution=4)
        snapshots = SnapshotEnsemble(tmp_path, schedule=[end])
        with pytest.raises(ValueError, match=f"after {before} or {after} steps"):
            references.fit(model, [snapshots])
        assert int(model.optimizer.iterations) == 0
        for nearest in (before, after):
            snapshots = SnapshotEnsemble(tmp_path, schedule=[nearest])
            references.fit(network(0.01, steps_per_execution=4), [snapshots], 2)

    def test_two_in_one_directory(self, tmp_path):
        callbacks = [SnapshotEnsemble(tmp_path), SnapshotEnsemble(str(tmp_path))]
        with pytest.raises(ValueError, match="`directory` must be another one"):
            references.fit(network(), callbacks)

    def test_a_directory_with_snapshots_of_another_model(self, tmp_path):
        model = references.linear_model(keras.optimizers.SGD(UNEVEN))
        references.fit(model, [SnapshotEnsemble(tmp_path)], 1)
        before = names(tmp_path)
        other = network()
        other.optimizer.build(other.trainable_variables)
        other.optimizer.iterations.assign(10)
        with pytest.raises(ValueError, match="`directory` must hold snapshots of this"):
            references.fit(other, [SnapshotEnsemble(tmp_path)])
        assert names(tmp_path) == before

    def test_a_directory_with_a_damaged_manifest(self, tmp_path):
        (tmp_path / "manifest.json").write_text('{"format": 1, "keras_lrs": "0.2.0"')
        with pytest.raises(ValueError, match=r"manifest.json` is damaged"):
            references.fit(network(), [SnapshotEnsemble(tmp_path)])

    @pytest.mark.skipif(
        not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
    )
    def test_optimizers_whose_cycles_differ(self, tmp_path):
        dense = [keras.layers.Dense(1) for _ in range(2)]
        model = keras.Sequential([keras.Input((3,)), *dense])
        optimizers = [
            keras.optimizers.SGD(S.CosineRestarts(0.01, n, 1.0)) for n in (5, 7)
        ]
        model.compile(multi_optimizer(dense, optimizers), "mse")
        with pytest.raises(ValueError, match="cycles end at different steps"):
            references.fit(model, [SnapshotEnsemble(tmp_path)])
        references.fit(model, [SnapshotEnsemble(tmp_path, schedule=[5])], 1)
        assert len(ensembles.load(tmp_path, model)) == 1


def multi_optimizer(layers, optimizers):
    from keras.src.optimizers.multi_optimizer import MultiOptimizer

    def choose(variable):
        first = any(variable is own for own in layers[0].variables)
        return optimizers[0 if first else 1]

    return MultiOptimizer(choose)


class TestTheLastCycle:
    def test_is_dropped_where_it_is_cut_short(self, tmp_path):
        after, ensemble = recorded(network(), tmp_path, epochs=3)
        assert_members(after, ensemble, [7, 21])

    def test_is_kept_on_demand_and_said_not_to_be_complete(self, tmp_path):
        snapshots = SnapshotEnsemble(tmp_path, partial="keep")
        after, ensemble = recorded(network(), tmp_path, epochs=3, snapshots=snapshots)
        assert_members(after, ensemble, [7, 21, 30])
        assert [member.complete for member in ensemble] == [True, True, False]
        assert [member.cycle for member in ensemble] == [1, 2, 3]
        assert ensemble[-1].learning_rate == pytest.approx(UNEVEN.curve(30)[-1])

    def test_is_no_other_where_the_training_ends_with_it(self, tmp_path):
        snapshots = SnapshotEnsemble(tmp_path, schedule=[7, 20], partial="keep")
        after, ensemble = recorded(
            network(0.01), tmp_path, epochs=2, snapshots=snapshots
        )
        assert_members(after, ensemble, [7, 20])
        assert all(member.complete for member in ensemble)

    @pytest.mark.parametrize("partial", ["drop", "keep"])
    def test_of_a_training_that_stops_early(self, partial, tmp_path):
        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = epoch == 1

        snapshots = SnapshotEnsemble(tmp_path, partial=partial)
        after, ensemble = recorded(network(), tmp_path, [Stop()], snapshots=snapshots)
        assert_members(after, ensemble, [7] + [20] * (partial == "keep"))

    def test_gives_way_when_the_training_goes_on(self, tmp_path):
        model = network()
        snapshots = SnapshotEnsemble(tmp_path, partial="keep")
        after, _ = recorded(model, tmp_path, epochs=2, snapshots=snapshots)
        more, ensemble = recorded(model, tmp_path, epochs=3, snapshots=snapshots)
        assert_members(after | more, ensemble, [7, 21, 49, 50])

    def test_stays_where_a_new_training_begins(self, tmp_path):
        model = network(0.1)
        snapshots = SnapshotEnsemble(tmp_path, partial="keep")
        scheduler = HyperparameterScheduler(
            learning_rate=S.CosineRestarts(0.01, 8, t_mul=1.0)
        )
        for _ in range(2):
            _, ensemble = recorded(
                model, tmp_path, [scheduler], epochs=1, snapshots=snapshots
            )
        assert [member.step for member in ensemble] == [8, 10, 18, 20]

    def test_is_not_kept_of_a_training_that_breaks_off(self, tmp_path):
        class Break(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                raise KeyboardInterrupt

        model = network()
        snapshots = SnapshotEnsemble(tmp_path, partial="keep")
        with pytest.raises(KeyboardInterrupt):
            references.fit(model, [snapshots, Break()])
        assert [m.step for m in ensembles.load(tmp_path, model)] == [7]

    def test_that_is_also_the_first_is_said_to_leave_nothing(self, tmp_path):
        model = network(S.CosineRestarts(0.01, 35, t_mul=1.0))
        with warns("first cycle did, after 35 steps"):
            references.fit(model, [SnapshotEnsemble(tmp_path)], 3)
        with pytest.raises(ValueError, match="names no member: no cycle has ended yet"):
            ensembles.load(tmp_path, model)


class TestRestoreLastCompleted:
    def test_gives_the_model_the_weights_of_the_end_of_the_phase(self, tmp_path):
        model, record = network(), Record()
        snapshots = SnapshotEnsemble(tmp_path, restore_last_completed=True)
        references.fit(model, [snapshots, record], 3)
        assert_equal(weights(model), record.after[21])
        before = record.after[30]
        assert np.abs(before[0] - weights(model)[0]).max() > 0.0

    def test_also_of_one_completed_before_the_training_went_on(self, tmp_path):
        model = network()
        after, _ = recorded(model, tmp_path, epochs=3)
        snapshots = SnapshotEnsemble(
            tmp_path, partial="keep", restore_last_completed=True
        )
        references.fit(model, [snapshots], 1)
        assert_equal(weights(model), after[21])
        # Which is not what was kept of the last cycle.
        assert [m.step for m in ensembles.load(tmp_path, model)] == [7, 21, 40]

    def test_says_so_if_there_is_none(self, tmp_path):
        model, record = network(S.CosineRestarts(0.01, 35)), Record()
        snapshots = SnapshotEnsemble(
            tmp_path, partial="keep", restore_last_completed=True
        )
        with warns("nothing to restore"):
            references.fit(model, [snapshots, record], 2)
        assert_equal(weights(model), record.after[20])


class TestTheFiles:
    def test_are_what_keras_loads(self, tmp_path):
        after, ensemble = recorded(network(), tmp_path)
        for member in ensemble:
            model = uncompiled(ensemble.model)
            model.load_weights(tmp_path / member.file)
            assert_equal(weights(model), after[member.step])

    def test_hold_what_keras_would_save(self, tmp_path):
        import h5py

        def content(path):
            found = {}

            def visit(name, item):
                found[name] = (
                    dict(item.attrs),
                    np.array(item).tolist() if isinstance(item, h5py.Dataset) else None,
                )

            with h5py.File(path) as file:
                file.visititems(visit)
            return found

        model = uncompiled(network())
        model.save_weights(tmp_path / "theirs.weights.h5")
        (tmp_path / "ours.weights.h5").write_bytes(copied_weights(model).content())
        ours = content(tmp_path / "ours.weights.h5")
        assert ours == content(tmp_path / "theirs.weights.h5")
        # Of a compiled model, they are without optimizer and metrics.
        model = network()
        (tmp_path / "ours.weights.h5").write_bytes(copied_weights(model).content())
        assert set(content(tmp_path / "ours.weights.h5")) == set(ours)

    def test_hold_large_arrays_that_are_not_copied(self, tmp_path):
        import h5py

        model = keras.Sequential(
            [keras.Input((150,)), keras.layers.Dense(200), keras.layers.Dense(101)]
        )
        copy = copied_weights(model)
        values = weights(model)
        for variable in model.variables:
            variable.assign(variable + 1.0)
        pieces = copy.pieces()
        assert max(map(len, pieces)) == 4 * 150 * 200
        assert pieces[0][:4] == b"\x89HDF"
        assert b"".join(pieces) == copy.content()
        path = tmp_path / "ours.weights.h5"
        path.write_bytes(copy.content())
        with h5py.File(path) as file:
            found = file["layers/dense/vars/0"]
            assert found.dtype == "float32"
            np.testing.assert_array_equal(found, values[0])
        model.load_weights(path)
        assert_equal(weights(model), values)

    def test_keep_sixteen_bits_as_they_are(self):
        keras.config.set_dtype_policy("bfloat16")
        try:
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        finally:
            keras.config.set_dtype_policy("float32")
        content = copied_weights(model).content()
        for value, variable in zip(
            loaded_weights(model, content), model.variables, strict=True
        ):
            own = keras.ops.convert_to_numpy(variable.value)
            assert value.dtype == own.dtype == "bfloat16"
            np.testing.assert_array_equal(value, own)

    def test_are_named_in_the_manifest(self, tmp_path):
        recorded(network(), tmp_path)
        found = manifest(tmp_path)
        files = [f"snapshot-000{number}.weights.h5" for number in (1, 2, 3)]
        assert [member["file"] for member in found["members"]] == files
        assert names(tmp_path) == ["manifest.json", *files]
        assert found["format"] == 1
        assert found["keras"] == keras.__version__
        assert found["keras_lrs"] == lrs.__version__

    def test_keep_last_keeps_the_last_and_their_numbers(self, tmp_path):
        snapshots = SnapshotEnsemble(tmp_path, keep_last=2, schedule=[3, 9, 11, 20])
        after, ensemble = recorded(
            network(0.01), tmp_path, snapshots=snapshots, epochs=2
        )
        assert_members(after, ensemble, [11, 20])
        files = [f"snapshot-000{number}.weights.h5" for number in (3, 4)]
        assert names(tmp_path) == ["manifest.json", *files]

    def test_metrics_are_of_the_epoch_or_of_the_training_so_far(self, tmp_path):
        class Logs(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                seen.append({name: float(value) for name, value in logs.items()})

        seen = []
        snapshots = SnapshotEnsemble(tmp_path, schedule=[7, 20])
        history = references.fit(
            network(0.01),
            [snapshots, Logs()],
            2,
            validation_data=(references.X, references.Y),
        ).history
        first, second = manifest(tmp_path)["members"]
        assert first["metrics"] == pytest.approx(seen[6])
        assert second["metrics"] == pytest.approx(
            {name: values[1] for name, values in history.items()}
        )
        assert set(second["metrics"]) == {"loss", "mae", "val_loss", "val_mae"}

    def test_verbose_says_what_was_written(self, tmp_path, capsys):
        recorded(network(), tmp_path, snapshots=SnapshotEnsemble(tmp_path, verbose=1))
        printed = capsys.readouterr().out
        assert "snapshot-0002.weights.h5 after 21 steps" in printed

    def test_the_optimizer_and_the_model_are_as_they_were(self, tmp_path):
        model = network()
        references.fit(model, [SnapshotEnsemble(tmp_path)])
        twin = network()  # Which seeds all generators again.
        references.fit(twin)
        assert_equal(weights(model), weights(twin))
        assert not any("keras_lrs" in name for name in vars(model))
        assert not isinstance(model.train_function, TrainFunction)

    def test_copies_take_no_part(self, tmp_path):
        snapshots = SnapshotEnsemble(tmp_path)
        recorded(network(), tmp_path, snapshots=snapshots)
        for copied in (
            copy.deepcopy(snapshots),
            pickle.loads(pickle.dumps(SnapshotEnsemble(tmp_path))),
        ):
            assert copied.run is None


class TestWriting:
    def test_happens_in_a_thread_that_gets_no_model(self, tmp_path, monkeypatch):
        seen = []
        add = store.Store.add

        def watched(self, record, content, keep_last=None):
            seen.append(threading.current_thread())
            add(self, record, content, keep_last)

        monkeypatch.setattr(store.Store, "add", watched)
        recorded(network(), tmp_path)
        assert len(seen) == 3
        assert all(thread is not threading.main_thread() for thread in seen)
        assert all("snapshots" in thread.name for thread in seen)

    def test_happens_in_training_where_no_thread_can_start(self, tmp_path, monkeypatch):
        def start(self):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        _, members = recorded(network(), tmp_path)
        assert len(members) == 3

    def test_training_goes_on_meanwhile(self, tmp_path, monkeypatch):
        may_write = threading.Event()
        add, counted = store.Store.add, []

        def waiting(self, record, content, keep_last=None):
            assert may_write.wait(60.0)
            add(self, record, content, keep_last)

        class Release(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 8:
                    counted.append(len(ensemble_files()))
                    may_write.set()

        def ensemble_files():
            return list(tmp_path.glob("snapshot*"))

        monkeypatch.setattr(store.Store, "add", waiting)
        snapshots = SnapshotEnsemble(tmp_path, schedule=[3, 6])
        after, ensemble = recorded(
            network(0.01), tmp_path, [Release()], epochs=1, snapshots=snapshots
        )
        # Two snapshots were taken and three more steps made before any was written.
        assert counted == [0]
        assert_members(after, ensemble, [3, 6])

    @pytest.mark.only("torch")
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
    @pytest.mark.filterwarnings("ignore:.*fork")
    @pytest.mark.parametrize("goes_on", [False, True])
    def test_is_left_to_the_parent_in_a_fork(self, tmp_path, monkeypatch, goes_on):
        may_write, add, children = threading.Event(), store.Store.add, []
        parent = os.getpid()

        def waiting(self, record, content, keep_last=None):
            assert os.getpid() != parent or may_write.wait(60.0)
            add(self, record, content, keep_last)

        class Fork(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 3 and not children:
                    children.append(os.fork())
                    if os.getpid() == parent:
                        children.append(os.waitpid(children[0], 0)[1])
                        may_write.set()
                        return
                    signal.alarm(60)  # It ends a child that waits for ever.
                    if not goes_on:
                        raise ValueError("by one run at a time")

        monkeypatch.setattr(store.Store, "add", waiting)
        snapshots = SnapshotEnsemble(tmp_path, schedule=[3, 6, 9])
        model, refused = network(0.01), False
        try:
            references.fit(model, [snapshots, Fork()], 1)
        except ValueError as error:
            refused = "by one run at a time" in str(error)
        finally:
            if os.getpid() != parent:
                os._exit(0 if refused else 1)
        assert children[1] == 0
        assert [member.step for member in ensembles.load(tmp_path, model)] == [3, 6, 9]

    @pytest.mark.parametrize("at_the_end", [False, True])
    def test_errors_surface_at_the_next_step_or_at_the_end(
        self, at_the_end, tmp_path, monkeypatch
    ):
        def full(self, record, content, keep_last=None):
            raise OSError(28, "No space left on device")

        class WaitForIt(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                for writing in snapshots._writing:
                    writing.exception()
                batches.append(batch)

        batches = []
        monkeypatch.setattr(store.Store, "add", full)
        ends = [20] if at_the_end else [7]
        snapshots = SnapshotEnsemble(tmp_path, schedule=ends)
        model = network(0.01)
        with pytest.raises(OSError, match="No space left"):
            references.fit(model, [snapshots, WaitForIt()], 2)
        assert len(batches) == (20 if at_the_end else 7)
        assert not any("keras_lrs" in name for name in vars(model))

    def test_errors_are_not_hidden_by_others(self, tmp_path, monkeypatch):
        def full(self, record, content, keep_last=None):
            raise OSError(28, "No space left on device")

        class Break(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 6:
                    raise KeyboardInterrupt

        monkeypatch.setattr(store.Store, "add", full)
        model = network(0.01)
        callbacks = [SnapshotEnsemble(tmp_path, schedule=[7]), Break()]
        references.fit(model, [callbacks[1]], 0)
        with (
            warns("A snapshot was not written.*No space"),
            pytest.raises(KeyboardInterrupt),
        ):
            references.fit(model, callbacks, 2, validation_data=None)

    def test_is_over_before_a_backup_is_made(self, tmp_path, monkeypatch):
        seen = []

        class Backup(keras.callbacks.BackupAndRestore):
            def on_epoch_end(self, epoch, logs=None):
                seen.append(len(manifest(tmp_path / "e")["members"]))
                super().on_epoch_end(epoch, logs)

        backup = Backup(tmp_path / "backup")
        snapshots = SnapshotEnsemble(tmp_path / "e", schedule=[10, 19, 20])
        references.fit(network(0.01), [backup, snapshots], 2)
        assert seen == [1, 3]


class TestResuming:
    @pytest.mark.slow
    def test_in_a_new_process(self, tmp_path):
        whole = processes.call(resumed.train, tmp_path / "whole", "whole")
        run("resumed", tmp_path / "parts", status=-signal.SIGKILL)
        second = processes.call(resumed.train, tmp_path / "parts", "second")
        assert whole["steps"] == second["steps"] == [7, 21, 49, 60]
        assert whole["numbers"] == second["numbers"] == [1, 2, 3, 4]
        assert whole["hashes"] == second["hashes"]

    def test_drops_members_later_than_the_step_it_was_set_back_to(self, tmp_path):
        model = network()
        after, _ = recorded(model, tmp_path, epochs=1)
        saved = tmp_path / "saved.keras"
        model.save(saved)
        recorded(model, tmp_path, epochs=4)
        assert names(tmp_path)[-1] == "snapshot-0003.weights.h5"
        model = keras.saving.load_model(saved)
        snapshots = SnapshotEnsemble(tmp_path)
        x, y = references.X[::-1].copy(), references.Y[::-1].copy()
        record = Record()
        model.fit(x, y, 4, 2, verbose=0, shuffle=False, callbacks=[snapshots, record])
        assert_members(after | record.after, ensembles.load(tmp_path, model), [7, 21])
        assert "snapshot-0003.weights.h5" not in names(tmp_path)

    def test_goes_on_without_the_optimizers_count(self, tmp_path):
        model = network(0.1)
        scheduler = HyperparameterScheduler(
            learning_rate=S.CosineRestarts(0.01, 8, t_mul=1.0)
        )
        recorded(model, tmp_path, [scheduler], epochs=1)
        model.save_weights(tmp_path / "all.weights.h5")
        fresh = network(0.1)
        fresh.set_weights(model.get_weights())
        references.fit(
            fresh, [scheduler, SnapshotEnsemble(tmp_path)], 2, initial_epoch=1
        )
        ensemble = ensembles.load(tmp_path, fresh)
        assert [member.step for member in ensemble] == [8, 16]

    def test_takes_a_snapshot_that_was_lost_with_the_process(self, tmp_path):
        model = network(0.01)
        snapshots = SnapshotEnsemble(tmp_path, schedule=[5, 10, 20])
        after, _ = recorded(model, tmp_path, epochs=1, snapshots=snapshots)
        found = store.Store(tmp_path)
        found.begin(found.shapes, lambda record: record.step < 10)
        references.fit(model, [snapshots], 2, initial_epoch=1)
        ensemble = ensembles.load(tmp_path, model)
        assert [member.step for member in ensemble] == [5, 10, 20]
        assert_equal(member_weights(ensemble[1], model), after[10])


def run(module, *arguments, status=0, **environment):
    """Runs a program beside this file; returns what it prints as JSON."""
    ours = {k: v for k, v in os.environ.items() if not k.endswith("_THREADS")}
    result = subprocess.run(
        [sys.executable, "-m", f"tests.ensembles.{module}", *map(str, arguments)],
        env={**ours, "KERAS_BACKEND": BACKEND, **environment},
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status, result.stderr[-3000:]
    return json.loads(result.stdout.rpartition("RESULT")[2] or "null")


@pytest.mark.every_backend
@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_a_mirrored_strategy():
    processes.call_with_devices("tests.ensembles.mirrored")


@pytest.mark.every_backend
@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="a distribution of JAX")
def test_a_data_parallel_distribution():
    flags = "--xla_force_host_platform_device_count=2"
    processes.call_with_devices("tests.ensembles.data_parallel", {"XLA_FLAGS": flags})


def test_only_the_chief_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot_ensemble, "is_chief", lambda model: False)
    model, record = network(), Record()
    snapshots = SnapshotEnsemble(
        tmp_path / "folder", partial="keep", restore_last_completed=True
    )
    references.fit(model, [snapshots, record], 3)
    assert not (tmp_path / "folder").exists()
    assert_equal(weights(model), record.after[21])
