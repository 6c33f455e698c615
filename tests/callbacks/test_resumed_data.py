"""Data with a memory is resumed as it was, or the run is refused."""

import random
import warnings

import keras
import numpy as np
import pytest

from keras_lrs.callbacks import ResumableTraining
from tests.callbacks import references
from tests.warned import warns

EPOCHS, STEPS, BATCH = 3, 6, 4
X = np.random.default_rng(0).normal(size=(STEPS * BATCH, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class PowerCutError(Exception):
    pass


class PowerCut(keras.callbacks.Callback):
    """Breaks the training off at a batch of its third epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == (2, 5):
            raise PowerCutError


def train(data, directory=None, every=3, cut=False, seed=0, accept=()):
    """A program that is called again; the weights that it ends with."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse")
    callbacks = [PowerCut()] if cut else []
    if directory is not None:
        callbacks.append(ResumableTraining(directory, every, accept=accept, verbose=0))
    options = {"shuffle": False, "epochs": EPOCHS, "verbose": 0}
    model.fit(data(), callbacks=callbacks, **options)
    return references.weights(model)


def interrupted(data, directory, every, **options):
    with pytest.raises(PowerCutError):
        train(data, directory, every, cut=True)
    return train(data, directory, every, **options)


def assert_resumed(data, folder, straight=None):
    """Not noticed while nothing breaks off, and resumed where something does."""
    straight = train(data) if straight is None else straight
    for every in (3, "epoch"):
        whole = train(data, folder / f"whole-{every}", every)
        np.testing.assert_array_equal(whole, straight)
        resumed = interrupted(data, folder / f"broken-{every}", every)
        np.testing.assert_array_equal(resumed, straight)


class Batches(keras.utils.PyDataset):
    """Batches in an order that it keeps."""

    def __init__(self):
        super().__init__()
        self.order = np.arange(len(X))
        self.generator = np.random.default_rng(5)
        self.read = 0

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        return X[rows], Y[rows]


class ShufflesItself(Batches):
    """As in Keras's documentation, with the generator that a seed sets."""

    def on_epoch_end(self):
        np.random.shuffle(self.order)  # noqa: NPY002


class ShufflesAsItBegins(Batches):
    """With a generator of another kind, which is its own."""

    def __init__(self):
        super().__init__()
        self.generator = random.Random(5)

    def on_epoch_begin(self):
        order = self.order.tolist()
        self.generator.shuffle(order)
        self.order = np.array(order)


class Augments(Batches):
    """Draws with one generator when it shuffles and when it is read."""

    def on_epoch_end(self):
        self.generator.shuffle(self.order)

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + self.generator.normal(size=x.shape).astype("float32"), y


class Counts(Batches):
    """Remembers what nobody is told of."""

    def __getitem__(self, index):
        self.read += 1
        x, y = super().__getitem__(index)
        return x / self.read, y


class TellsItsCount(Counts):
    def get_state(self):
        return {"read": self.read}

    def set_state(self, state):
        self.read = state["read"]


class Stream:
    """An iterator with the methods of torchdata's."""

    def __init__(self):
        self.number = 0

    def __next__(self):
        self.number += 1
        rows = np.random.default_rng(self.number).permutation(len(X))[:BATCH]
        return X[rows], Y[rows]

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


class Streams(Batches):
    """Reads an iterator on and on, as of grain."""

    def __init__(self):
        super().__init__()
        self.stream = Stream()

    def __getitem__(self, index):
        return next(self.stream)


def closing_over():
    generator = np.random.RandomState(5)

    class Closing(Batches):
        def on_epoch_end(self):
            generator.shuffle(self.order)

        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + generator.normal(size=x.shape).astype("float32"), y

    return Closing()


def data_loader():
    torch = pytest.importorskip("torch")
    dataset = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    generator = torch.Generator().manual_seed(5)
    return torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, generator=generator
    )


def tf_data():
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    return dataset.shuffle(len(X), seed=5).batch(BATCH)


@pytest.mark.every_backend
def test_a_dataset_that_shuffles_itself_is_resumed(tmp_path):
    assert_resumed(ShufflesItself, tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        data_loader,
        ShufflesAsItBegins,
        Augments,
        TellsItsCount,
        Streams,
        closing_over,
    ],
)
def test_data_with_a_state_is_resumed(tmp_path, data):
    assert_resumed(data, tmp_path)


@pytest.mark.every_backend
def test_a_tf_dataset_that_is_shuffled_anew_is_resumed(tmp_path):
    straight = train(tf_data)
    with warns("is ordered or altered"):
        assert_resumed(tf_data, tmp_path, straight)


# --- What is not known ----------------------------------------------------------------


def test_a_memory_that_nobody_knows_of_is_refused(tmp_path):
    message = "The first batch of epoch 3 is not the one in the interrupted run"
    with pytest.raises(ValueError, match=message):
        interrupted(Counts, tmp_path, "epoch")
    train(Counts, tmp_path, "epoch", accept="data")


def test_probing_leaves_it_as_it_was(tmp_path):
    straight = train(Counts)
    with warns("is ordered or altered differently"):
        np.testing.assert_array_equal(train(Counts, tmp_path), straight)


@pytest.mark.every_backend
def test_other_arrays_of_the_same_shape_are_refused(tmp_path):
    keras.utils.set_random_seed(0)

    def fit(x, cut, **options):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.02), "mse")
        resumable = ResumableTraining(tmp_path, verbose=0, **options)
        callbacks = [resumable, *([PowerCut()] if cut else [])]
        model.fit(x, Y, BATCH, EPOCHS, verbose=0, shuffle=False, callbacks=callbacks)

    with pytest.raises(PowerCutError):
        fit(X, cut=True)
    with pytest.raises(ValueError, match="The first batch of epoch 3"):
        fit(2.0 * X, cut=False)
    fit(2.0 * X, cut=False, accept=["data"])


def test_a_program_without_a_seed_is_told(tmp_path):
    with pytest.raises(ValueError, match="The first batch of epoch 3"):
        interrupted(ShufflesItself, tmp_path, "epoch", seed=1)


def test_executions_of_several_steps_lose_no_batch(tmp_path):
    """On TensorFlow and JAX, where the first batch is taken out of an iterator."""
    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch executes one step at a time")
    seen = []

    def fit(directory=None):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.02), "mse", steps_per_execution=4)
        model.set_weights([np.zeros((3, 1)), np.zeros(1)])
        callbacks = [] if directory is None else [ResumableTraining(directory)]
        history = model.fit(Batches(), epochs=2, verbose=0, callbacks=callbacks)
        seen.append(int(model.optimizer.iterations))
        return history.history["loss"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras.utils.set_random_seed(0)
        straight = fit()
        keras.utils.set_random_seed(0)
        assert fit(tmp_path) == straight
    assert seen == [2 * STEPS, 2 * STEPS]
