"""The fixture of two parity tests: timm without torchvision."""

import importlib
import importlib.util
import sys
import types

import pytest


@pytest.fixture(scope="module")
def timm():
    """`timm.scheduler` without timm itself, which would import torchvision."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    saved = {name: sys.modules.pop(name) for name in _loaded()}
    package = types.ModuleType("timm")
    package.__path__ = importlib.util.find_spec("timm").submodule_search_locations
    sys.modules["timm"] = package
    yield importlib.import_module("timm.scheduler")
    for name in _loaded():
        del sys.modules[name]
    sys.modules.update(saved)


def _loaded():
    return [name for name in sys.modules if name.split(".")[0] == "timm"]
