"""A training that broke off and goes on ends as if it had not, to the last bit."""

import dataclasses
import errno
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs import schedules as S  # noqa: N812
from keras_lrs._storage import files, manifest
from keras_lrs._storage.checkpoints import Checkpoints
from keras_lrs.callbacks import (
    AveragedEvaluation,
    GradientNormRecorder,
    HyperparameterLogger,
    HyperparameterScheduler,
    PosthocAveraging,
    ReduceOnPlateau,
    ResumableTraining,
    SnapshotEnsemble,
    WeightAveraging,
)
from tests.programs import ROOT

BACKEND = keras.backend.backend()
EPOCHS, STEPS, BATCH = 4, 6, 4


class PowerCutError(Exception):
    pass


class PowerCut(keras.callbacks.Callback):
    """Breaks the training off at a batch, which counts from its beginning."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.epoch * STEPS + batch >= self.at:
            raise PowerCutError


def numbers():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(STEPS * BATCH - 1, 3)).astype("float32")
    return x, np.tanh(x @ generator.normal(size=(3, 1))).astype("float32")


def network(dropout=0.3):
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(5, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(1),
        ]
    )


def arrays():
    x, y = numbers()
    return {"x": x, "y": y, "batch_size": BATCH}


def callbacks():
    return [
        HyperparameterScheduler(
            learning_rate=S.CosineAnnealing(0.02),
            momentum=S.LinearDecay(0.95, None, 0.5),
        ),
        HyperparameterLogger(),
    ]


def train(
    directory=None,
    every="epoch",
    cut=None,
    data=arrays,
    more=callbacks,
    optimizer=None,
    epochs=EPOCHS,
    seed=7,
    arguments=None,
    resumable=None,
    **compiled,
):
    """A script that is called again; its model and the history it ends with."""
    keras.utils.set_random_seed(seed)
    model = network()
    if optimizer is None:
        optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
    else:
        optimizer = optimizer()
    model.compile(optimizer, "mse", metrics=["mae"], **compiled)
    found = list(more())
    if directory is not None:
        resumable = resumable or ResumableTraining(directory, every, verbose=0)
        found.insert(0, resumable)
    if cut is not None:
        found.append(PowerCut(cut))
    history = model.fit(
        **data(), epochs=epochs, verbose=0, callbacks=found, **(arguments or {})
    )
    return model, history


def interrupted(directory, every, *cuts, **options):
    """The same script, which is called until it gets to its end."""
    for cut in cuts:
        with pytest.raises(PowerCutError):
            train(directory, every, cut, **options)
    return train(directory, every, **options)


def assert_same(one, other):
    """Bit for bit: weights, statistics, seeds, the optimizer, and the whole history."""
    (model, history), (expected, expected_history) = one, other
    assert history.epoch == expected_history.epoch
    assert history.history == expected_history.history
    assert np.isfinite(history.history["loss"]).all()
    variables = zip(
        [*model.variables, *model.optimizer.variables],
        [*expected.variables, *expected.optimizer.variables],
        strict=True,
    )
    for variable, other in variables:
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(variable.value),
            keras.ops.convert_to_numpy(other.value),
            err_msg=variable.path,
        )


@pytest.fixture(scope="module")
def straight():
    return train()


# --- Where it breaks off --------------------------------------------------------------


@pytest.mark.parametrize("cuts", [(STEPS + 2,), (4, 2 * STEPS, 3 * STEPS + 5)])
@pytest.mark.parametrize("every", ["epoch", 1, 4])
def test_it_ends_the_same_wherever_it_breaks_off(tmp_path, straight, every, cuts):
    assert_same(interrupted(tmp_path / "backup", every, *cuts), straight)


def test_it_goes_on_from_the_exact_batch(tmp_path, capsys):
    with pytest.raises(PowerCutError):
        train(tmp_path, 4, 2 * STEPS + 5)
    resumable = ResumableTraining(tmp_path, 4)
    train(tmp_path, resumable=resumable)
    expected = "ResumableTraining: resuming in epoch 3, after 4 of its batches\n"
    assert capsys.readouterr().out == expected
    found = resumable.resumed_from
    assert (found.epoch, found.batch, found.iterations) == (2, 4, 2 * STEPS + 4)


def test_callbacks_are_told_of_no_batch_twice(tmp_path):
    seen = []

    class Batches(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(("begin", batch))

        def on_train_batch_end(self, batch, logs=None):
            seen.append(("end", batch))

    def more():
        return [*callbacks(), Batches()]

    interrupted(tmp_path, 4, 2 * STEPS + 4, more=more)
    once = [(what, batch) for batch in range(STEPS) for what in ("begin", "end")]
    # The fifth batch of the third epoch begins twice: then the power was cut.
    assert seen == [*once, *once, *once[:8], ("begin", 4), *once[8:], *once]


def test_the_logs_of_batches_have_the_rates_of_an_uninterrupted_run(tmp_path, straight):
    seen = []

    class Batches(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["learning_rate"])

    def more():
        scheduler = HyperparameterScheduler(
            learning_rate=S.CosineAnnealing(0.02),
            momentum=S.LinearDecay(0.95, None, 0.5),
            log="batch",
        )
        return [Batches(), scheduler, HyperparameterLogger()]

    assert_same(interrupted(tmp_path, 4, 2 * STEPS + 4, more=more), straight)
    progress = np.arange(EPOCHS * STEPS) / (EPOCHS * STEPS)
    expected = 0.02 * (1 + np.cos(np.pi * progress)) / 2
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_a_training_that_is_over_leaves_nothing(tmp_path):
    model, _ = train(tmp_path / "backup")
    assert list((tmp_path / "backup").iterdir()) == []
    # And the model begins where it is told to.
    history = model.fit(**arrays(), epochs=2, verbose=0)
    assert history.epoch == [0, 1]


def test_it_begins_anew_when_it_was_over(tmp_path, straight):
    train(tmp_path)
    assert_same(train(tmp_path), straight)


class TestOver:
    """Interrupted after the last epoch, or kept."""

    def resumable(self, directory):
        return ResumableTraining(directory, delete_at_end=False, verbose=0)

    def test_the_same_call_trains_no_more(self, tmp_path, straight):
        train(tmp_path, resumable=self.resumable(tmp_path))
        again = train(tmp_path, cut=0, resumable=self.resumable(tmp_path))
        assert_same(again, straight)

    def test_more_epochs_go_on(self, tmp_path):
        def constant():
            return [HyperparameterLogger()]

        train(tmp_path, resumable=self.resumable(tmp_path), more=constant, epochs=3)
        longer = train(tmp_path, resumable=self.resumable(tmp_path), more=constant)
        assert_same(longer, train(more=constant))

    def test_averages_are_put_in_all_the_same(self, tmp_path):
        class Cut(keras.callbacks.Callback):
            def on_train_end(self, logs=None):
                raise PowerCutError

        def more():
            return [WeightAveraging()]

        with pytest.raises(PowerCutError):
            train(tmp_path, more=lambda: [Cut(), *more()])
        assert_same(train(tmp_path, more=more, cut=0), train(more=more))


# --- What goes on ---------------------------------------------------------------------


def kinds(folder):
    """Lists of callbacks, and the optimizers that they need."""
    return {
        "averages": lambda: [
            *callbacks(),
            WeightAveraging(lrs.averages.UniformAverage()),
        ],
        "averages of its own": lambda: [PosthocAveraging(folder / "posthoc", every=2)],
        "snapshots": lambda: [
            HyperparameterScheduler(learning_rate=S.CosineRestarts(0.02, 5, t_mul=1.0)),
            SnapshotEnsemble(folder / "snapshots", partial="keep"),
        ],
        "plateau": lambda: [
            *callbacks(),
            ReduceOnPlateau("loss", 0.5, patience=1, min_delta=0.1),
        ],
        "plateau, best weights": lambda: [
            ReduceOnPlateau("loss", 0.5, 1, min_delta=1.0, restore_best_weights=True),
        ],
        "plateau, steps": lambda: [
            *callbacks(),
            ReduceOnPlateau("loss", 0.7, patience=1, min_delta=0.3, every=4),
        ],
        "norms": lambda: [GradientNormRecorder(2)],
        "Keras's": lambda: [
            keras.callbacks.EarlyStopping("loss", 2.0, 2, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=0.2),
            keras.callbacks.ModelCheckpoint(
                folder / "best.keras", "loss", save_best_only=True
            ),
        ],
    }


@pytest.mark.parametrize("kind", list(kinds(None)))
@pytest.mark.parametrize("every", ["epoch", 4])
def test_callbacks_go_on(tmp_path, kind, every):
    # The second has no callback that would be there for the first.
    straight = kinds(tmp_path / "straight")[kind]
    more = kinds(tmp_path / "broken")[kind]
    expected = train(more=straight)
    found = interrupted(tmp_path / "backup", every, 9, 17, more=more)
    assert_same(found, expected)
    if kind == "snapshots":
        stores = [
            lrs.ensembles.store.Store(tmp_path / name / "snapshots").records
            for name in ("straight", "broken")
        ]
        # The files hold the layers' names, which are new in every model.
        one, other = [
            [dataclasses.replace(record, sha256="") for record in records]
            for records in stores
        ]
        assert one == other
        assert [record.step for record in one] == [5, 10, 15, 20, 24]
    if kind == "averages of its own":
        paths = [
            sorted((tmp_path / name / "posthoc").iterdir())
            for name in ("straight", "broken")
        ]
        assert [p.name for p in paths[0]] == [p.name for p in paths[1]]
        contents = [[p.read_bytes() for p in each] for each in paths]
        assert contents[0] == contents[1]


def test_the_norms_of_all_steps_are_there(tmp_path):
    recorders = []

    def more():
        recorders.append(GradientNormRecorder())
        return recorders[-1:]

    train(more=more)
    interrupted(tmp_path, 4, 9, 17, more=more)
    straight, *_, last = recorders
    assert last.steps.tolist() == list(range(EPOCHS * STEPS))
    np.testing.assert_array_equal(last.norms, straight.norms)


def test_schedule_free_training_goes_on(tmp_path):
    options = {
        "optimizer": lambda: lrs.optimizers.ScheduleFree(
            keras.optimizers.Adam(0.05, beta_1=0.0)
        ),
        "more": lambda: [AveragedEvaluation()],
        "arguments": {"validation_data": numbers()},
    }
    assert_same(interrupted(tmp_path, 4, 9, 17, **options), train(**options))


def test_the_products_of_cycled_betas_go_on(tmp_path):
    options = {
        "optimizer": lambda: keras.optimizers.Adam(0.05),
        "more": lambda: [lrs.callbacks.OneCycleScheduler(0.1)],
    }
    assert_same(interrupted(tmp_path, 4, 9, 17, **options), train(**options))


def test_a_callback_of_the_users_goes_on_if_it_says_how(tmp_path):
    class Sum(keras.callbacks.Callback):
        total = 0.0

        def on_epoch_end(self, epoch, logs=None):
            self.total += logs["loss"]

        def get_state(self):
            return {"total": self.total, "array": np.full(2, self.total)}

        def set_state(self, state):
            self.total = state["total"]
            assert (state["array"] == self.total).all()

    found = []

    def more():
        found.append(Sum())
        return found[-1:]

    train(more=more)
    interrupted(tmp_path, 4, 9, 17, more=more)
    assert found[-1].total == found[0].total


class Beginning(keras.callbacks.Callback):
    """Acts at the beginning of every epoch, and counts them."""

    count = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.count += 1
        bias = self.model.trainable_variables[-1]
        bias.assign(bias + 0.01 * np.random.normal())  # noqa: NPY002

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


@pytest.mark.every_backend
@pytest.mark.parametrize("every", ["epoch", 4])
def test_what_callbacks_do_when_an_epoch_begins_is_done_once(tmp_path, every):
    begun, folder = [], tmp_path / "files"

    def more():
        begun.append(Beginning())
        return [
            begun[-1],
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
            keras.callbacks.ModelCheckpoint(
                folder / "{epoch}-{batch}.weights.h5", save_freq=4, save_weights_only=1
            ),
        ]

    expected = train(more=more)
    names = {path.name for path in folder.iterdir()}
    shutil.rmtree(folder)
    found = interrupted(tmp_path / "run", every, 2 * STEPS + 5, more=more)
    assert_same(found, expected)
    assert begun[-1].count == EPOCHS
    assert {path.name for path in folder.iterdir()} == names


def test_a_state_that_cannot_be_written_is_refused(tmp_path):
    class Set(keras.callbacks.Callback):
        def get_state(self):
            return {"seen": {1, 2}}

        def set_state(self, state):
            pass

    class Batches(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise AssertionError("It is known before the first step.")

    match = r"`Set.get_state\(\)` returned .* A state must be made of dicts"
    with pytest.raises(TypeError, match=match):
        train(tmp_path, more=lambda: [Set(), Batches()])


def test_a_state_that_comes_with_training_is_refused_when_it_is_saved(tmp_path):
    class Late(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.seen = {"epochs": {epoch}}

        def get_state(self):
            return self.seen

        def set_state(self, state):
            pass

    with pytest.raises(TypeError, match=r"`Late.get_state\(\)` returned"):
        train(tmp_path, more=lambda: [Late()])


class Sum(keras.callbacks.Callback):
    """Two of them differ by what they add."""

    def __init__(self, number):
        super().__init__()
        self.number, self.total = number, 0

    def on_epoch_end(self, epoch, logs=None):
        self.total += self.number

    def get_state(self):
        return [self.total, (self.number,)]

    def set_state(self, state):
        self.total, (number,) = state
        assert number == self.number


@pytest.mark.parametrize("order", ["other", "one more", "one less"])
def test_callbacks_of_one_class_are_told_apart_by_their_arguments(tmp_path, order):
    def stopping(patience):
        return keras.callbacks.EarlyStopping("loss", patience=patience)

    def first():
        return [Sum(1), stopping(50), Sum(20), stopping(60)]

    def then():
        found = [stopping(60), Sum(20), Sum(1), stopping(50)]
        found = [Sum(300), *found] if order == "one more" else found
        made[:] = found[:2] if order == "one less" else found
        return made

    made = []
    with pytest.raises(PowerCutError):
        train(tmp_path, cut=2 * STEPS + 1, more=first)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(tmp_path, more=then)
    totals = {one.number: one.total for one in made if isinstance(one, Sum)}
    expected = {1: 4, 20: 80, 300: 600}
    assert totals == {number: expected[number] for number in totals}
    told = [w for w in caught if "resumes without callbacks" in str(w.message)]
    assert len(told) == (order == "one less")


def test_a_callback_that_is_gone_is_named(tmp_path):
    with pytest.raises(PowerCutError):
        train(tmp_path, cut=9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(tmp_path, more=lambda: [ReduceOnPlateau("loss")])
    messages = [str(w.message) for w in caught]
    assert not any("went" in message for message in messages)
    with pytest.raises(PowerCutError):
        train(tmp_path, cut=9, more=lambda: [ReduceOnPlateau("loss")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(tmp_path)
    assert any(
        "callbacks of the interrupted run: `Reduce" in str(w.message) for w in caught
    )


def test_random_numbers_that_callbacks_draw_go_on(tmp_path):
    """Data that a callback shuffles with NumPy, in place, has the order that it had."""

    def run(directory, cut=None):
        x, y = numbers()

        class Order(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                np.random.shuffle(order)  # noqa: NPY002
                drawn.append(order.copy())

        class Shuffled(Batches):
            def __getitem__(self, index):
                rows = order[index * BATCH : (index + 1) * BATCH]
                return x[rows], y[rows]

        order, drawn = np.arange(len(x)), []
        options = {"more": lambda: [HyperparameterLogger(), Order()]}
        options["data"] = lambda: {"x": Shuffled(), "shuffle": False}
        # The order within an epoch depends on those before: begin each one anew.
        Order.on_epoch_end = lambda self, epoch, logs=None: order.sort()
        return train(directory, 4, cut, **options)

    with pytest.raises(PowerCutError):
        run(tmp_path, 2 * STEPS + 5)
    assert_same(run(tmp_path), run(None))


@pytest.mark.skipif(BACKEND != "torch", reason="modules of PyTorch")
def test_buffers_of_modules_go_on(tmp_path):
    import torch

    def run(directory, cut=None):
        keras.utils.set_random_seed(3)
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        layer = keras.layers.TorchModuleWrapper(module)
        model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse")
        more = [] if directory is None else [ResumableTraining(directory, 4, verbose=0)]
        more += [] if cut is None else [PowerCut(cut)]
        model.fit(**arrays(), epochs=EPOCHS, verbose=0, callbacks=more)
        return [buffer.clone() for buffer in module.buffers()], model.get_weights()

    with pytest.raises(PowerCutError):
        run(tmp_path, 2 * STEPS + 5)
    for ours, theirs in zip(run(tmp_path), run(None), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


# --- How it trains --------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_execution": 4},  # The last of an epoch has two steps.
        {
            "optimizer": lambda: keras.optimizers.Adam(
                0.05, gradient_accumulation_steps=4
            )
        },
        {"run_eagerly": True},
        {"optimizer": lambda: keras.optimizers.AdamW(S.LinearDecay(0.05, 24))},
        {"arguments": {"shuffle": False, "validation_split": 0.2}},
        {"arguments": {"class_weight": {0: 1.0, 1: 2.0}}},
    ],
    ids=[
        "executions",
        "accumulation",
        "eager",
        "own schedule",
        "split",
        "class weights",
    ],
)
def test_however_it_trains(tmp_path, options):
    if "steps_per_execution" in options and BACKEND == "torch":
        pytest.skip("PyTorch executes one step at a time")
    if "class_weight" in options.get("arguments", {}):
        x, y = numbers()
        options = {
            **options,
            "data": lambda: {"x": x, "y": (y > 0).astype("int32"), "batch_size": BATCH},
            "optimizer": lambda: keras.optimizers.Adam(0.05),
        }
    if "run_eagerly" not in options:
        options = {**options, "more": lambda: [HyperparameterLogger()]}
    assert_same(interrupted(tmp_path, 4, 9, 17, **options), train(**options))


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_in_other_precisions(tmp_path, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        options = {"optimizer": lambda: keras.optimizers.Adam(0.05)}
        options["more"] = lambda: [HyperparameterLogger(), WeightAveraging()]
        assert_same(interrupted(tmp_path, 4, 9, 17, **options), train(**options))
    finally:
        keras.config.set_dtype_policy(before)


# --- The data -------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        x, y = numbers()
        part = slice(index * BATCH, (index + 1) * BATCH)
        return x[part], y[part]


def tf_data(shuffled=False):
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices(numbers())
    if shuffled:
        dataset = dataset.shuffle(100)
    return {"x": dataset.batch(BATCH), "shuffle": False}


def data_loader():
    data = pytest.importorskip("torch.utils.data")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)  # Which Keras does only on PyTorch.
    dataset = data.TensorDataset(*map(torch.from_numpy, numbers()))
    return {"x": data.DataLoader(dataset, BATCH, shuffle=True), "shuffle": False}


def generator():
    def batches():
        while True:
            for index in range(STEPS):
                yield Batches()[index]

    return {"x": batches(), "steps_per_epoch": STEPS, "shuffle": False}


@pytest.mark.parametrize(
    "data",
    [
        lambda: {"x": Batches()},
        lambda: {"x": Batches(workers=2), "shuffle": False},
        tf_data,
        data_loader,
    ],
    ids=["PyDataset", "PyDataset, threads", "tf.data", "DataLoader"],
)
def test_data_that_is_read_again(tmp_path, data):
    assert_same(interrupted(tmp_path, 4, 9, 17, data=data), train(data=data))


class Random(Batches):
    """Altered by random numbers that nobody can put back."""

    numbers = random.SystemRandom()

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + np.float32(self.numbers.random()), y


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (generator, "is read endlessly with `steps_per_epoch`"),
        (lambda: {"x": Batches(workers=2)}, "is shuffled by threads"),
        (lambda: {"x": Random()}, "is ordered or altered differently"),
        (lambda: tf_data(shuffled=True), "is ordered or altered differently"),
    ],
    ids=["generator", "PyDataset, threads", "PyDataset, random", "tf.data"],
)
def test_data_that_cannot_be_read_again_is_saved_at_the_ends_of_epochs(
    tmp_path, data, reason
):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(PowerCutError):
            train(tmp_path, 4, 2 * STEPS + 5, data=data)
        resumable = ResumableTraining(tmp_path, 4, verbose=0)
        model, history = train(tmp_path, resumable=resumable, data=data)
    told = [str(w.message) for w in caught if reason in str(w.message)]
    assert told
    # It would not help.
    assert "set_random_seed" not in "".join(told)
    assert (resumable.resumed_from.epoch, resumable.resumed_from.batch) == (2, 0)
    assert history.epoch == [0, 1, 2, 3]
    assert int(model.optimizer.iterations) == EPOCHS * STEPS


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others ask NumPy or PyTorch")
def test_shuffling_on_tensorflow_needs_a_seed(tmp_path):
    import tensorflow as tf

    model = network()
    model.compile("sgd", "mse")
    tf.random.set_seed(None)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            callback = ResumableTraining(tmp_path, 4)
            model.fit(**arrays(), verbose=0, callbacks=[callback])
    finally:
        tf.random.set_seed(0)
    cure = r"ordered or altered.*unless you call `keras\.utils\.set_random_seed"
    assert any(re.search(cure, str(w.message)) for w in caught)


# --- What is on the disk --------------------------------------------------------------


def test_two_generations_are_kept(tmp_path):
    with pytest.raises(PowerCutError):
        train(tmp_path, 4, 3 * STEPS)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "generation-00000003.npz",
        "generation-00000004.npz",
        "manifest.json",
    ]


def test_from_a_damaged_generation_it_goes_back_to_the_one_before(tmp_path, straight):
    with pytest.raises(PowerCutError):
        train(tmp_path, 4, 3 * STEPS)
    newest = tmp_path / "generation-00000004.npz"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    resumable = ResumableTraining(tmp_path, 4, verbose=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = train(tmp_path, resumable=resumable)
    assert any("04.npz` is damaged" in str(w.message) for w in caught)
    assert resumable.resumed_from.iterations == 2 * STEPS
    assert_same(found, straight)


def test_damage_that_leaves_nothing_is_named(tmp_path):
    with pytest.raises(PowerCutError):
        train(tmp_path, 4, 3 * STEPS)
    for path in tmp_path.glob("*.npz"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"04.npz` is damaged.*03.npz` is damaged"):
        train(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"manifest.json` is damaged"):
        train(tmp_path)


def test_a_full_disk_leaves_the_generation_before(tmp_path, straight, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    def more():
        class Fill(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 2:
                    patched.setattr(files, "write_atomically", full)

        return [*callbacks(), Fill()]

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        train(tmp_path, more=more)
    resumable = ResumableTraining(tmp_path, verbose=0)
    assert_same(train(tmp_path, resumable=resumable), straight)
    assert resumable.resumed_from.epoch == 2


def test_a_later_format_is_refused(tmp_path):
    with pytest.raises(PowerCutError):
        train(tmp_path, cut=9)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_bytes())
    del content["sha256"]
    manifest.write(path, {**content, "format": manifest.FORMAT + 1})
    with pytest.raises(ValueError, match="has format 2, written by keras_lrs"):
        train(tmp_path)


# --- What is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"directory": 3}, TypeError, "`directory` must be a path. Received: direct"),
        ({"every": 0}, ValueError, "`every` must be > 0. Received: every=0"),
        ({"every": "step"}, ValueError, "`every` must be 'epoch' or a number of steps"),
        ({"every": 1.5}, ValueError, "`every` must be a whole number"),
        ({"every": np.array([1, 2])}, TypeError, "`every` must be a number"),
        ({"delete_at_end": 1}, TypeError, "`delete_at_end` must be True or False"),
        ({"verbose": "auto"}, TypeError, "`verbose` must be a number"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ResumableTraining(**{"directory": "d"} | arguments)


def test_options_are_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        ResumableTraining("d", "epoch", True)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: keras.callbacks.BackupAndRestore("d"),
            "together with `BackupAndRestore`",
        ),
        (lambda: ResumableTraining("d"), "together with `ResumableTraining`"),
        (
            lambda: keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            "together with `SwapEMAWeights`. Use `WeightAveraging`",
        ),
    ],
)
def test_other_backups_are_refused(tmp_path, other, message):
    options = {"optimizer": lambda: keras.optimizers.SGD(0.1, use_ema=True)}
    with pytest.raises(ValueError, match=message):
        train(tmp_path, more=lambda: [other()], **options)


def test_another_training_is_refused(tmp_path):
    with pytest.raises(PowerCutError):
        train(tmp_path, 4, 9)
    with pytest.raises(ValueError, match="of this model and optimizer, or none"):
        train(tmp_path, optimizer=lambda: keras.optimizers.RMSprop(momentum=0.9))
    x, y = numbers()
    with pytest.raises(ValueError, match=r"same number of steps per epoch.* of 6"):
        train(tmp_path, data=lambda: {"x": x, "y": y, "batch_size": 8})
    with pytest.raises(ValueError, match="of a batch within one, and the data is read"):
        train(tmp_path, data=generator)


def in_loss_scaling():
    inner = keras.optimizers.SGD(0.02, momentum=0.9)
    return keras.optimizers.LossScaleOptimizer(inner, initial_scale=1.0)


@pytest.mark.parametrize("optimizer", [None, in_loss_scaling])
@pytest.mark.parametrize("batch", [2, 8])
def test_at_an_epochs_end_it_goes_on_with_other_steps_per_epoch(
    tmp_path, batch, optimizer
):
    x, y = numbers()
    with pytest.raises(PowerCutError):
        train(tmp_path, cut=2 * STEPS, optimizer=optimizer)
    model, history = train(
        tmp_path,
        data=lambda: {"x": x, "y": y, "batch_size": batch},
        optimizer=optimizer,
    )
    steps = STEPS * BATCH // batch
    assert history.epoch == [0, 1, 2, 3]
    counted = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    assert int(counted.iterations) == 2 * STEPS + 2 * steps
    # The last step of an epoch, of those that it had.
    used = [
        ((epoch + 1) * n - 1) / (EPOCHS * n)
        for epoch, n in enumerate([STEPS, STEPS, steps, steps])
    ]
    expected = 0.01 * (1.0 + np.cos(np.pi * np.array(used)))
    np.testing.assert_allclose(history.history["learning_rate"], expected, rtol=1e-4)


@pytest.mark.parametrize("other", [["mse"], [], ["mae", "mse"]])
def test_other_metrics_are_refused_within_an_epoch(tmp_path, other):
    def metrics(names):
        return lambda: [Compiled(names)]

    class Compiled(keras.callbacks.Callback):
        def __init__(self, names):
            super().__init__()
            self.names = names

        def set_model(self, model):
            super().set_model(model)
            model.compile(model.optimizer, "mse", metrics=self.names)

    with pytest.raises(PowerCutError):
        train(tmp_path, 4, STEPS + 5, more=metrics(["mae"]))
    match = "must be compiled with the metrics of .*'mean_absolute_error/total'"
    with pytest.raises(ValueError, match=match):
        train(tmp_path, 4, more=metrics(other))


@pytest.mark.skipif(BACKEND == "torch", reason="executes one step at a time")
@pytest.mark.every_backend
def test_executions_that_a_checkpoint_cuts_are_refused(tmp_path):
    with pytest.raises(PowerCutError):
        train(tmp_path, 4, STEPS + 5)
    with pytest.raises(ValueError, match=r"whole executions of 3 .* after 2 steps"):
        train(tmp_path, 4, steps_per_execution=3)
    model, _ = train(tmp_path, 4, steps_per_execution=2)
    assert model.optimizer.iterations == EPOCHS * STEPS


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_that_became_shorter_is_refused(tmp_path):
    tf = pytest.importorskip("tensorflow")

    def batches(count):
        # Of unknown length.
        dataset = tf.data.Dataset.from_tensor_slices(numbers()).batch(BATCH)
        dataset = dataset.take(count).filter(lambda x, y: True)
        return lambda: {"x": dataset, "shuffle": False}

    options = {"more": lambda: [HyperparameterLogger()]}
    with pytest.raises(PowerCutError):
        train(tmp_path, 4, 5, data=batches(STEPS), **options)
    with pytest.raises(ValueError, match="The data ended 2 batches before the"):
        train(tmp_path, data=batches(2), **options)
    found = train(tmp_path, 4, data=batches(STEPS), **options)
    assert_same(found, train(data=batches(STEPS), **options))


ADAPTED = {
    "Normalization": lambda: keras.layers.Normalization(),
    "Discretization": lambda: keras.layers.Discretization(num_bins=4),
    "StringLookup": lambda: keras.layers.StringLookup(
        max_tokens=6, output_mode="multi_hot", pad_to_max_tokens=True
    ),
}


@pytest.mark.every_backend
@pytest.mark.parametrize("kind", ADAPTED)
def test_layers_know_what_they_had_adapted_to(kind, tmp_path):
    if kind == "StringLookup" and BACKEND != "tensorflow":
        pytest.skip("strings are in the models of TensorFlow only")
    if kind == "Discretization":
        pytest.importorskip("tensorflow", reason="Keras adapts it with TensorFlow")
    x, y = numbers()
    strings = kind == "StringLookup"
    if strings:
        tf = pytest.importorskip("tensorflow")
        x = tf.constant([list(f"{abs(row[0]):.2f}"[-3:]) for row in x])

    def run(adapted_to):
        keras.utils.set_random_seed(0)
        layer = ADAPTED[kind]()
        if adapted_to is not None:
            layer.adapt(adapted_to)
        inputs = keras.Input((3,), dtype="string" if strings else "float32")
        model = keras.Sequential([inputs, layer, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        resumable = ResumableTraining(tmp_path, delete_at_end=False, verbose=0)
        model.fit(x, y, BATCH, 2, verbose=0, callbacks=[resumable])
        return model.predict(x, verbose=0)

    expected = run(x)
    # Another call of the script, in which they are not adapted, or to something else.
    found = run(np.arange(9.0) if kind == "Discretization" else None)
    np.testing.assert_array_equal(found, expected)


class Words(keras.layers.Layer):
    """A layer with a file of its own, as Keras's lookups have one."""

    def call(self, x):
        return x

    def save_assets(self, folder):
        pathlib.Path(folder, "words.txt").write_text("a")

    def load_assets(self, folder):
        assert [path.name for path in pathlib.Path(folder).iterdir()] == ["words.txt"]


