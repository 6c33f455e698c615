"""Whatever users' objects hold, it is resumed or it is told, and it stops no run."""

import dataclasses
import random
import sys
import types
import unittest.mock
import weakref

import keras
import numpy as np
import pytest

from keras_lrs.callbacks import ResumableTraining
from tests.callbacks import references
from tests.callbacks.test_resumed_data import PowerCut, PowerCutError
from tests.warned import warns

BACKEND = keras.backend.backend()
STEPS, BATCH = 4, 4
X = np.random.default_rng(0).normal(size=(STEPS * BATCH, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Batches(keras.utils.PyDataset):
    """Batches, with an attribute `held`."""

    def __init__(self, held=None):
        super().__init__()
        self.held = held

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows], Y[rows]


def model_of(*layers, loss="mse", optimizer=None, **compile_arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
    optimizer = optimizer or keras.optimizers.SGD(0.02)
    model.compile(optimizer, loss, **compile_arguments)
    return model


def train(model, data, *callbacks):
    options = {"epochs": 3, "shuffle": False, "verbose": 0}
    if not isinstance(data, keras.utils.PyDataset):
        options["batch_size"] = BATCH
        model.fit(*data, callbacks=list(callbacks), **options)
    else:
        model.fit(data, callbacks=list(callbacks), **options)
    return references.weights(model)


def assert_resumed(start, folder, every):
    """A program that is interrupted ends as one that is not."""
    straight = start()
    with pytest.raises(PowerCutError):
        start(PowerCut(2), ResumableTraining(folder, every, verbose=0))
    resumable = ResumableTraining(folder, every, verbose=0)
    np.testing.assert_array_equal(start(resumable), straight)
    assert resumable.resumed_from is not None


CADENCES = pytest.mark.parametrize("every", ["epoch", 1])

# --- Data -----------------------------------------------------------------------------


class Attributes(dict):
    """A dictionary with items as attributes, as in many libraries."""

    __getattr__ = dict.__getitem__


class Dies:
    pass


def gone():
    return weakref.proxy(Dies())


HELD = {
    "items as attributes": lambda: Attributes(a=1),
    "mock": unittest.mock.Mock,
    "bits": lambda: 1 << 20_000,
    "proxy": lambda: [gone()],
    "namespace": lambda: Namespace(a=1),
}
if BACKEND == "torch":
    import torch

    @torch.inference_mode()
    def inferred():
        return torch.ones(3) * 2

    HELD |= {
        "inferred": inferred,
        "expanded": lambda: torch.ones(1, 1).expand(3, 1),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "conjugated": lambda: torch.ones(3, dtype=torch.complex64).conj(),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
    }


@pytest.mark.every_backend
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_what_data_holds_stops_no_run(tmp_path, held):
    def start(*callbacks):
        return train(model_of(), Batches(held()), *callbacks)

    assert_resumed(start, tmp_path, every=1)


class Namespace(types.SimpleNamespace):
    """Has members that are no slots, and that cannot be written."""


@dataclasses.dataclass(slots=True)
class Slots:
    generator: np.random.Generator
    reads: int = 0


class Noisy(Batches):
    """Only the first batch is always the same."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        self.held.reads += 1
        return x + index * self.held.generator.normal(), y


@CADENCES
def test_generators_in_slots_are_resumed(tmp_path, every):
    def start(*callbacks):
        data = Noisy(Slots(np.random.default_rng(1)))
        return train(model_of(), data, *callbacks)

    with warns("is not restored: `Slots.reads`"):
        assert_resumed(start, tmp_path, every)


def test_probing_leaves_slots_and_classes_as_they_were(tmp_path):
    class Marks(Noisy):
        def __getitem__(self, index):
            type(self).read = True
            return super().__getitem__(index)

    seen = []

    class Looks(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append((data.held.reads, "read" in vars(Marks)))

    for resumable in ([], [ResumableTraining(tmp_path, 1, verbose=0)]):
        data = Marks(Slots(np.random.default_rng(1)))
        if "read" in vars(Marks):
            del Marks.read
        train(model_of(), data, *resumable, Looks())
    assert seen[0] == seen[1]


GLOBAL = np.random.default_rng(0)


def noise():
    return GLOBAL.normal()


class InAComprehension(Batches):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return np.stack([row + index * GLOBAL.normal() for row in x]), y


class InAFunction(Batches):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + index * noise(), y


@CADENCES
@pytest.mark.parametrize("data", [InAComprehension, InAFunction])
def test_generators_of_a_program_are_resumed(tmp_path, data, every, monkeypatch):
    def start(*callbacks):
        generator = np.random.default_rng(1)
        monkeypatch.setattr(sys.modules[__name__], "GLOBAL", generator)
        return train(model_of(), data(), *callbacks)

    assert_resumed(start, tmp_path, every)


@pytest.mark.every_backend
@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no sparse arrays there")
@CADENCES
@pytest.mark.parametrize("kind", ["SciPy", "backend"])
def test_sparse_arrays_are_resumed(tmp_path, kind, every):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    x = scipy_sparse.csr_matrix(X * (X > 0))
    if kind == "backend":
        if BACKEND == "jax":
            pytest.skip("Keras takes no sparse arrays of JAX")
        import tensorflow as tf

        x = tf.sparse.from_dense(x.toarray())

    def start(*callbacks, data=x):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,), sparse=True)
        model = keras.Sequential([inputs, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.02), "mse")
        return train(model, (data, Y), *callbacks)

    assert_resumed(start, tmp_path / "same", every)
    with pytest.raises(PowerCutError):
        start(PowerCut(2), ResumableTraining(tmp_path / "other", every, verbose=0))
    other = scipy_sparse.csr_matrix(X * (X < 0))
    resumable = ResumableTraining(tmp_path / "other", every, verbose=0)
    with pytest.raises(ValueError, match=r"first batch|data"):
        start(resumable, data=other)


# --- What trains ----------------------------------------------------------------------


class Moving(keras.losses.Loss):
    """Is scaled by a variable that it updates."""

    def __init__(self):
        super().__init__()
        self.scale = keras.Variable(1.0, trainable=False)

    def call(self, y_true, y_pred):
        self.scale.assign(self.scale * 1.1)
        return self.scale * keras.ops.mean((y_true - y_pred) ** 2, -1)


class Drawing(keras.losses.Loss):
    """Draws with a generator."""

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def call(self, y_true, y_pred):
        error = y_pred - y_true
        if isinstance(self.generator, keras.random.SeedGenerator):
            error += keras.random.normal((1,), seed=self.generator)
        else:
            error *= self.generator.uniform(0, 1)
        return keras.ops.mean(error**2, -1)


class DrawingLayer(keras.layers.Layer):
    """Draws with a generator that it keeps in a list."""

    def __init__(self, generator):
        super().__init__()
        self.generators = [generator]

    def call(self, x):
        return x * self.generators[0].uniform(0, 1)


class Wrapper(keras.optimizers.Optimizer):
    """Trains with another optimizer, in an attribute that Keras does not know."""

    def __init__(self, lazy=False):
        super().__init__(learning_rate=0.02)
        self.lazy = lazy
        self.held = {"inner": [keras.optimizers.SGD(0.02, momentum=0.9)]}

    def build(self, variables):
        if not self.built:
            super().build(variables)
            if not self.lazy:
                self.held["inner"][0].build(variables)

    def apply(self, grads, trainable_variables=None):
        self.held["inner"][0].apply(grads, trainable_variables)
        self._iterations.assign_add(1)


EAGER = {"run_eagerly": True}
TRAINING = {
    "loss with a variable": lambda: model_of(loss=Moving(), **EAGER),
    "loss with a seed": lambda: model_of(
        loss=Drawing(keras.random.SeedGenerator(1)), **EAGER
    ),
    "loss with NumPy's": lambda: model_of(
        loss=Drawing(np.random.default_rng(1)), **EAGER
    ),
    "layer with Python's": lambda: model_of(DrawingLayer(random.Random(1)), **EAGER),
    "layer with NumPy's old one": lambda: model_of(
        DrawingLayer(np.random.RandomState(1)), **EAGER
    ),
    "optimizer in an optimizer": lambda: model_of(optimizer=Wrapper()),
}
if BACKEND != "jax":  # Whose steps make no variables.
    TRAINING["optimizer that is built late"] = lambda: model_of(
        optimizer=Wrapper(lazy=True), **EAGER
    )


@pytest.mark.every_backend
@CADENCES
@pytest.mark.parametrize("kind", TRAINING)
def test_what_losses_layers_and_optimizers_hold_is_resumed(tmp_path, kind, every):
    def start(*callbacks):
        return train(TRAINING[kind](), (X, Y), *callbacks)

    assert_resumed(start, tmp_path, every)


def test_other_generators_are_refused(tmp_path):
    def start(generator, *callbacks):
        layer = DrawingLayer(generator)
        model = model_of(layer, **EAGER)
        resumable = ResumableTraining(tmp_path, accept="model", verbose=0)
        return train(model, (X, Y), *callbacks, resumable)

    with pytest.raises(PowerCutError):
        start(random.Random(1), PowerCut(2))
    with pytest.raises(ValueError, match="other random generators"):
        start(np.random.RandomState(1))


class Odd(keras.layers.Layer):
    """Has a configuration and attributes that no file holds."""

    def __init__(self):
        super().__init__()
        self._operations = 3
        if BACKEND != "torch":  # Which has modules of its own there.
            self._modules = [1, 2]

    def call(self, x):
        return x

    def get_config(self):
        return {
            "complex": np.array([1j, 2]),
            "object": np.array([object(), None]),
            "long": np.longdouble(3),
            "date": np.datetime64("2020-01-01"),
            "batch_shape": 3,
            "layers": [{"config": None}],
            "keys": Attributes(),
            "loop": LOOP,
        }


LOOP: list = []
LOOP.append(LOOP)


@pytest.mark.every_backend
def test_odd_configurations_and_attributes_stop_no_run(tmp_path):
    def start(*callbacks):
        return train(model_of(Odd()), (X, Y), *callbacks)

    assert_resumed(start, tmp_path, "epoch")


@pytest.mark.every_backend
@pytest.mark.parametrize("more", [1, 2])
def test_another_number_of_layers_is_told(tmp_path, more):
    def start(number, *callbacks):
        layers = [keras.layers.Dropout(0.1) for _ in range(number)]
        callbacks = [*callbacks, ResumableTraining(tmp_path, verbose=0)]
        train(model_of(*layers), (X, Y), *callbacks)

    with pytest.raises(PowerCutError):
        start(1, PowerCut(2))
    with pytest.raises(ValueError, match=rf"`model.* has {more + 3} items, and had 3"):
        start(1 + more)


# --- Callbacks ------------------------------------------------------------------------


class Logs(keras.callbacks.Callback):
    """Adds what is no number."""

    def on_epoch_end(self, epoch, logs=None):
        logs["rate"] = self.model.optimizer.learning_rate
        logs["tensor"] = keras.ops.ones((2,))
        logs["set"] = {epoch}


@pytest.mark.every_backend
def test_logs_that_are_no_numbers_stop_no_run(tmp_path):
    def start(*callbacks):
        model = model_of()
        train(model, (X, Y), Logs(), *callbacks)
        return model.history.history

    with warns(r"`History\['history'\]\['set'\]` holds a `set`"):
        with pytest.raises(PowerCutError):
            start(PowerCut(2), ResumableTraining(tmp_path, verbose=0))
        found = start(ResumableTraining(tmp_path, verbose=0))
    assert found["rate"][:2] == [pytest.approx(0.02)] * 2
    assert isinstance(found["rate"][0], float)
    np.testing.assert_array_equal(found["tensor"][0], [1, 1])
    assert found["set"] == [None, None, {2}]


def test_callbacks_with_long_numbers_stop_no_run(tmp_path):
    class Masks(keras.callbacks.Callback):
        mask = 0

        def __init__(self):
            super().__init__()
            self.mask = 1 << 20_000

    def start(*callbacks):
        return train(model_of(), (X, Y), Masks(), *callbacks)

    assert_resumed(start, tmp_path, "epoch")
