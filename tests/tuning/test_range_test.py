"""The range test sees what each batch loses, and leaves nothing behind."""

import random
import signal
import sys

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs._keras.optimizers import leaves, rate_source
from keras_lrs._keras.training_state import TrainingState
from keras_lrs.tuning import RangeTest, range_test
from tests.callbacks import references, test_paces
from tests.ramp import ramp

S = lrs.schedules
BACKEND = keras.backend.backend()
X, Y = references.X, references.Y
METHODS = ["valley", "steepest", "minimum", "slide"]

SETTINGS = [{}, {"run_eagerly": True}]
if BACKEND != "torch":  # Which is always eager, and takes one step at a time.
    SETTINGS += [{"steps_per_execution": 4}, {"jit_compile": False}]


def network(optimizer=None, built=True, **compile_arguments):
    """A network with statistics and seeds of its own."""
    layers = [keras.Input((3,))] if built else []
    model = keras.Sequential(
        [
            *layers,
            keras.layers.Dense(5, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1),
        ]
    )
    optimizer = keras.optimizers.Adam(0.01) if optimizer is None else optimizer
    model.compile(optimizer, "mse", metrics=["mae"], **compile_arguments)
    return model


def run_on(model, x=X, y=Y, **arguments):
    """A short range test."""
    arguments = {"num_steps": 12, "batch_size": 8, "verbose": 0, **arguments}
    return range_test(model, x, y, **arguments)


# --- The curve ------------------------------------------------------------------------

# At these rates SGD neither stands still nor diverges, but batches of 4 differ much.
LIMITS = {"min_learning_rate": 1e-3, "max_learning_rate": 0.2, "stop_factor": 1e9}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("source", ["float", "schedule", "keras schedule"])
def test_each_loss_is_that_of_its_own_batch(settings, source):
    rate = {
        "float": 0.5,
        "schedule": S.LinearDecay(0.5, 7),
        "keras schedule": keras.optimizers.schedules.CosineDecay(0.5, 7),
    }[source]
    model = references.linear_model(keras.optimizers.SGD(rate), **settings)
    # 25 batches: the ten of the data, two and a half times.
    test = range_test(
        model,
        X,
        Y,
        **LIMITS,
        num_steps=25,
        batch_size=4,
        shuffle=False,
        verbose=0,
    )
    rates = 1e-3 * 200.0 ** (np.arange(25) / 24)
    np.testing.assert_allclose(test.learning_rates, rates, rtol=1e-12)
    np.testing.assert_allclose(test.losses, references.losses_of_sgd(rates), rtol=2e-5)
    assert not test.diverged


@pytest.mark.parametrize("shape", ["exponential", "linear"])
def test_the_compiled_step_uses_both_ends(shape):
    # Each update of a ramp adds the rate to its position, and its loss is minus that.
    model = ramp(keras.optimizers.SGD(0.1))
    x = np.zeros((4, 1), "float32")
    test = range_test(
        model,
        x,
        x,
        min_learning_rate=0.25,
        max_learning_rate=4.0,
        num_steps=6,
        shape=shape,
        batch_size=1,
        verbose=0,
        stop_factor=1e9,
    )
    expected = np.geomspace(0.25, 4, 6) if shape == "exponential" else None
    expected = np.linspace(0.25, 4, 6) if expected is None else expected
    np.testing.assert_allclose(test.learning_rates, expected, rtol=1e-12)
    assert test.learning_rates[[0, -1]].tolist() == [0.25, 4.0]
    np.testing.assert_allclose(-np.diff(test.losses), expected[:-1], rtol=1e-6)


def test_one_step_more_has_the_grid_of_fastai():
    model = references.linear_model(keras.optimizers.SGD(0.1))
    lowest, highest = 1e-5, 1e-3
    bounds = {"min_learning_rate": lowest, "max_learning_rate": highest}
    test = range_test(model, X, Y, num_steps=21, batch_size=4, verbose=0, **bounds)
    theirs = [lowest * (highest / lowest) ** (step / 20) for step in range(20)]
    np.testing.assert_allclose(test.learning_rates[:20], theirs, rtol=1e-6)
    np.testing.assert_allclose(test.learning_rates[20], highest, rtol=1e-6)


def test_the_default_is_what_the_guide_recommends():
    test = curve(typical())
    assert test.suggestion() == test.suggestion("minimum") != test.suggestion("valley")