@pytest.mark.parametrize("change", ["a path", "a parent", "random", "callbacks"])
def test_what_another_program_wrote_is_refused_and_writes_no_file(tmp_path, change):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "run"
    x, y = numbers()

    def run(*others):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((3,)), Words(), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile("sgd", "mse")
        backup = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
        resumable = ResumableTraining(folder, verbose=0)
        every = [resumable, backup, *others]
        model.fit(x, y, BATCH, 3, verbose=0, callbacks=every)

    with pytest.raises(PowerCutError):
        run(PowerCut(STEPS))
    stored = Checkpoints(folder)
    newest, state = stored.newest()
    given = np.frombuffer(b"b", np.uint8)
    if change == "random":
        state["random"] = {"python": "x"}
    elif change == "callbacks":
        (checkpoint,) = [
            found for name, found in state["callbacks"] if name == "ModelCheckpoint"
        ]
        checkpoint["filepath"] = str(elsewhere)
    else:
        name = str(elsewhere) if change == "a path" else "../elsewhere"
        state["adapted"][0][f"file {name}"] = given
    stored.save(newest, state)
    stored.close()
    with pytest.raises(ValueError, match=r"2.npz` cannot be restored"):
        run()
    assert not elsewhere.exists()


# --- Keras's own ----------------------------------------------------------------------


