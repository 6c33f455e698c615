"""The benchmarks compare like with like."""

import importlib.util
import pathlib
import sys

import keras
import numpy as np
import pytest

import keras_lrs as lrs

PATH = pathlib.Path(__file__).parents[1] / "benchmarks" / "contenders.py"
SPEC = importlib.util.spec_from_file_location("keras_lrs_contenders", PATH)
contenders = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = contenders  # Where its dataclass looks for its module.
SPEC.loader.exec_module(contenders)

ROWS = [row for row in contenders.ROWS if row.keras and not row.too_large]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_keras_and_we_give_the_same_rates_in_a_row_of_the_benchmark(row):
    ours = row.ours(lrs.schedules)
    theirs = row.keras(keras.optimizers.schedules)
    steps = [0, 1, 7, 500, 999, 1500, 33_334, 77_777, 250_001, 500_003]
    rates = [float(keras.ops.convert_to_numpy(theirs(step))) for step in steps]
    # Keras's float32 is not better than this at such steps.
    np.testing.assert_allclose(ours(np.array(steps)), rates, rtol=2e-3, atol=1e-7)


def test_every_row_has_a_schedule_of_ours():
    assert len(contenders.ROWS) == len({row.name for row in contenders.ROWS})
    for row in contenders.ROWS:
        assert isinstance(row.ours(lrs.schedules), lrs.schedules.Schedule)