def test_the_last_rate_is_used_as_well(monkeypatch):
    model = ramp(keras.optimizers.SGD(0.1))
    restore, positions = TrainingState.restore, []

    def look_first(state):
        positions.append(float(keras.ops.convert_to_numpy(model.position)))
        restore(state)

    monkeypatch.setattr(TrainingState, "restore", look_first)
    x = np.zeros((6, 1), "float32")
    test = range_test(
        model,
        x,
        x,
        min_learning_rate=0.5,
        max_learning_rate=2.0,
        num_steps=6,
        shape="linear",
        batch_size=1,
        verbose=0,
        stop_factor=1e9,
    )
    assert positions == pytest.approx([test.learning_rates.sum()], rel=1e-6)
    assert float(keras.ops.convert_to_numpy(model.position)) == 0.0


def test_the_smoothed_curve_has_no_bias():
    test = RangeTest(np.geomspace(0.1, 1, 4), np.array([2.0, 4.0, 1.0, 3.0]), 4, 0.9)
    average, expected = 0.0, []
    for k, loss in enumerate(test.losses, start=1):
        average += 0.1 * (loss - average)
        expected.append(average / (1 - 0.9**k))
    np.testing.assert_allclose(test.smoothed, expected, rtol=1e-12)
    constant = RangeTest(np.ones(50), np.full(50, 2.5), 50, 0.98)
    np.testing.assert_allclose(constant.smoothed, 2.5, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_quadratic_diverges_beyond_its_stability_limit(momentum):
    curvature = 5.0

    class Quadratic(keras.Model):
        def __init__(self):
            super().__init__()
            self.w = self.add_weight(shape=(1,), initializer="ones")

        def call(self, inputs):
            return keras.ops.multiply(inputs, 0.0) + self.w

    model = Quadratic()
    model.compile(
        keras.optimizers.SGD(0.1, momentum=momentum),
        lambda y, w: 0.5 * curvature * keras.ops.mean(keras.ops.square(w)),
    )
    x = np.zeros((10, 1), "float32")
    test = range_test(model, x, x, min_learning_rate=1e-4, batch_size=1, verbose=0)
    limit = 2.0 * (1.0 + momentum) / curvature
    assert test.diverged
    assert limit < test.learning_rates[-1] < 10.0
    for method in ("valley", "steepest", "minimum"):
        assert 1e-3 < test.suggestion(method) < limit
    # Where the loss was lowest, the iteration was stable or had just ceased to be.
    assert test.learning_rates[np.argmin(test.losses)] < 2.0 * limit


def test_a_loss_that_is_not_a_number_ends_it():
    model = references.linear_model(keras.optimizers.SGD(0.1))
    y = Y.copy()
    y[20:] = np.nan  # The sixth batch of four.
    test = range_test(
        model, X, y, max_learning_rate=1e-3, batch_size=4, shuffle=False, verbose=0
    )
    assert test.diverged
    assert len(test.losses) == 6
    assert np.isnan(test.losses[-1])


def test_a_negative_loss_may_fall():
    # Its lowest value times 4 would be passed at once.
    x = np.zeros((8, 1), "float32")
    arguments = {"num_steps": 8, "batch_size": 1, "verbose": 0}
    test = range_test(ramp(keras.optimizers.SGD(0.1)), x, x, **arguments)
    assert len(test.losses) == 8
    assert test.losses[-1] < 0.0
    assert not test.diverged


@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize("arguments", [{}, {"steps_per_epoch": 2}], ids=str)
def test_a_generator_that_ends_ends_the_test(arguments):
    def batches():
        yield from (Batches()[index] for index in range(3))

    model = references.linear_model(keras.optimizers.SGD(0.1))
    arguments = {"num_steps": 9, "shuffle": False, "verbose": 0, **arguments}
    test = range_test(model, batches(), **arguments)
    np.testing.assert_allclose(
        test.losses, references.losses_of_sgd(test.learning_rates), 1e-5
    )
    assert len(test.losses) == 3


def test_a_step_that_is_skipped_is_made_up_for():
    # The first gradients overflow: the scale is halved until they do not.
    model = references.linear_model(
        keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1), initial_scale=2.0**127
        )
    )
    test = range_test(
        model,
        X,
        Y,
        **LIMITS,
        num_steps=15,
        batch_size=4,
        shuffle=False,
        verbose=0,
    )
    rates = 1e-3 * 200.0 ** (np.arange(15) / 14)
    np.testing.assert_allclose(test.learning_rates, rates, rtol=1e-12)
    assert model.optimizer.initial_scale == 2.0**127
    assert int(model.optimizer.inner_optimizer.iterations) == 0


# --- What it accepts ------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        part = slice(4 * index, 4 * index + 4)
        return X[part], Y[part]


def endless():
    while True:
        for index in range(10):
            yield Batches()[index]


def tensorflow_dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


def torch_loader():
    import torch

    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch.utils.data.DataLoader(data, batch_size=4)


