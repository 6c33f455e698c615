"""Data with a memory is resumed as it was, or the run is refused."""

import random
import warnings

import keras
import numpy as np
import pytest

from keras_lrs._keras.fit_data import FitData
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

    def __init__(self, batch=5):
        super().__init__()
        self.batch = batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == (2, self.batch):
            raise PowerCutError


def train(data, directory=None, every=3, cut=False, seed=0, accept=(), **more):
    """A program that is called again; the weights that it ends with.

    `cut` says whether the power is cut, or before which batch.
    """
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse")
    callbacks = [] if cut is False else [PowerCut(5 if cut is True else cut)]
    if directory is not None:
        callbacks.append(ResumableTraining(directory, every, accept=accept, verbose=0))
    options = {"shuffle": False, "epochs": EPOCHS, "verbose": 0, **more}
    model.fit(data(), callbacks=callbacks, **options)
    return references.weights(model)


def interrupted(data, directory, every, cut=True, **options):
    with pytest.raises(PowerCutError):
        train(data, directory, every, cut=cut)
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


class Augmenter:
    """What data holds, and cannot be iterated."""

    def __init__(self):
        self.read = 0

    def get_state(self):
        return {"read": self.read}

    def set_state(self, state):
        self.read = state["read"]


class HoldsAnAugmenter(Batches):
    def __init__(self):
        super().__init__()
        self.augmenter = Augmenter()

    def __getitem__(self, index):
        self.augmenter.read += 1
        x, y = super().__getitem__(index)
        return x / self.augmenter.read, y


class ShufflesInPlace(Batches):
    """Shuffles itself when it is read, and not in a hook."""

    def __getitem__(self, index):
        if index == 0:
            self.generator.shuffle(self.order)
        return super().__getitem__(index)


class Iterates(Batches):
    """Reads a generator of Python on and on."""

    def __init__(self):
        super().__init__()
        self.numbers = iter(range(1, 1000))

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x / next(self.numbers), y


def of_a_class():
    class OfAClass(Batches):
        """Draws with a generator that all of its kind share."""

        shared = np.random.default_rng(5)

        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + self.shared.normal(size=x.shape).astype("float32"), y

    return OfAClass()


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


def loader_with_a_state():
    torch = pytest.importorskip("torch")

    class Loader(torch.utils.data.DataLoader):
        epoch = 0

        def __iter__(self):
            self.epoch += 1
            rows = np.random.default_rng(self.epoch).permutation(len(X))
            for some in rows.reshape(STEPS, BATCH):
                yield torch.tensor(X[some]), torch.tensor(Y[some])

        def state_dict(self):
            return {"epoch": self.epoch}

        def load_state_dict(self, state):
            self.epoch = state["epoch"]

    dataset = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return Loader(dataset, BATCH)


def loader_of_a_dataset_with_a_state():
    torch = pytest.importorskip("torch")

    class Rows(torch.utils.data.Dataset):
        read = 0

        def __len__(self):
            return len(X)

        def __getitem__(self, index):
            self.read += 1
            return torch.tensor(X[index]) / self.read, torch.tensor(Y[index])

        def state_dict(self):
            return {"read": self.read}

        def load_state_dict(self, state):
            self.read = state["read"]

    return torch.utils.data.DataLoader(Rows(), BATCH)


def loader_with_a_sampler():
    torch = pytest.importorskip("torch")

    class Sampler(torch.utils.data.Sampler):
        def __init__(self):
            self.epoch = 0

        def __len__(self):
            return len(X)

        def __iter__(self):
            self.epoch += 1
            return iter(np.random.default_rng(self.epoch).permutation(len(X)).tolist())

    dataset = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch.utils.data.DataLoader(dataset, BATCH, sampler=Sampler())


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
        of_a_class,
        HoldsAnAugmenter,
        loader_with_a_state,
        loader_of_a_dataset_with_a_state,
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
    with pytest.raises(ValueError, match=message), warns("`Counts.read`"):
        interrupted(Counts, tmp_path, "epoch")
    train(Counts, tmp_path, "epoch", accept="data")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (Counts, "Counts.read"),
        (ShufflesInPlace, "ShufflesInPlace.order"),
        (Iterates, "Iterates.numbers"),
        (loader_with_a_sampler, "Sampler.epoch"),
    ],
)
def test_between_epochs_a_warning_names_it(tmp_path, data, name):
    with warns(f"is not restored: `{name}`"):
        interrupted(data, tmp_path, "epoch", cut=0)


@pytest.mark.parametrize(
    "data", [Counts, ShufflesInPlace, loader_with_a_sampler, Iterates]
)
def test_probing_leaves_it_as_it_was(tmp_path, data):
    straight = train(data)
    with warns("is ordered or altered differently|which cannot be put back"):
        np.testing.assert_array_equal(train(data, tmp_path), straight)


@pytest.mark.parametrize("every", [3, "epoch"])
@pytest.mark.parametrize("cut", [0, 5])
def test_what_a_callback_sets_when_an_epoch_begins_is_not_told(tmp_path, every, cut):
    class Ordered(Batches):
        def begin(self, epoch):
            self.order = np.random.default_rng(epoch).permutation(len(X))

    def train(*callbacks):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.02), "mse")
        data = Ordered()
        data.begin(0)
        begins = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: data.begin(epoch)
        )
        options = {"epochs": EPOCHS, "verbose": 0, "shuffle": False}
        model.fit(data, callbacks=[begins, *callbacks], **options)
        return references.weights(model)

    straight = train()
    with pytest.raises(PowerCutError):
        train(ResumableTraining(tmp_path, every, verbose=0), PowerCut(cut))
    resumed = train(ResumableTraining(tmp_path, every, verbose=0))
    np.testing.assert_array_equal(resumed, straight)


