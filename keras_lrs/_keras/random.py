"""The state of the global random generators, and the seeds of models."""

import random
import sys
from typing import Any

import numpy as np
from keras.src.backend.common import global_state
from keras.src.random import seed_generator

from keras_lrs._keras.variables import read, write

_KERAS_GENERATOR = "global_seed_generator"


def state() -> dict[str, Any]:
    """Returns the state of all global generators: a tree of numbers and arrays."""
    # Keras would create its generator on request, with a number from Python's.
    generator = global_state.get_global_attribute(_KERAS_GENERATOR)
    found = {
        "python": list(random.getstate()),
        # Data pipelines that shuffle or augment with NumPy use its global generator.
        "numpy": list(np.random.get_state()),  # noqa: NPY002
        "keras": None if generator is None else read([generator.state])[0],
    }
    # Data pipelines of both may feed any backend.
    if "torch" in sys.modules:
        found["torch"] = _torch_state(sys.modules["torch"])
    if "tensorflow" in sys.modules:
        found["tensorflow"] = _tensorflow_state()
    return found


def set_state(found: dict[str, Any]) -> None:
    """Restores the global generators to what `state` returned.

    It works in another process too, and if the state has been through JSON.
    """
    version, numbers, gauss = found["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(found["numpy"]))  # noqa: NPY002
    if found["keras"] is None:
        global_state.set_global_attribute(_KERAS_GENERATOR, None)
    else:
        write([seed_generator.global_seed_generator().state], [found["keras"]])
    if "torch" in sys.modules and "torch" in found:
        _set_torch_state(sys.modules["torch"], found["torch"])
    if "tensorflow" in sys.modules and "tensorflow" in found:
        _set_tensorflow_state(found["tensorflow"])


def seeds(model: Any) -> list:
    """Returns the variables of a model's random generators, which no file holds."""
    weights = {id(variable) for variable in model.weights}
    return [one for one in model.variables if id(one) not in weights]


def set_seeds(model: Any, number: int) -> None:
    """Gives the generators of a copy of a model different seeds.

    Args:
        model: The copy.
        number: The number of the copy.
    """
    for variable in seeds(model):
        if tuple(variable.shape) == (2,) and "int" in variable.dtype:
            seed, count = read([variable])[0].tolist()
            drawn = np.random.default_rng([abs(seed), number]).integers(1, 10**9)
            variable.assign([drawn, count])


def _torch_state(torch):
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "cpu": torch.get_rng_state().numpy().copy(),
        "cuda": [device.numpy().copy() for device in devices],
    }


def _set_torch_state(torch, found):
    torch.set_rng_state(torch.from_numpy(found["cpu"]))
    if found["cuda"]:
        torch.cuda.set_rng_state_all([torch.from_numpy(s) for s in found["cuda"]])


def _tensorflow_state():
    from tensorflow.python.eager import context
    from tensorflow.python.ops import stateful_random_ops

    eager = context.context()
    # It draws the seeds of eager operations; `tf.random.set_seed` makes it.
    seeds = getattr(eager, "_rng", None)
    generator = stateful_random_ops.global_generator
    return {
        "seed": getattr(eager, "_seed", None),
        "seeds": None if seeds is None else list(seeds.getstate()),
        "generator": None if generator is None else generator.state.numpy(),
    }


def _set_tensorflow_state(found):
    from tensorflow.python.eager import context
    from tensorflow.python.ops import stateful_random_ops

    eager = context.context()
    if found["seeds"] is not None:
        if getattr(eager, "_rng", None) is None or eager._seed != found["seed"]:
            eager._set_global_seed(found["seed"])
        version, numbers, gauss = found["seeds"]
        seeds = (version, tuple(numbers), gauss)
        if eager._rng.getstate() != seeds:
            eager._rng.setstate(seeds)
            # Every operation keeps its own state, so an operation that gets the same
            # seed again would continue where the first one ended.
            eager.clear_kernel_cache()
    if found["generator"] is None:
        stateful_random_ops.global_generator = None
    else:
        stateful_random_ops.get_global_generator().state.assign(found["generator"])
