"""Every row of docs/migration: both calls exist, and give the same rates."""

import ast
import inspect
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import HyperparameterScheduler, OneCycleScheduler
from tests.parity import migration
from tests.parity.curves import assert_same_curve

PAGES = pathlib.Path(__file__).parents[2] / "docs" / "migration"
OURS = {
    name: getattr(module, name)
    for module in (
        lrs,
        lrs.averages,
        lrs.callbacks,
        lrs.optimizers,
        lrs.schedules,
        lrs.tuning,
    )
    for name in module.__all__
}
# A cycle and more after the decay of the tables has ended.
NUM_STEPS = 320


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(page, columns):
    """The rows of a page that have so many columns, without their head."""
    lines = (PAGES / f"{page}.md").read_text().splitlines()
    tables = [cells(line) for line in lines if line.startswith("| ")]
    return [row for row in tables if len(row) == columns and "keras_lrs" not in row]


def code(cell):
    """The only thing in a cell, which is code."""
    found = re.fullmatch("`([^`]+)`", cell)
    assert found, cell
    return found.group(1)


def schedules_of(page):
    return [
        pytest.param(code(theirs), code(ours), note, id=code(theirs))
        for theirs, ours, note in rows(page, 3)
    ]


def each_row_of(page):
    return pytest.mark.parametrize(("theirs", "ours", "note"), schedules_of(page))


def our(source):
    """What the right side makes."""
    return eval(source, {**OURS, **migration.NAMES})


def steps(note):
    """How many steps a row speaks of: up to and with that of "until `n`"."""
    until = re.search("until `([^`]+)`", note)
    return eval(until.group(1), dict(migration.NAMES)) + 1 if until else NUM_STEPS


def assert_same(ours, expected):
    # Peers subtract the numbers of cycles from times in cycles.
    assert_same_curve(our(ours), expected, rtol=1e-11, roundings=1000)


@each_row_of("keras")
def test_keras(theirs, ours, note):
    from tests.parity import test_keras

    peer = eval(theirs, {**vars(keras.optimizers.schedules), **migration.NAMES})
    # Keras subtracts the start of a cycle from a time in first cycles, and raises the
    # rounded rate of a decay to a power of ten.
    test_keras.assert_same_curve(
        our(ours), peer, NUM_STEPS, rtol=3e-6, roundings=200, one_by_one=True
    )


@each_row_of("torch")
def test_torch(theirs, ours, note):
    torch = pytest.importorskip("torch")
    peers = {**vars(torch.optim.lr_scheduler), "SWALR": torch.optim.swa_utils.SWALR}
    assert_same(ours, migration.stepped(theirs, steps(note), peers))


@each_row_of("optax")
def test_optax(theirs, ours, note):
    optax = pytest.importorskip("optax")
    from tests.parity import test_optax

    peer = eval(theirs, {**vars(optax.schedules), **migration.NAMES})
    assert_same(ours, test_optax.evaluated(peer, NUM_STEPS, compiled=False))


@each_row_of("timm")
def test_timm(timm, theirs, ours, note):
    peers = vars(timm)
    expected = migration.stepped(theirs, NUM_STEPS, peers, told_the_step=True)
    assert_same(ours, expected)


@each_row_of("transformers")
def test_transformers(theirs, ours, note):
    pytest.importorskip("torch")
    optimization = pytest.importorskip("transformers.optimization")
    peers = vars(optimization)
    assert_same(ours, migration.stepped(theirs, steps(note), peers))


def bound(schedule, total):
    return schedule.bind(total, migration.STEPS_PER_EPOCH)


@each_row_of("composer")
def test_composer(theirs, ours, note):
    expected = migration.composer(theirs, migration.TOTAL)
    schedule = bound(our(ours), migration.TOTAL)
    assert_same_curve(schedule, expected, rtol=1e-11, roundings=20)


@each_row_of("fastai")
def test_fastai(theirs, ours, note):
    expected, made = migration.fastai(theirs), our(ours)
    total = len(expected["lr"])
    rate = made
    if isinstance(made, HyperparameterScheduler):
        rate = made.schedules["learning_rate"]
    assert_same_curve(bound(rate, total), expected["lr"], rtol=1e-11, roundings=20)
    assert isinstance(made, OneCycleScheduler) == ("mom" in expected)
    if "mom" in expected:
        momentum = bound(made.mirrored, total)
        assert_same_curve(momentum, expected["mom"], rtol=1e-11)


@each_row_of("tf_addons")
def test_tf_addons(theirs, ours, note):
    assert_same(ours, migration.tf_addons(theirs, NUM_STEPS))


# --- What is no schedule ---


def resolved(node):
    """The object that a dotted name in a table means."""
    if isinstance(node, ast.Attribute):
        return getattr(resolved(node.value), node.attr)
    if isinstance(node, ast.Call):  # A method of what was made.
        made = resolved(node.func)
        return made if isinstance(made, type) else lrs.tuning.RangeTest
    assert isinstance(node, ast.Name)
    return keras if node.id == "keras" else OURS[node.id]


def assert_call_fits(node):
    """Asserts that a function takes the arguments that a call in a table gives it."""
    arguments = [ast.unparse(argument) for argument in node.args]
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    function = resolved(node.func)
    if inspect.isfunction(function) and "." in function.__qualname__:
        arguments.insert(0, "self")
    inspect.signature(function).bind(*arguments, **keywords)


OTHERS = [
    pytest.param(ours, test, id=f"{page.stem}: {theirs}")
    for page in sorted(PAGES.glob("*.md"))
    for theirs, ours, _, test in rows(page.stem, 4)
]


@pytest.mark.parametrize(("ours", "test"), OTHERS)
def test_what_is_no_schedule_is_a_call_that_exists(ours, test):
    calls = [node for node in ast.walk(ast.parse(code(ours))) if _is_call(node)]
    assert calls
    for call in calls:
        assert_call_fits(call)
    path = re.search(r"\]\((.+)\)", test).group(1)
    assert (PAGES / path).exists()


def _is_call(node):
    return isinstance(node, ast.Call)


def test_every_page_has_its_test():
    tested = {
        name.removeprefix("test_")
        for name in globals()
        if (PAGES / f"{name.removeprefix('test_')}.md").exists()
    }
    # `tests/test_names.py` tests the page of names.
    assert tested == {page.stem for page in PAGES.glob("*.md")} - {"names"}
    for page in tested:
        assert len(rows(page, 3)) >= 5


def test_pytorch_waits_for_one_more_than_its_patience():
    torch = pytest.importorskip("torch")
    from tests.callbacks.test_reduce_on_plateau import looks

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=4
    )
    values = np.random.default_rng(0).integers(1, 20, 60).tolist()
    factors = []
    for value in values:
        scheduler.step(float(value))
        factors.append(optimizer.param_groups[0]["lr"])
    assert min(factors) < 0.01
    ours = looks(
        [float(value) for value in values], patience=5, relative=True, min_delta=1e-4
    )
    np.testing.assert_allclose(ours, factors)


def test_keras_counts_one_look_less_of_a_cooldown():
    from tests.callbacks.test_reduce_on_plateau import (
        keras_reductions,
        looks,
        reductions,
    )

    theirs = keras_reductions([1.0] * 30, patience=5, cooldown=3)
    assert theirs == reductions(looks([1.0] * 30, patience=5, cooldown=2))
