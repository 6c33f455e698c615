"""The benchmark of ensembles runs, and puts its tables where they belong."""

import json
import math

import keras
import pytest

from tests.programs import load_program
from tests.test_step_benchmarks import rows_of

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

BACKEND = keras.backend.backend()
benchmark = load_program("benchmarks/ensembles")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(benchmark, "LARGE", 8)
    patch.setattr(benchmark, "SAMPLES", {benchmark.MLP: 40, benchmark.CONVNET: 33})
    patch.chdir(tmp_path_factory.mktemp("disk"))
    yield json.loads(json.dumps(benchmark.measured(rounds=2)))
    patch.undo()


def test_every_sample_is_a_time(result):
    for samples in result["predict"].values():
        assert set(samples) == {"ensemble", "alone", "again"}
        for seconds in samples.values():
            assert len(seconds) == 2
            assert all(math.isfinite(s) and s > 0.0 for s in seconds)
    assert result["write"]["bytes"] > 2 * 8 * 8 * 4


def test_tables_have_a_row_for_every_backend_and_model(result):
    text = benchmark.markdown({BACKEND: result})
    assert text.startswith(benchmark.TITLE)
    rows = rows_of(text)
    for name in (benchmark.MLP, benchmark.CONVNET):
        backend, _, again, ours = rows[name]
        assert backend == BACKEND
        assert float(again.split()[0]) > 0.0
        assert float(ours.split()[0]) > 0.0
    assert float(rows[BACKEND][4]) > 0.0


def test_aims_are_said_with_whether_they_were_met(result):
    rows = rows_of(benchmark.aims_of({BACKEND: result}))
    for name in (benchmark.MLP, benchmark.CONVNET):
        said, aim = rows[name][0].split(", aim ")
        assert said.split(":")[0] in ("met", "above", "undecided")
        assert float(aim.split()[0]) == benchmark.TARGETS[BACKEND, name]
