"""Settings shared by all tests."""

import gc
import os
import pathlib

import pytest

# Two workers on two cores: no library may start threads of its own for each.
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# JAX compiles what it has compiled before, in another test or process, only once.
_CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# What takes long and depends little on the backend is tested on one of them: programs,
# and searches for bad input. With `EVERYWHERE=1` all is tested on each.
_ON = {
    "test_averaging_example.py": "tensorflow",
    "test_find_learning_rate_example.py": "tensorflow",
    "test_one_cycle_example.py": "tensorflow",
    "test_quickstart.py": "tensorflow",
    "test_snapshot_ensemble_example.py": "tensorflow",
    "test_altered.py": "tensorflow",
    "test_claims.py": "jax",
    "test_theory_examples.py": "jax",
    "test_cifar10_examples.py": "torch",
    "test_growth_benchmarks.py": "torch",
    "test_step_benchmarks.py": "torch",
    "test_benchmark.py": "torch",
    "test_arguments.py": "torch",
}


@pytest.fixture(autouse=True)
def seeded():
    """The same weights and batches every time, whatever was tested before."""
    import keras  # Which reads the variables above.

    keras.utils.set_random_seed(0)


def pytest_ignore_collect(collection_path):
    """Leaves out what is tested on another backend."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    elsewhere = _ON.get(collection_path.name, backend) != backend
    return True if elsewhere and "EVERYWHERE" not in os.environ else None


def pytest_collection_finish():
    """No garbage collection walks again what was imported, 400,000 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 1_000)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Nor what a module leaves, such as compiled functions."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()
