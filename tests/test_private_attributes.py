"""What the library relies on in Keras that Keras does not promise to keep.

When one of these tests fails after an upgrade of Keras, its message names what moved.
"""

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.trainers import data_adapters, epoch_iterator

import keras_lrs
from keras_lrs._keras import fit_loop

pytestmark = pytest.mark.every_backend

BACKEND = keras.backend.backend()
PACKAGE = Path(keras_lrs.__file__).parent
# The only modules that may touch what is private in Keras.
ALLOWED = ("_keras/", "_step/", "_fit/")
_PRIVATE = re.compile(r"_[a-z]\w*[a-z]_?")


@functools.cache
def model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0)
    return model


def functional():
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.ops.tanh(inputs))


def sgd():
    return model().optimizer


def nadam():
    optimizer = keras.optimizers.Nadam(0.1)
    optimizer.build(model().trainable_variables)
    return optimizer


def averaging():
    optimizer = keras.optimizers.SGD(0.1, use_ema=True)
    optimizer.build(model().trainable_variables)
    return optimizer


def accumulating():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer.build(model().trainable_variables)
    return optimizer


def mapped():
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1))
    )


def checkpoint():
    return keras.callbacks.ModelCheckpoint("best.keras")


def dataset_adapter():
    tf = pytest.importorskip("tensorflow")
    adapters = library("trainers.data_adapters.tf_dataset_adapter")()
    return adapters.TFDatasetAdapter(tf.data.Dataset.range(2).batch(1))


def library(name):
    return lambda: importlib.import_module(f"keras.src.{name}")


def arrays():
    return data_adapters.ArrayDataAdapter(np.ones((2, 3)))


def compiled_loss():
    return model()._compile_loss


ANY = ("tensorflow", "jax", "torch")
HAS_MULTI_OPTIMIZER = hasattr(keras.optimizers, "MultiOptimizer")  # Not in 3.12.

# Each attribute, what has it, and the backends on which it is used.
RELIED_ON = {
    # Of an optimizer.
    "_accumulated_gradients": (accumulating, ANY),
    "_apply_weight_decay": (sgd, ANY),
    "_backend_update_step": (sgd, ANY),
    "_get_current_learning_rate": (sgd, ANY),
    "_get_variable_index": (sgd, ANY),
    "_iterations": (sgd, ANY),
    "_learning_rate": (sgd, ANY),
    "_model_variables_moving_average": (averaging, ANY),
    "_optimizer_map": (mapped, ANY if HAS_MULTI_OPTIMIZER else ()),
    "_tracker": (sgd, ANY),
    "_trainable_variables": (sgd, ANY),
    "_u_product": (nadam, ("torch",)),
    "_use_weight_decay": (sgd, ANY),
    "_variables": (sgd, ANY),
    # Of a model.
    "_compile_config": (model, ANY),
    "_compile_loss": (model, ANY),
    "_compile_metrics": (model, ANY),
    "_distribute_strategy": (model, ("tensorflow",)),
    "_eval_epoch_iterator": (model, ()),  # Only put back, if it is there.
    "_flatten_layers": (model, ANY),
    "_initial_epoch": (model, ANY),
    "_jax_state_synced": (model, ("jax",)),
    "_maybe_symbolic_build": (model, ("tensorflow",)),
    "_non_trainable_variables": (model, ANY),
    "_operations": (functional, ANY),
    "_symbolic_build": (model, ("tensorflow",)),
    # Of a variable.
    "_direct_assign": (lambda: keras.Variable(0.0), ("jax",)),
    "_layout": (lambda: keras.Variable(0.0), ("jax",)),
    "_value": (lambda: keras.Variable(0.0), ANY),
    # Of `keras.src.saving.saving_lib`.
    "_load_state": (library("saving.saving_lib"), ANY),
    "_save_state": (library("saving.saving_lib"), ANY),
    # Of a metric.
    "_direction": (keras.metrics.MeanSquaredError, ANY),
    # Of what gives `fit` its batches.
    "_dataset": (dataset_adapter, ANY),  # And of what gives it those of Grain.
    "_get_iterator": (lambda: epoch_iterator.EpochIterator, ANY),
    "_inputs": (arrays, ANY),
    # Of what Keras imports when it is asked for.
    "_available": (lambda: library("utils.module_utils")().tensorflow, ANY),
    # Of a compiled loss.
    "_user_loss": (compiled_loss, ANY),
    "_user_loss_weights": (compiled_loss, ANY),
    # Of a callback.
    "_model": (keras.callbacks.Callback, ANY),
    "_batches_seen_since_last_saving": (checkpoint, ANY),
    "_current_epoch": (checkpoint, ()),  # When an epoch has begun.
    "_last_batch_seen": (checkpoint, ANY),
    "_global_test_batch": (keras.callbacks.TensorBoard, ANY),
    "_global_train_batch": (keras.callbacks.TensorBoard, ANY),
}