INPUTS = {"PyDataset": Batches, "generator": endless}
if BACKEND == "tensorflow":
    INPUTS["tf.data"] = tensorflow_dataset
if BACKEND == "torch":
    INPUTS["DataLoader"] = torch_loader


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_input_gives_the_same_losses(kind):
    model = references.linear_model(keras.optimizers.SGD(0.1))
    arguments = {"num_steps": 12, "shuffle": False, "verbose": 0}
    test = range_test(model, INPUTS[kind](), **LIMITS, **arguments)
    expected = references.losses_of_sgd(1e-3 * 200.0 ** (np.arange(12) / 11))
    np.testing.assert_allclose(test.losses, expected, rtol=2e-5)


def test_several_inputs_in_a_dictionary():
    first, second = keras.Input((3,), name="first"), keras.Input((3,), name="second")
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Model({"first": first, "second": second}, dense(first + second))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    test = range_test(
        model,
        {"first": X / 2, "second": X / 2},
        Y,
        **LIMITS,
        num_steps=12,
        batch_size=4,
        shuffle=False,
        verbose=0,
    )
    expected = references.losses_of_sgd(1e-3 * 200.0 ** (np.arange(12) / 11))
    np.testing.assert_allclose(test.losses, expected, rtol=2e-5)


@pytest.mark.parametrize(
    "name", ["validation_steps", "validation_batch_size", "validation_freq"]
)
def test_what_would_be_ignored_is_refused(name):
    model = references.linear_model(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match=f"`{name}` must "):
        range_test(model, X, Y, **{name: 2})


def test_a_model_without_trainable_weights_is_refused():
    model = references.linear_model(keras.optimizers.SGD(0.1))
    model.trainable = False
    with pytest.raises(ValueError, match="`model` must have weights to train: all of"):
        range_test(model, X, Y, verbose=0)


def test_sample_weights():
    # The rates are too small to move anything: all losses are those of the zeros.
    model = references.linear_model(keras.optimizers.SGD(0.1))
    weights = np.linspace(0.5, 2.0, 40).astype("float32")
    test = range_test(
        model,
        X,
        Y,
        sample_weight=weights,
        stop_factor=1e9,
        min_learning_rate=1e-12,
        max_learning_rate=1e-11,
        num_steps=10,
        batch_size=4,
        shuffle=False,
        verbose=0,
    )
    squares = (Y[:, 0] ** 2).reshape(10, 4)
    by_batch = (squares * weights.reshape(10, 4)).sum(1) / 4
    np.testing.assert_allclose(test.losses, by_batch, rtol=1e-5)


def test_class_weights():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="zeros")]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    labels = (Y[:, 0] > 0).astype("int32")
    test = range_test(
        model,
        X,
        labels,
        class_weight={0: 1.0, 1: 3.0},
        stop_factor=1e9,
        min_learning_rate=1e-12,
        max_learning_rate=1e-11,
        num_steps=10,
        batch_size=4,
        shuffle=False,
        verbose=0,
    )
    by_batch = np.log(2.0) * np.where(labels, 3.0, 1.0).reshape(10, 4).mean(1)
    np.testing.assert_allclose(test.losses, by_batch, rtol=1e-5)


