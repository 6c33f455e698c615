"""Calls functions in processes of their own, where nothing has been computed yet."""

import concurrent.futures
import contextlib
import importlib
import multiprocessing
import os
import random

import keras

# In seconds, and far above what the slowest machine needs: what takes longer, hangs.
HANGS = 1_800

# Importing a backend takes longer than what most processes do. So one process imports
# it, and forks itself for each of the others: before a backend starts threads, because
# a fork has none of them.
_METHODS = multiprocessing.get_all_start_methods()
context = multiprocessing.get_context(
    "forkserver" if "forkserver" in _METHODS else "spawn"
)
context.set_forkserver_preload(
    [
        "keras_lrs",
        "tests.callbacks.averaged",
        "tests.callbacks.resumed",
        "tests.catalogue",
        "tests.ensembles.resumed",
        "tests.optimizers.resumed",
        "tests.processes",
        "tests.tuning.sharing",
        # Keras seeds TensorFlow on every backend, if it is installed.
        "tensorflow",
    ]
)


def call(function, *arguments):
    """Returns what a function of a module returns in a new process.

    The process draws other random numbers than this one and every other, and the same
    in every run of the test.
    """
    seed = random.getrandbits(32)
    with concurrent.futures.ProcessPoolExecutor(
        1, context, keras.utils.set_random_seed, (seed,)
    ) as pool:
        return pool.submit(function, *arguments).result()


def call_with_devices(module, *environments):
    """Calls `main` of a module in a new process, which may say what devices there are.

    With several environments, in as many processes at the same time.
    """
    with contextlib.ExitStack() as stack:
        pools = [
            stack.enter_context(
                concurrent.futures.ProcessPoolExecutor(1, context, _set, (environment,))
            )
            for environment in environments or ({},)
        ]
        for called in [pool.submit(_main, module) for pool in pools]:
            called.result(timeout=HANGS)


def _set(environment):
    for name in [name for name in os.environ if name.endswith("_THREADS")]:
        del os.environ[name]  # The threads of one device wait for those of the other.
    os.environ.update(environment)


def _main(module):
    importlib.import_module(module).main()