# What does not belong to Keras: to PyTorch, TensorFlow, Optuna and notebooks.
OTHERS = {
    *("_foreach_add_", "_foreach_copy_", "_foreach_lerp_", "_foreach_mul_"),
    *("_foreach_sub", "_rng", "_seed", "_set_global_seed", "_trial_id", "_repr_png_"),
    *("_version", "_functions", "_modules", "_reshuffle_each_iteration"),
}

# Parts of names, in strings.
PARTS = {"_average", "_initializer", "_backend_", "_self_"}

# On a model: what JAX's `fit` keeps while it trains, and the run of ours.
OURS = {"_jax_state", "_keras_lrs_known", "_keras_lrs_run"}

# What subclasses of Keras's classes use of themselves.
INHERITED = {
    "optimizers/schedule_free.py": {
        *("_learning_rate", "_trainable_variables", "_variables"),
    },
    "optimizers/wrapper.py": {"_variables"},
    "callbacks/": {"_model"},
    "tuning/range_test.py": {"_model"},
}

# Of `keras.src`, and of `_jax_state`, which a model has while it trains on JAX only.
MODULES = {
    "keras.src.backend.common.global_state",
    "keras.src.backend.common.stateless_scope",
    "keras.src.random.seed_generator",
    "keras.src.saving.saving_lib",
    "keras.src.trainers.data_adapters",
    "keras.src.trainers.epoch_iterator",
    "keras.src.utils.module_utils",
}


@functools.cache
def trees():
    return [
        (path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text()))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


@functools.cache
def own_names(files=""):
    """All that the library, or a file of it, defines."""
    found = set()
    for file, tree in trees():
        if not file.startswith(files):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                owner = node.value
                if isinstance(owner, ast.Name) and owner.id == "self":
                    found.add(node.attr)
            elif (
                isinstance(node, ast.Subscript)
                and ast.unparse(node.value) == "self.__dict__"
            ):
                found.add(ast.literal_eval(node.slice))
    return found


def accesses(tree, strings):
    """Private names that are read or set, and those in strings, by line."""
    for node in ast.walk(tree):
        name = None
        if isinstance(node, ast.Attribute):
            name, of_self = node.attr, ast.unparse(node.value) == "self"
        elif strings and isinstance(node, ast.Constant):
            name, of_self = node.value, False
        if isinstance(name, str) and _PRIVATE.fullmatch(name):
            yield name, of_self, node.lineno


def test_few_modules_touch_what_is_private_in_keras():
    own = own_names() - RELIED_ON.keys()
    for file, tree in trees():
        if file.startswith(ALLOWED):
            continue
        inherited = [v for k, v in INHERITED.items() if file.startswith(k)]
        by_self = own_names(file).union(*inherited)
        for name, of_self, line in accesses(tree, strings=False):
            known = name in own or name in OTHERS or (of_self and name in by_self)
            assert known, f"{file}:{line} touches `{name}`: do so in one of {ALLOWED}"
        for node in ast.walk(tree):
            modules = [getattr(node, "module", None) or ""]
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            private = [m for m in modules if m.startswith("keras.src")]
            assert not private, f"{file}:{node.lineno} imports {private}"


def test_all_that_they_touch_is_listed_here():
    own = own_names() - RELIED_ON.keys()
    allowed = [tree for file, tree in trees() if file.startswith(ALLOWED)]
    touched = {name for tree in allowed for name, _, _ in accesses(tree, strings=True)}
    unknown = touched - own - RELIED_ON.keys() - OTHERS - PARTS - OURS
    assert not unknown, f"List {unknown} in RELIED_ON, with what has it."
    imported = {
        f"{node.module}.{alias.name}"
        for tree in allowed
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("keras.src")
        for alias in node.names
    }
    assert imported == MODULES
    inherited = set().union(*INHERITED.values())
    stale = RELIED_ON.keys() - touched - inherited
    assert not stale, f"Nothing touches {stale} any more: take it out of RELIED_ON."


@pytest.mark.parametrize("name", RELIED_ON)
def test_keras_still_has(name):
    make, backends = RELIED_ON[name]
    if BACKEND not in backends:
        pytest.skip("not used on this backend")
    owner = make()
    assert hasattr(owner, name), (
        f"Keras {keras.__version__} has no `{name}` on {type(owner).__name__}, which "
        "keras_lrs relies on."
    )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_keras_still_has_the_module(module):
    assert importlib.import_module(module).__name__ == module


@pytest.mark.skipif(BACKEND != "jax", reason="the state of JAX's `fit`")
def test_jax_still_keeps_the_state_of_a_fit_in_the_model():
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(hasattr(self.model, "_jax_state"))

    trained = model()
    trained.fit(np.ones((4, 3)), np.ones((4, 1)), 2, verbose=0, callbacks=[Look()])
    assert seen == [True, True], (
        f"Keras {keras.__version__} has no `_jax_state` on a model that trains, which "
        "keras_lrs relies on."
    )


