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

from keras_lrs._keras import adapted, hdf5, interrupts, scopes
from keras_lrs._keras.models import layers


class WeightsCopy:
    """The content of a Keras `.weights.h5` file, as arrays in the host's memory.

    A model writes itself into the copy as it would into a file. The bytes of the file
    can be made later, without the model.
    """

    def __init__(self) -> None:
        self._groups: list[tuple[str, Any, _Group]] = []

    def content(self) -> bytes:
        """Returns the bytes of the file that Keras would write; it may run in a thread.

        It never writes HDF5 to a disk, because HDF5 later kills the process if the disk
        is full.
        """
        return b"".join(self.pieces())

    def pieces(self) -> list[Any]:
        """Returns the content in pieces, among them large arrays without a copy."""
        arrays = [array for *_, group in self._groups for array in group.values()]
        layout = hdf5.Layout(arrays, len(self._groups))
        with h5py.File(layout, "w") as file:
            for inner_path, metadata, group in self._groups:
                if not metadata and not group:
                    continue
                found = file.require_group(f"{inner_path}/vars".lstrip("/"))
                found.attrs.update(metadata or {})
                for key, array in group.items():
                    dataset = layout.add(found, key, array)
                    if array.dtype.name == "bfloat16":  # HDF5 does not have it.
                        dataset.attrs["dtype"] = "bfloat16"
        return layout.pieces()

    def make(self, path: str, metadata: Any = None) -> "_Group":
        """Makes a group for the variables of a layer, as `H5IOStore.make` does."""
        group = _Group()
        self._groups.append((path, metadata, group))
        return group


class _Group(dict):
    def __setitem__(self, key, value):
        value = value.value if isinstance(value, keras.Variable) else value
        array = ops.convert_to_numpy(value)
        # On a CPU it may be memory that the next step overwrites, so copy it.
        super().__setitem__(key, array if array.flags.owndata else array.copy())


class _CopyStore(saving_lib.H5IOStore):
    """An object that `_save_state`, which checks the class, takes for an open file."""

    def __init__(self, copy):
        self.make = copy.make

    def __bool__(self):
        return True


@scopes.closed
def copied_weights(model: Any, state: Any = None) -> WeightsCopy:
    """Copies everything that a model's weights file holds, without the optimizer.

    Args:
        model: A built model.
        state: On JAX, the values of the trainable and the other variables, if the
            variables do not hold them.
    """
    copy = WeightsCopy()
    scope: Any = contextlib.nullcontext()
    if state is not None:
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        values = [value for values in state for value in values]
        scope = keras.StatelessScope(list(zip(variables, values, strict=True)))
    skipped = {id(one) for one in _not_weights(model)}
    with scope:
        saving_lib._save_state(model, _CopyStore(copy), None, "", skipped)
    return copy


@scopes.closed
def loaded_weights(model: Any, content: Any) -> list[np.ndarray]:
    """Returns a weights file's values for `model.variables`; the model keeps its own.

    Args:
        model: A built model.
        content: The bytes of the file.

    Raises:
        ValueError: If the file belongs to another model.
    """
    # Not by `load_weights`, which needs a file, for which a full disk has no room.
    store = saving_lib.H5IOStore(io.BytesIO(content), mode="r")
    skipped = {id(one) for one in _not_weights(model)}
    # In this scope an assignment changes the scope instead of the variable.
    scope = keras.StatelessScope()
    with _loading_modules(model), adapted.kept(model), scope:
        _load(model, store, None, skipped)
    store.close()
    for variable in model.weights:
        if scope.get_current_value(variable) is None:
            raise ValueError(f"There is no value for `{variable.path}`.")
    # The states of random generators are variables but not in the file.
    with scope:
        return [np.array(ops.convert_to_numpy(v.value)) for v in model.variables]


def _load(model, store, assets, skipped):
    """Loads a model from stores; raises if they belong to another model."""
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
    """Makes PyTorch modules load into variables within the block, like other layers."""
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
                    f"`{name}` of the module in `{wrapper.name}` is a buffer, not a "
                    "variable of the model. Load the file with `model.load_weights`."
                )

    return load_own_variables


@scopes.closed
def hand_over(model: Any, clone: Any, values: list) -> None:
    """Gives a clone everything that files of a model hold.

    This includes state outside of variables, such as vocabularies.

    Args:
        model: A built model.
        clone: Another model, made from its configuration.
        values: The values for the variables of the clone, in the order of
            `model.variables`.
    """
    copy, skipped = WeightsCopy(), {id(one) for one in _not_weights(model)}
    assets = saving_lib.DiskIOStore("assets", mode="w")
    try:
        mapping = list(zip(model.variables, values, strict=True))
        with keras.StatelessScope(mapping):
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


@scopes.closed
def copied_own_weights(layer: Any) -> WeightsCopy:
    """Copies what the weights file of a single layer holds."""
    copy = WeightsCopy()
    saving_lib._save_state(layer, _CopyStore(copy), None, "", set())
    return copy


def load_own_weights(layer: Any, path: pathlib.Path) -> None:
    """Loads the variables in the file of a layer."""
    saving_lib.load_weights_only(layer, path)


def _not_weights(model):
    """Returns the parts of a compiled model that are saved besides its weights."""
    kinds = (keras.Optimizer, keras.Metric, keras.Loss)
    own = [value for value in vars(model).values() if isinstance(value, kinds)]
    return [*own, *model.metrics]