def test_keras_backups_within_an_epoch_repeat_it_with_the_rates_that_it_had(tmp_path):
    """What `BackupAndRestore(save_freq=)` repeats: the epoch, from its beginning."""
    schedule = S.LinearDecay(1.0)
    rates = []

    class Rates(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    def more():
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=4)
        return [HyperparameterScheduler(learning_rate=schedule), backup, Rates()]

    with pytest.raises(PowerCutError):
        train(cut=2 * STEPS + 5, more=more)
    assert len(rates) == 2 * STEPS + 5
    rates.clear()
    model, _ = train(more=more)
    expected = schedule.bind(EPOCHS * STEPS).curve(EPOCHS * STEPS)
    backed_up = 2 * STEPS + 4 - (2 * STEPS + 4) % 4  # After batches of four.
    epoch = backed_up // STEPS
    np.testing.assert_allclose(rates, expected[epoch * STEPS :], rtol=1e-6)
    assert int(model.optimizer.iterations) == backed_up + len(rates)


# --- Killed ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.only("torch")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forks")
@pytest.mark.parametrize("mode", ["epoch", "steps"])
def test_it_survives_being_killed(tmp_path, mode):
    """`benchmarks/reliability.py` kills it more often: docs/reliability.md."""
    program = ROOT / "benchmarks" / "interrupted.py"
    result = subprocess.run(
        [sys.executable, program, mode, tmp_path, "2", "5"],
        env={**os.environ, "KERAS_BACKEND": BACKEND, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.split("REPORT")[1])
    assert report["kills"] == 2
    assert report["differences"] == []
