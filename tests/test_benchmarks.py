"""The benchmarks compare like with like."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests.programs import ROOT, load_program

contenders = load_program("benchmarks/contenders")
report = load_program("benchmarks/report")

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


def test_a_part_of_a_report_replaces_the_one_of_its_title(tmp_path):
    path = tmp_path / "report.md"
    for part, expected in (
        ("# One\n\nfirst\n\n## More", "# One\n\nfirst\n\n## More\n"),
        ("# Two\n\nfirst", "# One\n\nfirst\n\n## More\n\n# Two\n\nfirst\n"),
        ("# One\n\nnew", "# One\n\nnew\n\n# Two\n\nfirst\n"),
    ):
        report.write_part(path, part)
        assert path.read_text(encoding="utf-8") == expected


def test_the_report_in_the_repository_has_all_parts():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for name in ("averaging", "device", "ensembles", "growth", "steps"):
        program = load_program(f"benchmarks/{name}")
        assert f"{program.TITLE}\n" in text