def test_a_step_of_ones_own():
    class Custom(keras.Sequential):
        if BACKEND == "tensorflow":

            def train_step(self, data):
                return {**super().train_step(data), "other": 1.0}

        else:

            def train_step(self, *arguments):
                return super().train_step(*arguments)

    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = Custom([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    arguments = {"num_steps": 12, "batch_size": 4, "shuffle": False, "verbose": 0}
    test = range_test(model, X, Y, **LIMITS, **arguments)
    expected = references.losses_of_sgd(1e-3 * 200.0 ** (np.arange(12) / 11))
    np.testing.assert_allclose(test.losses, expected, rtol=2e-5)
    assert "train_step" not in vars(model)


def test_gradient_accumulation_counts_micro_batches():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
    test = run_on(references.linear_model(optimizer), max_learning_rate=1e-3)
    assert len(test.losses) == 12
    assert int(optimizer._iterations) == 0


@pytest.mark.every_backend
def test_a_step_that_updates_once_in_four_batches_has_every_rate():
    model = test_paces.patient(wait=4)
    test = run_on(model, **LIMITS, num_steps=12, batch_size=4, shuffle=False)
    rates = 1e-3 * 200.0 ** (np.arange(12) / 11)
    np.testing.assert_allclose(test.learning_rates, rates, rtol=1e-12)
    w, expected = np.zeros((3, 1)), []
    for update, rate in enumerate(rates):
        first = (4 * update + 3) * 4 % len(X)
        x, y = X[first : first + 4], Y[first : first + 4]
        expected.append(np.mean((x @ w - y) ** 2))
        w = w - rate * references.gradient(w, 4 * update + 3)
    np.testing.assert_allclose(test.losses, expected, rtol=1e-4)


@pytest.mark.every_backend
def test_more_batches_for_an_update_than_an_epoch_has_are_refused():
    model = test_paces.patient(wait=4)
    message = "in the first epoch|more batches than its first epoch has"
    with pytest.raises(RuntimeError, match=message):
        run_on(model, batch_size=40)


@pytest.mark.only("torch")
def test_a_step_that_stops_updating_is_refused(monkeypatch):
    model = test_paces.patient()
    monkeypatch.setattr(model, "is_due", lambda seen: seen == 3)
    with pytest.raises(
        ValueError, match="no update in 1000 batches in a row, after 1 u"
    ):
        run_on(model, num_steps=2, batch_size=4)


@pytest.mark.skipif(BACKEND == "jax", reason="its `train_step` takes a state")
@pytest.mark.only("torch")
def test_a_step_that_updates_twice_in_a_batch_has_a_metric_at_every_point():
    class Twice(keras.Sequential):
        def train_step(self, data):
            super().train_step(data)
            return super().train_step(data)

    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = Twice([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    looks = {"validation_data": (X, Y), "validation_points": 4}
    test = run_on(model, **looks, num_steps=16, max_learning_rate=1e-3)
    assert len(test.losses) == 8
    assert len(test.metrics) == 4


# --- What it leaves behind ------------------------------------------------------------


def random_numbers():
    """What all global generators are going to draw."""
    generator = keras.src.random.seed_generator.global_seed_generator()  # May draw.
    legacy = np.random.get_state()  # noqa: NPY002 - What is global is legacy.
    found = [random.getstate(), legacy[1].tobytes(), legacy[2:]]
    if "torch" in sys.modules:
        found.append(sys.modules["torch"].get_rng_state().numpy().tobytes())
    if BACKEND == "tensorflow":
        from tensorflow.python.eager import context

        seeds = getattr(context.context(), "_rng", None)
        found.append(seeds and seeds.getstate())
    return [*found, array(generator.state)]


def array(variable):
    """The bits of a variable."""
    value = np.array(keras.ops.convert_to_numpy(variable.value))
    return str(value.dtype), value.shape, value.tobytes()


def everything(model):
    """All that a range test could change."""
    variables = [*model.variables, *model.metrics_variables]
    variables += model.optimizer.variables
    attributes = {name: vars(model).get(name) for name in vars(model)}
    return {
        "variables": [array(variable) for variable in variables],
        "random": random_numbers(),
        "rate": rate_source(model.optimizer),
        "optimizer": sorted(vars(leaves(model.optimizer)[0])),
        "attributes": sorted(attributes),
        "history": attributes.get("history"),
        "train_function": attributes["train_function"],
        "stop_training": attributes["stop_training"],
        "steps_per_execution": model.steps_per_execution,
    }


def assert_same(before, after):
    for name, value in before.items():
        if name in ("history", "train_function", "rate"):
            assert after[name] is value, name
        else:
            assert after[name] == value, name


OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "with a schedule": lambda: keras.optimizers.Adam(S.LinearDecay(0.1, 50)),
    "with Keras's schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    ),
    "averaging": lambda: keras.optimizers.AdamW(
        0.01, use_ema=True, ema_overwrite_frequency=3
    ),
    "accumulating": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=5),
    "scaling the loss": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, momentum=0.9), dynamic_growth_steps=3
    ),
}


class Stops:
    """Breaks a training off in its fifth step."""

    def __init__(self, action):
        self.action, self.calls = action, 0

    def update(self, *arguments, **keywords):
        self.calls += 1
        if self.calls == 5:
            self.action()


def fail():
    raise RuntimeError("in the fifth step")


def interrupt():
    # Python does not listen where it was begun in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_everything_is_as_it_was(kind):
    keras.utils.set_random_seed(1)
    model = network(OPTIMIZERS[kind]())
    model.fit(X, Y, batch_size=8, verbose=0)
    # On JAX Keras leaves averages and weights in one buffer: no fit could follow.
    model.set_weights(model.get_weights())
    before = everything(model)
    run_on(model)
    assert_same(before, everything(model))


@pytest.mark.parametrize("ending", ["divergence", "NaN", "exception", "Ctrl-C"])
def test_everything_is_as_it_was_however_it_ends(ending, monkeypatch):
    keras.utils.set_random_seed(1)
    model = network(OPTIMIZERS["with a schedule"]())
    model.fit(X, Y, batch_size=8, verbose=0)
    before = everything(model)
    if ending == "divergence":
        assert run_on(model, max_learning_rate=1e5).diverged
    elif ending == "NaN":
        assert run_on(model, y=np.full_like(Y, np.nan)).diverged
    else:
        error = {"exception": RuntimeError, "Ctrl-C": KeyboardInterrupt}[ending]
        stops = Stops(fail if ending == "exception" else interrupt)
        monkeypatch.setattr(keras.utils, "Progbar", lambda *_, **__: stops)
        with pytest.raises(error):
            run_on(model)
        assert stops.calls == 5
    assert_same(before, everything(model))


