"""Loads the programs in `examples`, `benchmarks` and `docs`, which are no packages."""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def load_program(name):
    """A program by its path from the root, `"examples/quickstart"`.

    The modules of a folder import each other by names too common to keep: the folders
    of examples and of benchmarks both have an `averaging`.
    """
    path = ROOT / f"{name}.py"
    names = {each.stem for each in path.parent.glob("*.py")}
    others = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    sys.path.insert(0, str(path.parent))
    try:
        return importlib.import_module(path.stem)
    finally:
        sys.path.remove(str(path.parent))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(others)