@pytest.mark.skipif(BACKEND != "jax", reason="the state of JAX's `fit`")
def test_the_frame_of_a_fit_on_jax_still_holds_its_state():
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found = fit_loop.jax_fit(self.model)
            seen.append((len(found["state"]), found["training_finished"]))

        def on_train_end(self, logs=None):
            seen.append(fit_loop.jax_fit(self.model)["training_finished"])

    model().fit(np.ones((2, 3)), np.ones((2, 1)), 2, verbose=0, callbacks=[Look()])
    assert seen == [(4, False), True], relied_on_in("_keras/fit_loop.py")


# What has no underscore and is promised nowhere either. Each of these tests names the
# module that relies on it.


def relied_on_in(module):
    return f"Keras {keras.__version__} has changed what {module} relies on."


def test_a_tracker_still_keeps_the_list_of_variables():
    optimizer = keras.optimizers.SGD(0.1)
    tracker = optimizer._tracker
    is_variable, variables = tracker.config["variables"]
    relied = relied_on_in("_keras/optimizers.py")
    assert variables is optimizer._variables, relied
    assert is_variable(keras.Variable(0.0)), relied
    assert tracker.stored_ids["variables"] == {id(v) for v in variables}, relied


def test_iterations_and_rate_still_come_before_all_slots():
    optimizer = averaging()
    names = [variable.name for variable in optimizer.variables]
    relied = relied_on_in("_keras/average_slots.py")
    assert names[:2] == ["iteration", "learning_rate"], relied
    averages = optimizer._model_variables_moving_average
    assert optimizer.variables[2 : 2 + len(averages)] == averages, relied


class Caller(keras.callbacks.Callback):
    """Looks at what calls it."""

    def set_model(self, model):
        super().set_model(model)
        self.callback_list = fit_loop.callback_list()

    def on_train_begin(self, logs=None):
        self.iterator = fit_loop._epoch_iterator(self.model)
        self.length = fit_loop.length(self.model)
        self.history = self.model.history


def test_the_frames_of_a_fit_still_hold_its_callbacks_and_its_data():
    caller = Caller()
    model().fit(np.ones((4, 3)), np.ones((4, 1)), 2, verbose=0, callbacks=[caller])
    relied = relied_on_in("_keras/fit_loop.py")
    assert caller in caller.callback_list.callbacks, relied
    assert isinstance(caller.iterator, epoch_iterator.EpochIterator), relied
    assert caller.length == (1, 2), relied
    for name in ("data_adapter", "steps_per_epoch"):
        assert hasattr(caller.iterator, name), relied


def test_the_adapter_of_grain_still_keeps_the_dataset_under_that_name():
    adapters = library("trainers.data_adapters.grain_dataset_adapter")()
    code = inspect.getsource(adapters.GrainDatasetAdapter.__init__)
    assert "self._dataset = dataset" in code, relied_on_in("_keras/fit_loop.py")


def test_a_model_still_gets_a_new_history_before_training_begins():
    callers = [Caller(), Caller()]
    for caller in callers:
        model().fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0, callbacks=[caller])
    one, other = (caller.history for caller in callers)
    relied = relied_on_in("_fit/run.py")
    assert one is not None, relied
    assert one is not other, relied


def test_callbacks_may_still_be_moved_while_the_model_is_handed_out():
    told = []

    class First(keras.callbacks.Callback):
        def set_model(self, model):
            super().set_model(model)
            callbacks = fit_loop.callback_list().callbacks
            callbacks.insert(0, callbacks.pop(callbacks.index(self)))
            told.append("first")

    class Other(keras.callbacks.Callback):
        def set_model(self, model):
            super().set_model(model)
            told.append("other")

    callbacks = [Other(), First(), Other()]
    model().fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0, callbacks=callbacks)
    assert told.count("first") == 1, relied_on_in("_fit/registry.py")
    assert told.count("other") >= 2, relied_on_in("_fit/registry.py")


def test_a_train_function_still_takes_and_returns_what_it_did():
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            function = self.model.train_function

            def train_function(*arguments):
                result = function(*arguments)
                seen.append((arguments, result))
                return result

            self.model.train_function = train_function

    trained = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    trained.compile(keras.optimizers.SGD(0.1), "mse")
    trained.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0, callbacks=[Look()])
    ((arguments, result),) = seen
    relied = relied_on_in("_fit/train_function.py")
    if BACKEND == "jax":
        state, _ = arguments
        logs, new_state = result
        assert len(state) == len(new_state) == 4, relied
        sizes = [len(part) for part in new_state]
        expected = [trained.trainable_variables, trained.non_trainable_variables]
        expected += [trained.optimizer.variables, trained.metrics_variables]
        assert sizes == [len(part) for part in expected], relied
    else:
        logs = result
        assert len(arguments) == 1, relied
    assert "loss" in logs, relied