def test_an_exception_inside_the_step():
    class Breaking(keras.layers.Layer):
        calls = None

        def call(self, inputs):
            if self.calls is not None:
                self.calls += 1
                if self.calls == 4:
                    raise RuntimeError("in the step")
            return inputs

    breaking = Breaking()
    model = keras.Sequential([keras.Input((3,)), breaking, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    model.fit(X, Y, batch_size=8, verbose=0)
    before = everything(model)
    breaking.calls = 0
    with pytest.raises(RuntimeError, match="in the step"):
        run_on(model)
    assert_same(before, everything(model))


def test_an_exception_in_the_data():
    class Broken(Batches):
        def __getitem__(self, index):
            if index == 4:
                raise RuntimeError("no more")
            return super().__getitem__(index)

    model = network()
    model.fit(X, Y, batch_size=8, verbose=0)
    before = everything(model)
    with pytest.raises(Exception, match="no more"):
        range_test(model, Broken(), shuffle=False, verbose=0)
    assert_same(before, everything(model))


@pytest.mark.parametrize("built", [True, False], ids=["built", "not built"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_fit_after_it_is_a_fit_without_it(settings, built):
    histories = []
    for tested in (False, True):
        keras.utils.set_random_seed(2)
        model = network(built=built, **settings)
        if tested:
            run_on(model)
        history = model.fit(X, Y, batch_size=8, epochs=3, verbose=0).history
        histories.append((history, [w.tobytes() for w in model.get_weights()]))
    assert histories[0] == histories[1]


BUILDING = {
    "weights": (keras.layers.Dense, "add_weight", False),
    "metrics": (keras.src.trainers.compile_utils.CompileMetrics, "build", True),
}


@pytest.mark.parametrize("part", BUILDING)
def test_a_fit_after_one_that_was_interrupted_while_it_built(part, monkeypatch):
    kind, method, built = BUILDING[part]
    trained = []
    for tested in (False, True):
        keras.utils.set_random_seed(2)
        model = network(built=built)
        if tested:
            with monkeypatch.context() as patch:
                patch.setattr(kind, method, lambda *_, **__: interrupt())
                with pytest.raises(KeyboardInterrupt):
                    run_on(model)
        model.fit(X, Y, batch_size=8, verbose=0)
        trained.append([w.tobytes() for w in model.get_weights()])
    assert trained[0] == trained[1]


def test_a_fit_between_two_of_them():
    curves = []
    for between in (False, True):
        keras.utils.set_random_seed(2)
        model = network()
        model.fit(X, Y, batch_size=8, verbose=0)
        if between:
            run_on(model)
        callback = lrs.callbacks.OneCycleScheduler(0.1)
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
        curves.append(run_on(model).losses)
    np.testing.assert_array_equal(*curves)


def test_two_in_a_row_give_the_same_curve():
    keras.utils.set_random_seed(2)
    model = network()
    first, second = run_on(model), run_on(model)
    np.testing.assert_array_equal(first.losses, second.losses)
    np.testing.assert_array_equal(first.learning_rates, second.learning_rates)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own random numbers")
def test_random_operations_of_tensorflow_draw_the_same_again(monkeypatch):
    import tensorflow as tf

    class Draws:
        def update(self, *arguments, **keywords):
            tf.random.normal(())
            tf.random.get_global_generator().normal(())

    monkeypatch.setattr(keras.utils, "Progbar", lambda *_, **__: Draws())
    draws = []
    for tested in (False, True):
        tf.random.set_global_generator(tf.random.Generator.from_seed(5))
        keras.utils.set_random_seed(4)
        model = references.linear_model(keras.optimizers.SGD(0.1))
        if tested:
            run_on(model)
        generator = tf.random.get_global_generator()
        draws.append([float(tf.random.normal(())), float(generator.normal(()))])
    assert draws[0] == draws[1]


def test_random_numbers_of_keras_that_did_not_exist_do_not_afterwards(monkeypatch):
    class Draws:
        def update(self, *arguments, **keywords):
            keras.random.normal(())

    monkeypatch.setattr(keras.utils, "Progbar", lambda *_, **__: Draws())
    model = references.linear_model(keras.optimizers.SGD(0.1))
    references.fit(model, epochs=1)
    name = "global_seed_generator"
    state = keras.src.backend.common.global_state
    before = state.get_global_attribute(name)
    state.set_global_attribute(name, None)
    try:
        python = random.getstate()
        run_on(model)
        assert state.get_global_attribute(name) is None
        assert random.getstate() == python
    finally:
        state.set_global_attribute(name, before)


def test_an_exception_where_the_first_step_is_traced():
    class Breaking(keras.layers.Layer):
        broken = False

        def call(self, inputs):
            if self.broken:
                raise RuntimeError("in the step")
            return inputs

    breaking = Breaking()
    model = keras.Sequential([keras.Input((3,)), breaking, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(X, Y, batch_size=8, verbose=0)
    before = everything(model)
    breaking.broken = True
    with pytest.raises(RuntimeError, match="in the step"):
        run_on(model)
    breaking.broken = False
    assert_same(before, everything(model))


@pytest.mark.skipif(BACKEND != "torch", reason="modules of PyTorch")
def test_buffers_of_modules_inside_the_model():
    import torch

    module = keras.layers.TorchModuleWrapper(torch.nn.BatchNorm1d(3))
    model = keras.Sequential([keras.Input((3,)), module, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = module.module.running_mean.clone()
    run_on(model)
    assert torch.equal(module.module.running_mean, before)


# --- What can be read off it ----------------------------------------------------------


def curve(losses, first=1e-7, last=10.0, **arguments):
    """A range test whose smoothed losses are the losses."""
    losses = np.asarray(losses, np.float64)
    arguments = {"num_steps": len(losses), "smoothing": 0.0, **arguments}
    return RangeTest(np.geomspace(first, last, len(losses)), losses, **arguments)


def typical(n=100, noise=0.0, seed=0):
    """Flat, falling, and exploding."""
    z = np.linspace(0, 1, n)
    losses = 2.3 - 2.0 / (1 + np.exp(-(z - 0.6) * 20)) + np.exp((z - 0.85) * 40)
    return losses + noise * np.random.default_rng(seed).normal(size=n)


def fastai(rates, losses):
    """The four rules as published, over the trimmed lists."""
    n = len(losses)
    longest, end, start = [1] * n, 0, 0
    for i in range(1, n):
        for j in range(i):
            if losses[i] < losses[j] and longest[i] < longest[j] + 1:
                longest[i] = longest[j] + 1
        if longest[end] < longest[i]:
            end, start = i, i - longest[i]
    third = (end - start) / 3
    slopes = np.gradient(losses)
    right, left = -1, -16
    slid = rates[left]
    while left >= -n and abs(slopes[right] - slopes[left]) > 0.005:
        slid, right, left = rates[left], right - 1, left - 1
    if left < -n:
        slid = None  # Published is the lowest rate: nowhere did the slope settle.
    falls = [
        (losses[i + 1] - losses[i]) / (np.log(rates[i + 1]) - np.log(rates[i]))
        for i in range(n - 1)
    ]
    return {
        "valley": rates[max(start, 0) + int(third) + int(third / 2)],
        "steepest": rates[int(np.argmin(falls))],
        "minimum": rates[int(np.argmin(losses))] / 10,
        "slide": slid,
    }


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3])
@pytest.mark.parametrize("n", [60, 100, 250])
def test_suggestions_are_the_published_ones(n, noise):
    test = curve(typical(n, noise))
    part = slice(n // 10, n - 5)
    expected = fastai(test.learning_rates[part], test.losses[part])
    found = test.suggestions()
    assert list(found) == METHODS
    for method, rate in expected.items():
        assert found[method] == (rate and pytest.approx(rate, rel=1e-12))
    assert {type(rate) for rate in found.values()} <= {float, type(None)}
    assert (found["slide"] is None) == (n == 60)


def test_suggestions_say_how_far_they_disagree():
    found = curve(typical()).suggestions()
    rates = list(found.values())
    assert found.spread == pytest.approx(max(rates) / min(rates))
    text = str(found)
    assert f"{found['valley']:.3g}" in text
    assert f"differ by a factor of {found.spread:.3g}" in text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "losses",
    [
        np.linspace(1, 3, 100),
        np.full(100, 2.0),
        np.full(100, 0.3),
        [2.0, np.nan],
        np.full(30, np.nan),
        [3.0, 2.0, 1.0],
    ],
    ids=["rising", "flat", "flat with rounding", "two", "NaN", "too short"],
)
def test_there_may_be_no_suggestion(losses, method):
    test = curve(losses)
    assert test.suggestion(method) is None
    assert test.suggestions().spread is None
    assert "none" in str(test.suggestions())


def test_what_comes_after_an_infinite_loss_is_not_read():
    losses = typical()
    cut = losses.copy()
    cut[93:] = np.inf
    test, short = curve(cut), curve(losses)
    assert test.suggestion("minimum") == short.suggestion("minimum")


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=r"`method` must be one of 'valley'.*'best'"):
        curve(typical()).suggestion("best")


def test_a_suggestion_can_be_used_as_it_is():
    model = references.linear_model(keras.optimizers.SGD(0.1))
    test = range_test(model, X, Y, min_learning_rate=1e-4, batch_size=4, verbose=0)
    rate = test.suggestion()
    assert S.OneCycle(rate, 10).curve(10).max() == rate
    cycle = S.CyclicalLearningRate(rate / 4, rate, S.Epochs(1))
    schedules = [S.OneCycle(rate), cycle]
    for schedule in schedules:
        callback = lrs.callbacks.HyperparameterScheduler(learning_rate=schedule)
        references.fit(model, [callback], epochs=2)
        assert np.isfinite(references.weights(model)).all()


# --- Bounds from a metric -------------------------------------------------------------


def with_metric(metrics, monitor="accuracy", **arguments):
    """A test whose metric was read at the rates 1, 2, 4, ..."""
    rates = 2.0 ** np.arange(len(metrics))
    given = {"metric_learning_rates": rates, "metrics": np.array(metrics, float)}
    return RangeTest(rates, rates, len(rates), monitor=monitor, **given, **arguments)


@pytest.mark.parametrize(
    ("metrics", "bounds"),
    [
        # It begins to rise after the rate 2 and slows at 16.
        ([0.1, 0.1, 0.3, 0.5, 0.9, 0.95, 0.94], (2.0, 16.0)),
        # It becomes ragged after 8: it falls by more than a tenth of its rise.
        ([0.1, 0.1, 0.3, 0.5, 0.2, 0.9, 0.9], (2.0, 8.0)),
        # It rises from the beginning, and falls after its best value.
        ([0.1, 0.5, 0.9, 0.1, 0.1], (1.0, 4.0)),
        # A loss of nan is never read.
        ([0.1, 0.2, 0.5, 1.0, np.nan], (1.0, 8.0)),
        ([0.5, 0.4, 0.3], None),
        ([np.nan, 0.4], None),
    ],
)
def test_bounds_are_where_the_metric_begins_to_rise_and_where_it_slows(metrics, bounds):
    assert with_metric(metrics).suggestion("bounds") == bounds
    assert with_metric(-np.array(metrics), "loss").suggestion("bounds") == bounds


def test_bounds_need_a_metric():
    rates = np.ones(30)
    with pytest.raises(ValueError, match="give `range_test` the argument `validation"):
        RangeTest(rates, rates, 30).suggestion("bounds")
    with pytest.raises(ValueError, match="`metrics` must be as many numbers"):
        RangeTest(rates, rates, 30, metric_learning_rates=rates, metrics=rates[1:])
    with pytest.raises(TypeError, match="`metrics` must be given with"):
        RangeTest(rates, rates, 30, metric_learning_rates=rates)
    model = references.linear_model(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="`monitor` must be one of loss, which"):
        run_on(model, validation_data=(X, Y), monitor="accuracy")


@pytest.mark.every_backend
def test_the_metric_is_that_of_the_weights_at_each_rate():
    model = references.linear_model(keras.optimizers.SGD(0.1))
    before = references.weights(model)
    test = range_test(
        model, X, Y, **LIMITS, num_steps=25, batch_size=4, shuffle=False, verbose=0,
        validation_data=(X[:20], Y[:20]), validation_points=7,
    )  # fmt: skip
    rates = 1e-3 * 200.0 ** (np.arange(25) / 24)
    looks = [0, 4, 8, 12, 16, 20, 24]
    np.testing.assert_allclose(test.metric_learning_rates, rates[looks], rtol=1e-12)
    expected = []
    for look in looks:
        w = np.zeros((3, 1))
        for step in range(look + 1):
            w = w - rates[step] * references.gradient(w, step)
        expected.append(np.mean((X[:20] @ w - Y[:20]) ** 2))
    np.testing.assert_allclose(test.metrics, expected, rtol=1e-4)
    assert test.monitor == "loss"
    # And the losses of the batches are those of a test without it.
    np.testing.assert_allclose(test.losses, references.losses_of_sgd(rates), rtol=2e-5)
    np.testing.assert_array_equal(references.weights(model), before)


@pytest.mark.every_backend
def test_a_model_that_was_evaluated_is_as_it_was():
    model = network()
    model.fit(X, Y, batch_size=8, verbose=0)
    model.set_weights(model.get_weights())  # As above.
    before = everything(model)
    test = run_on(model, validation_data=(X, Y), validation_points=5, monitor="mae")
    assert len(test.metrics) == 5
    assert_same(before, everything(model))


def test_the_picture_marks_every_suggestion(tmp_path):
    test = curve(typical(noise=1e-3))
    figure = test.plot(tmp_path / "curve.png")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    for method in METHODS:
        assert f"{method}: {test.suggestion(method):.3g}" in labels
    assert figure.axes[0].get_xscale() == "log"
    assert (tmp_path / "curve.png").stat().st_size > 5_000
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_picture_of_a_curve_without_suggestions():
    figure = curve([1.0, np.inf]).plot()
    assert len(figure.axes[0].get_legend().get_texts()) == 2


# --- What it refuses ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"min_learning_rate": 0.0}, ValueError, "`min_learning_rate` must be > 0"),
        ({"min_learning_rate": 1e-38}, ValueError, "`min_learning_rate` must be >= 1"),
        ({"min_learning_rate": -1.0, "shape": "linear"}, ValueError, "`min_learning"),
        ({"max_learning_rate": 1e-8}, ValueError, "`max_learning_rate` must be > `min"),
        ({"max_learning_rate": float("inf")}, ValueError, "`max_learning_rate`"),
        ({"max_learning_rate": "10"}, TypeError, "`max_learning_rate`"),
        ({"num_steps": 1}, ValueError, "`num_steps` must be >= 2"),
        ({"num_steps": 9.5}, ValueError, "`num_steps`"),
        ({"shape": "cosine"}, ValueError, "`shape` must be one of"),
        ({"smoothing": 1.0}, ValueError, "`smoothing` must be < 1"),
        ({"stop_factor": 1.0}, ValueError, "`stop_factor` must be > 1"),
        ({"epochs": 3}, ValueError, "`epochs` must not be given"),
        ({"callbacks": []}, ValueError, "`callbacks` must not be given"),
        ({"initial_epoch": 2}, ValueError, "`initial_epoch` must not be given"),
        ({"batchsize": 2}, TypeError, "no argument `batchsize`"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(arguments, error, message):
    model = references.linear_model(keras.optimizers.SGD(0.1))
    with pytest.raises(error, match=message):
        range_test(model, X, Y, **arguments)
    assert model.train_function is None


def test_a_linear_range_may_begin_at_zero():
    model = references.linear_model(keras.optimizers.SGD(0.1))
    test = run_on(model, min_learning_rate=0, max_learning_rate=0.1, shape="linear")
    assert test.learning_rates[0] == 0.0
    assert len(test.losses) == 12


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"`model` must be a `keras\.Model`"):
        range_test("model", X, Y)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`model` must be compiled"):
        range_test(model, X, Y)


def test_a_step_without_a_loss_is_refused():
    class Silent(keras.Sequential):
        if BACKEND == "jax":

            def train_step(self, *arguments):
                _, state = super().train_step(*arguments)
                return {"other": 1.0}, state

        else:

            def train_step(self, *arguments):
                super().train_step(*arguments)
                return {"other": 1.0}

    model = Silent([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = [w.tobytes() for w in model.get_weights()]
    with pytest.raises(ValueError, match="needs the `loss`"):
        run_on(model)
    assert [w.tobytes() for w in model.get_weights()] == before


def test_the_progress_bar_is_shown_only_if_asked_for(capsys):
    model = references.linear_model(keras.optimizers.SGD(0.1))
    run_on(model)
    assert capsys.readouterr().out == ""
    run_on(model, verbose=2)
    assert "12/12" in capsys.readouterr().out


def test_a_result_takes_whole_floats_and_numpy_s_numbers():
    test = RangeTest(np.geomspace(0.1, 1, 50), np.arange(50.0), 50.0, np.float32(0.5))
    assert type(test.num_steps) is int
    assert type(test.smoothing) is float
    assert test.suggestion() is None


def test_a_result_is_shown_in_a_line():
    rates = np.geomspace(1e-4, 1.0, 100)
    losses = np.append(np.linspace(3.0, 1.0, 80), [9.0] * 6)
    test = RangeTest(rates[:86], losses, 100, smoothing=0.0, diverged=True)
    assert repr(test) == (
        "<RangeTest: 86 of 100 steps, learning rates from 0.0001 to 0.272, diverged, "
        f"suggestion {test.suggestion():.3g}>"
    )
    rising = RangeTest(rates, np.arange(100.0), 100)
    assert repr(rising) == (
        "<RangeTest: 100 of 100 steps, learning rates from 0.0001 to 1, "
        "did not diverge, suggestion none>"
    )
    none = RangeTest(rates[:0], rates[:0], 100)
    assert repr(none) == (
        "<RangeTest: 0 of 100 steps, did not diverge, suggestion none>"
    )
