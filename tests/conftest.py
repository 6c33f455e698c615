"""Settings shared by all tests."""

import gc
import os
import pathlib
import sys

import pytest

from tests import thinning

# Two workers on two cores: no library may start threads of its own for each.
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# JAX compiles what it has compiled before, in another test or process, only once.
_CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

LEFT_OUT = pytest.StashKey[str]()


def pytest_addoption(parser):
    """Adds what says how many tests are left out."""
    parser.addoption(
        "--all", action="store_true", help="run every parameter of every test"
    )
    parser.addoption(
        "--quick", action="store_true", help="leave out programs and what is slow"
    )
    parser.addoption(
        "--thin", action="store_true", help="thin parameters out in named files too"
    )


@pytest.fixture(autouse=True)
def seeded():
    """The same weights and batches every time, whatever was tested before."""
    import keras  # Which reads the variables above.

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def same_backend(request):
    """The variables that programs set for Keras, which is imported already."""
    if request.node.get_closest_marker("program"):
        import keras

        monkeypatch = request.getfixturevalue("monkeypatch")
        monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(autouse=True)
def compiled_fast(request):
    """On JAX, programs make few steps, so most of their time is compiling."""
    if not (request.node.get_closest_marker("program") and "jax" in sys.modules):
        yield
        return
    config = sys.modules["jax"].config
    config.update("jax_disable_most_optimizations", True)
    yield
    config.update("jax_disable_most_optimizations", False)


@pytest.hookimpl(trylast=True)  # After `-k` and `-m`.
def pytest_collection_modifyitems(config, items):
    """Leaves out tests of another backend, and parameters that another one runs."""
    import keras

    backend, asked = keras.backend.backend(), thinning.asks_for_all(config)
    here = everything = list(items)
    if config.option.quick and not asked:
        here = [item for item in here if thinning.is_quick(item)]
    config.stash[thinning.collected] = here
    if not config.option.all:
        here = [item for item in here if thinning.runs_on(item, backend)]
    whole = config.option.all or asked or backend == thinning.WHOLE
    thin = config.option.thin or not whole
    kept = thinning.thinned(here) if thin else here
    items[:] = kept if asked else thinning.ordered(kept)
    if len(kept) == len(everything):
        return
    left_out = set(everything).difference(kept)
    config.hook.pytest_deselected(items=[one for one in everything if one in left_out])
    text = (
        f"Left out on {backend}: {len(everything) - len(here)} tests that are slow or "
        f"of another backend, and {len(here) - len(kept)} sets of parameters that "
        f"{thinning.WHOLE} runs. With --all and no --quick or --thin all would run."
    )
    config.stash[LEFT_OUT] = text
    if hasattr(config, "workeroutput"):
        config.workeroutput["left out"] = text


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Hands on what a worker of pytest-xdist says; all of them say the same."""
    text = getattr(node, "workeroutput", {}).get("left out")
    if text:
        node.config.stash[LEFT_OUT] = text


def pytest_terminal_summary(terminalreporter, config):
    """Says how much was left out."""
    if LEFT_OUT in config.stash:
        terminalreporter.write_line(config.stash[LEFT_OUT])


def pytest_collection_finish():
    """No garbage collection walks again what was imported, 400,000 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 1_000)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """Nor what earlier tests have left. Models are freed before they get cold."""
    reported = yield
    is_last = nextitem is None or nextitem.path != item.path
    if is_last and "jax" in sys.modules:  # Which keeps every compiled function.
        sys.modules["jax"].clear_caches()
    gc.collect()
    gc.freeze()
    return reported
