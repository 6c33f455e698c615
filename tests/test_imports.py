"""Imports go one way: from what is made of others down to the schedules."""

import ast
import graphlib
import pathlib

import pytest

import keras_lrs as lrs

PACKAGE = pathlib.Path(lrs.__file__).parent

# From the bottom. A module may import from its own layer and from those below it.
LAYERS = [
    {"schedules", "_storage"},
    {"averages"},
    {"_keras"},
    {"_step"},
    {"_fit"},
    {
        "callbacks",
        "checkpoints",
        "optimizers",
        "ensembles",
        # These touch models and files.
        "averages.averager",
        "averages.batch_norm",
        "averages.reconstruction",
        "averages.snapshots",
    },
    {"tuning"},
]

HEIGHTS = {name: height for height, names in enumerate(LAYERS) for name in names}

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = [name for name in FILES if not name.endswith("__init__")]


def imported(name):
    """The modules of the package that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            # The package by its bare name, where only the version is read of it.
            found = [a.name for a in node.names if a.name != "keras_lrs"]
        elif isinstance(node, ast.Attribute):
            whole = isinstance(node.value, ast.Name) and node.value.id == "keras_lrs"
            found = ["keras_lrs"] if whole and node.attr != "__version__" else []
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for dotted in found:
            package, _, inside = dotted.partition(".")
            if package == "keras_lrs":
                yield module(inside)


def module(dotted):
    """The module that holds a name, or that a name is."""
    while dotted and dotted not in FILES and f"{dotted}.__init__" not in FILES:
        dotted = dotted.rpartition(".")[0]
    return dotted


def height(name):
    """How far up the layer of a module is: that of its own, or of its folder."""
    while name not in HEIGHTS:
        name, dot, _ = name.rpartition(".")
        assert dot, f"no layer is named for {name or 'the top of the package'}"
    return HEIGHTS[name]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_its_own_layer_or_below(name):
    for other in imported(name):
        assert height(other) <= height(name), f"{name} imports {other}"


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: set(imported(name)) - {""} for name in MODULES}
    graphlib.TopologicalSorter(graph).prepare()


def test_the_numeric_vocabulary_imports_nothing_else():
    for name in MODULES:
        if name.startswith("schedules.numerics"):
            assert all(o.startswith("schedules.numerics") for o in imported(name)), name


def test_names_of_functions_lead_to_their_modules():
    assert module("schedules.base.Schedule") == "schedules.base"
    assert module("schedules.Epochs") == "schedules"
    assert "schedules.fields" in imported("schedules.plotting")
