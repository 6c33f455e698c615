"""The benchmark and the example of groups run, and compare what they say."""

import dataclasses
import math
import re

import numpy as np
import pytest

from keras_lrs import PerVariable
from tests.programs import load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

benchmark = load_program("benchmarks/groups")
example = load_program("examples/finetune_layerwise")


# --- The benchmark --------------------------------------------------------------------


def test_every_row_is_measured(monkeypatch):
    configurations = benchmark.steps.CONFIGURATIONS
    short = dataclasses.replace(configurations["PyTorch"], steps=3)
    monkeypatch.setitem(configurations, "PyTorch", short)
    size = benchmark.Size(seconds=0.0, rounds=2, fresh=0)
    found = benchmark.measured("PyTorch", size)
    assert list(found) == [benchmark.ONE, *benchmark.ROWS]
    for seconds in found.values():
        assert len(seconds) == 2
        assert all(math.isfinite(one) and one > 0.0 for one in seconds)
    text = benchmark.markdown({"PyTorch": found})
    for row in benchmark.ROWS:
        assert f"| {row}" in text
    aims = benchmark.aims_of({"PyTorch": found})
    for row in benchmark.OURS:
        assert f"| {row} | " in aims


def test_the_model_has_as_many_variables_and_groups_as_it_says():
    paths = [variable.path for variable in benchmark.network().trainable_variables]
    assert len(paths) == 42
    patterns = PerVariable({benchmark.pattern(i): 1.0 for i in range(benchmark.GROUPS)})
    assert {patterns.pattern_of(path) for path in paths} == set(patterns.patterns)


# --- The example ----------------------------------------------------------------------


def test_a_quick_run_prints_a_row_for_every_method(capsys):
    example.main(["--quick"])
    printed = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == list(example.RATES)
    for row in rows:
        assert 0.0 < float(re.match(r"[\d.]+", row[2]).group()) <= 100.0


def test_frozen_layers_keep_what_was_learned():
    data = example.load_data()
    old, new, test = example.make_tasks(data, held_out=False)
    assert set(old[1]) == set(new[1]) == set(test[1]) == set(range(5))
    chosen = example.choose(new, seed=0)
    assert sorted(chosen[1]) == sorted(list(range(5)) * example.SHOTS)
    weights = example.pretrain((old[0][:64], old[1][:64]), 0, epochs=1)
    model = example.make_model()
    for method in ("head alone", "gradual unfreezing", "from scratch"):
        example.finetune(model, method, 1e-2, weights, (chosen, test), 0, epochs=2)
        same = [
            np.array_equal(*pair)
            for pair in zip(weights, model.get_weights(), strict=True)
        ]
        assert same[-2:] == [False, False]
        assert all(same[:-2]) == (method == "head alone")


def test_what_is_held_out_is_no_test_data():
    data = example.load_data()
    _, new, test = example.make_tasks(data, held_out=True)
    _, whole, real_test = example.make_tasks(data, held_out=False)
    assert len(new[0]) + len(test[0]) == len(whole[0])
    np.testing.assert_array_equal(np.concatenate([new[0], test[0]]), whole[0])
    assert real_test[0].shape != test[0].shape
