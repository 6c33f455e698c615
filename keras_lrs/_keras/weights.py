"""All weights of a model, in memory and in files."""

import contextlib
import io
import pathlib
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops
from keras.src.saving import saving_lib

from keras_lrs._keras import adapted, interrupts, scopes
from keras_lrs._keras.models import layers


class WeightsCopy:
    """What a `.weights.h5` file of Keras holds: arrays in the host's memory.

    A model writes itself into the copy as it would into a file. The bytes of
    the file can be made later, without the model.
    """

    def __init__(self) -> None:
        self._groups: list[tuple[str, Any, _Group]] = []

    def content(self) -> bytes:
        """The bytes of the file that Keras would write; also in a thread.

        Never write HDF5 to a disk: where that is full, HDF5 kills the process later.
        """
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            for inner_path, metadata, group in self._groups:
                if not metadata and not group:
                    continue
                found = file.require_group(f"{inner_path}/vars".lstrip("/"))
                found.attrs.update(metadata or {})
                for key, array in group.items():
                    dataset = found.create_dataset(key, data=array)
                    if array.dtype.name == "bfloat16":  # Which HDF5 does not know.
                        dataset.attrs["dtype"] = "bfloat16"
        return buffer.getvalue()

    def make(self, path: str, metadata: Any = None) -> "_Group":
        """Makes room for the variables of a layer, as `H5IOStore.make` does."""
        group = _Group()
        self._groups.append((path, metadata, group))
        return group


class _Group(dict):
    def __setitem__(self, key, value):
        value = value.value if isinstance(value, keras.Variable) else value
        array = ops.convert_to_numpy(value)
        # Never the memory that the next step overwrites, which it may be on a CPU.
        super().__setitem__(key, array if array.flags.owndata else array.copy())


class _CopyStore(saving_lib.H5IOStore):
    """What `_save_state`, which asks for the class, takes for an open file."""

    def __init__(self, copy):
        self.make = copy.make

    def __bool__(self):
        return True


def copied_weights(model: Any, state: Any = None) -> WeightsCopy:
    """Copies all that a model's weights file holds, without the optimizer.

    Args:
        model: A built model.
        state: On JAX, the values of the trainable and of the other variables, where
            they are not in the variables.
    """
    copy = WeightsCopy()
    scope: Any = contextlib.nullcontext()
    if state is not None:
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        values = [value for values in state for value in values]
        scope = scopes.stateless(zip(variables, values, strict=True))
    skipped = {id(one) for one in _not_weights(model)}
    with scope:
        saving_lib._save_state(model, _CopyStore(copy), None, "", skipped)
    return copy


def loaded_weights(model: Any, content: Any) -> list[np.ndarray]:
    """The values that a weights file has for `model.variables`; the model keeps its.

    Args:
        model: A built model.
        content: The bytes of the file.

    Raises:
        ValueError: If the file is that of another model.
    """
    # Not by `load_weights`, which needs a file: where a disk is full, there is no room.
    store = saving_lib.H5IOStore(io.BytesIO(content), mode="r")
    skipped = {id(one) for one in _not_weights(model)}
    # In this scope an assignment changes the scope and not the variable.
    with _loading_modules(model), adapted.kept(model), scopes.stateless() as scope:
        _load(model, store, None, skipped)
    store.close()
    for variable in model.weights:
        if scope.get_current_value(variable) is None:
            raise ValueError(f"There is no value for `{variable.path}`.")
    # The states of random generators are variables but not in the file.
    with scope:
        return [np.array(ops.convert_to_numpy(v.value)) for v in model.variables]


def _load(model, store, assets, skipped):
    """Gives a model what stores hold; raises if they are those of another model."""
    failed: set[int] = set()
    errors: dict[int, Any] = {}
    saving_lib._load_state(
        model,
        store,
        assets,
        "",
        visited_saveables=skipped,
        failed_saveables=failed,
        error_msgs=errors,
    )
    if failed:
        _, error = next(iter(errors.values()))
        raise ValueError(f"{len(failed)} layers cannot be loaded: {error}")


@contextlib.contextmanager
def _loading_modules(model):
    """Within it modules of PyTorch load into variables as all other layers do."""
    kind = keras.layers.TorchModuleWrapper
    wrappers = [one for one in layers(model) if isinstance(one, kind)]
    with interrupts.undoing() as undo:
        for wrapper in wrappers:
            undo.callback(vars(wrapper).pop, "load_own_variables", None)
            vars(wrapper)["load_own_variables"] = _loader(wrapper)
        yield


def _loader(wrapper):
    variables = {id(variable.value): variable for variable in wrapper.variables}
    named = [(name, variables[id(p)]) for name, p in wrapper.module.named_parameters()]
    buffers = {name: b.cpu().numpy() for name, b in wrapper.module.named_buffers()}

    def load_own_variables(store):
        for name, variable in named:
            variable.assign(store[name][...])
        for name, buffer in buffers.items():
            if not np.array_equal(buffer, store[name][...]):
                raise ValueError(
                    f"`{name}` of the module in `{wrapper.name}` is a buffer, which is "
                    "no variable of the model. Load the file by `model.load_weights`."
                )

    return load_own_variables


def hand_over(model: Any, clone: Any, values: list) -> None:
    """Gives a clone what files of a model hold, as Keras saves and loads them.

    That is also the state that is no variable, such as vocabularies.

    Args:
        model: A built model.
        clone: Another one, made from its configuration.
        values: What the variables of the clone get, in the order of `model.variables`.
    """
    copy, skipped = WeightsCopy(), {id(one) for one in _not_weights(model)}
    assets = saving_lib.DiskIOStore("assets", mode="w")
    try:
        with scopes.stateless(zip(model.variables, values, strict=True)):
            saving_lib._save_state(model, _CopyStore(copy), assets, "", skipped)
        store = saving_lib.H5IOStore(io.BytesIO(copy.content()), mode="r")
        written = saving_lib.DiskIOStore(assets.working_dir, mode="r")
        _load(clone, store, written, set())
        store.close()
    finally:
        assets.close()
    # The seeds of random generators are not in files.
    set_weights(clone, values)


def set_weights(model: Any, values: list) -> None:
    """Assigns values to `model.variables`."""

    def assign_all():
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)

    interrupts.finish(assign_all)


def save_own_weights(layer: Any, path: pathlib.Path) -> None:
    """Saves the variables of a layer by itself, as those of a model are."""
    saving_lib.save_weights_only(layer, path)


def load_own_weights(layer: Any, path: pathlib.Path) -> None:
    """Loads them."""
    saving_lib.load_weights_only(layer, path)


def _not_weights(model):
    """What is saved beside the weights of a compiled model."""
    kinds = (keras.Optimizer, keras.Metric, keras.Loss)
    own = [value for value in vars(model).values() if isinstance(value, kinds)]
    return [*own, *model.metrics]
