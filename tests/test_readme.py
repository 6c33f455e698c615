"""The README and the overview: their code runs, their lists are complete."""

import pathlib
import re
import tomllib
from urllib.parse import unquote

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests import catalogue

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OVERVIEW = (ROOT / "docs" / "overview.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
URLS = PROJECT["urls"]
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
TASKS = re.findall(r"^\| \[(.*?)\]\(\S+\).*? \| `(.*?)`.*\|$", README, re.MULTILINE)


def problem():
    """A model that is compiled, and its data: eight batches per epoch."""
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    return model, np.ones((256, 4), "float32"), np.ones((256, 1), "float32")


def test_the_first_program_runs():
    model, x, y = problem()
    names = {"model": model, "x": x, "y": y}
    exec(BLOCKS[0], names)
    # Of the 80 steps the last is number 79, and 8 were the warmup.
    last = 0.1 * (1 + np.cos(np.pi * 71 / 72)) / 2
    rates = names["history"].history["learning_rate"]
    assert rates[-1] == pytest.approx(last, rel=1e-5)
    assert len(BLOCKS[0].splitlines()) == 6


def test_the_second_program_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"lrs": lrs}
    exec(BLOCKS[1], names)
    said = float(re.search(r"float\(schedule\(500\)\) +# ([\d.]+)", BLOCKS[1])[1])
    assert float(names["schedule"](500)) == pytest.approx(said, rel=1e-6)
    assert said == 0.1 * 500 / 1_000
    assert (tmp_path / "rates.png").stat().st_size > 0
    assert len(BLOCKS) == 2


def test_there_are_nine_tasks():
    assert len(TASKS) == 9


@pytest.mark.parametrize(("task", "code"), TASKS, ids=[task for task, _ in TASKS])
def test_a_task_runs_as_it_is_written(task, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, x, y = problem()
    names = {
        **{name: getattr(lrs.callbacks, name) for name in lrs.callbacks.__all__},
        **{name: getattr(lrs.schedules, name) for name in lrs.schedules.__all__},
        **{name: getattr(lrs, name) for name in ("Epochs", "layerwise_decay")},
        "ExponentialAverage": lrs.averages.ExponentialAverage,
        "range_test": lrs.tuning.range_test,
        "cosine": lrs.schedules.CosineAnnealing(0.1),
        **{"model": model, "x": x, "y": y},
    }
    found = eval(code, names)
    if not isinstance(found, keras.callbacks.Callback):
        assert 1e-7 < found < 10.0
        return
    callbacks = [found]
    if isinstance(found, lrs.callbacks.SnapshotEnsemble):
        restarts = lrs.schedules.CosineRestarts(0.1, lrs.Fraction(0.2), t_mul=1.0)
        callbacks.append(lrs.callbacks.HyperparameterScheduler(restarts))
    before = model.get_weights()
    model.fit(x, y, epochs=10, validation_data=(x, y), verbose=0, callbacks=callbacks)
    assert not np.array_equal(model.get_weights()[0], before[0])
    if isinstance(found, lrs.callbacks.SnapshotEnsemble):
        assert len(lrs.ensembles.load("snapshots", model).members) == 5


def test_it_is_short_enough_to_be_read():
    assert len(re.sub(r"\]\([^)]*\)", "]", README).split()) < 900


def test_the_badges_are_true():
    badges = dict(re.findall(r"^\[!\[(.+?)\]\((\S+?)\)\]\(", README, re.MULTILINE))
    for name in ("tests", "docs"):
        path = f"workflows/{name}.yml"
        assert badges.pop(name) == f"{URLS['Repository']}/actions/{path}/badge.svg"
        assert (ROOT / ".github" / path).exists()
    keras_needed = next(d for d in PROJECT["dependencies"] if d.startswith("keras"))
    assert list(badges) == [
        f"Python {PROJECT['requires-python'].replace('>=', '>= ')}",
        keras_needed.replace("keras>=", "Keras >= "),
        f"licence {PROJECT['license']}",
    ]
    # A picture shows the words that stand for it.
    for words, picture in badges.items():
        label, message, _ = re.split(r"(?<!-)-(?!-)", picture.rpartition("/")[2])
        shown = f"{label} {unquote(message).replace('_', ' ').replace('--', '-')}"
        assert shown == words


def test_every_address_is_of_something_that_is_there():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    site, repository = URLS["Documentation"], URLS["Repository"]
    raw = repository.replace("//github.com", "//raw.githubusercontent.com")
    ours = 0
    for link in links:
        # A relative link would be broken on the page of the package index.
        assert link.startswith("https://"), link
        path, _, anchor = link.partition("#")
        for start, folder in (
            (f"{site}/", ROOT / "docs"),
            (f"{repository}/blob/main/", ROOT),
            (f"{raw}/main/", ROOT),
        ):
            if path.startswith(start):
                ours += 1
                file = path.removeprefix(start).replace(".html", ".md")
                assert (folder / file).exists(), link
                assert not anchor
    assert ours > 20


def test_every_schedule_is_in_the_overview():
    table = OVERVIEW.partition("## Schedules")[2].partition("## Callbacks")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert named == set(catalogue.BOUND)


def test_every_callback_is_in_the_overview():
    table = OVERVIEW.partition("## Callbacks")[2].partition("##")[0]
    named = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    callbacks = set(lrs.callbacks.__all__) - {"FitCallback", "StepPart", "Wanted"}
    assert sorted(named) == sorted(callbacks)


def test_every_other_name_of_the_overview_exists():
    tables = OVERVIEW.partition("## For custom loops")[2].partition("## Conventions")[0]
    rows = re.findall(r"^\| (`.*?) \|", tables, re.MULTILINE)
    assert rows
    for line in rows:
        for name in re.findall(r"`([\w.]+)`", line):
            found = lrs
            for part in name.split("."):
                found = getattr(found, part)