def test_what_was_accepted_is_not_told(tmp_path):
    with pytest.raises(PowerCutError):
        train(Counts, tmp_path, "epoch", cut=0)
    train(Counts, tmp_path, "epoch", accept="data")


def test_a_finished_run_is_told_of_nothing(tmp_path):
    def finish():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.02), "mse")
        resumable = ResumableTraining(tmp_path, delete_at_end=False, verbose=0)
        model.fit(Counts(), epochs=1, verbose=0, shuffle=False, callbacks=[resumable])
        return resumable.resumed_from

    assert finish() is None
    assert finish().epoch == 1


def test_what_has_not_changed_may_differ(tmp_path):
    """Such as a folder for each process."""
    names = iter("ab")

    def data():
        made = Batches()
        made.folder = next(names)
        return made

    interrupted(data, tmp_path, "epoch", cut=0)


def endless():
    while True:
        yield X[:BATCH], Y[:BATCH]


def test_a_generator_is_warned_of_and_resumes(tmp_path):
    options = {"steps_per_epoch": STEPS}

    def fit(cut=False, **more):
        train(endless, tmp_path, "epoch", cut, **options, **more)

    with pytest.raises(PowerCutError), warns("the data is read endlessly"):
        fit(cut=True)
    with warns("its batches may differ"):
        fit()
    fit(accept="data")


def test_data_with_other_generators_is_told(tmp_path):
    class Without(Batches):
        def __init__(self):
            super().__init__()
            self.generator = None

    with pytest.raises(PowerCutError):
        train(Batches, tmp_path, "epoch", cut=0)
    with warns("is not restored: a `PCG64`"):
        train(Without, tmp_path, "epoch")


def test_a_checkpoint_of_an_earlier_version_resumes(tmp_path, monkeypatch):
    """It has no hashes of values, and the states of fewer objects."""
    state = FitData.state

    def of_earlier_version(self):
        found = state(self)
        del found["changed"]
        return {**found, "objects": found["objects"][:1]}

    monkeypatch.setattr(FitData, "state", of_earlier_version)
    with pytest.raises(PowerCutError):
        train(HoldsAnAugmenter, tmp_path, "epoch", cut=True)
    monkeypatch.undo()
    with warns("is not restored: `Augmenter`"):
        train(HoldsAnAugmenter, tmp_path, "epoch")


def test_hooks_that_continue_where_they_ended_take_little_room(tmp_path):
    found = []
    state = FitData.state

    def noted(self):
        found.append(state(self)["events"])
        return state(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FitData, "state", noted)
        train(ShufflesItself, tmp_path, "epoch")
    told = [globally for _, globally, _ in found[-1] if globally]
    assert len(found[-1]) > len(told) == 1


# --- Other state ----------------------------------------------------------------------


class AugmentsForValidation(Batches):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + self.generator.normal(size=x.shape).astype("float32"), y


def validated(validation, directory=None, cut=False):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.02), "mse")
    callbacks = [] if cut is False else [PowerCut(cut)]
    if directory is not None:
        callbacks.append(ResumableTraining(directory, verbose=0))
    fitted = model.fit(
        X,
        Y,
        BATCH,
        EPOCHS,
        validation_data=validation(),
        verbose=0,
        shuffle=False,
        callbacks=callbacks,
    )
    return fitted.history["val_loss"]


@pytest.mark.every_backend
def test_validation_data_is_resumed(tmp_path):
    with pytest.raises(PowerCutError):
        validated(AugmentsForValidation, tmp_path, cut=1)
    resumed = validated(AugmentsForValidation, tmp_path)
    assert resumed == validated(AugmentsForValidation)


def test_what_validation_data_loses_is_told(tmp_path):
    with pytest.raises(PowerCutError):
        validated(Counts, tmp_path, cut=1)
    with warns("validation data has changed .* `Counts.read`"):
        validated(Counts, tmp_path)


@pytest.mark.every_backend
def test_variables_of_tensorflow_in_layers_are_resumed(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow's layers hold them")
    tf = pytest.importorskip("tensorflow")

    class Noisy(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self._generator = tf.random.Generator.from_seed(3)
            self.counts = [tf.Variable(0.0)]

        def call(self, x, training=False):
            if training:
                self.counts[0].assign_add(1.0)
                x = x + self._generator.normal(tf.shape(x))
            return x / (1.0 + self.counts[0])

    def fit(directory=None, cut=False):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((3,)), Noisy(), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.SGD(0.02), "mse")
        callbacks = [PowerCut()] if cut else []
        if directory is not None:
            callbacks.append(ResumableTraining(directory, 3, verbose=0))
        model.fit(X, Y, BATCH, EPOCHS, verbose=0, shuffle=False, callbacks=callbacks)
        return references.weights(model)

    with pytest.raises(PowerCutError):
        fit(tmp_path, cut=True)
    np.testing.assert_array_equal(fit(tmp_path), fit())


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
    error = pytest.raises(ValueError, match="The first batch of epoch 3")
    with error, warns("`ShufflesItself.order`"):
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
