"""Tests that the example of a mean teacher compares, and reports, what it says."""

import re
import types

import keras
import numpy as np
import pytest

from tests.programs import load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

program = load_program("examples/mean_teacher")


def test_prints_a_table_and_paired_intervals(capsys):
    program.main(["--seeds", "2", "--steps", "3"])
    printed = capsys.readouterr().out
    for name in program.METHODS:
        assert re.search(rf"^\| {name} +\| [\d.]+ ± [\d.]+ +\|$", printed, re.M)
    for other in program.METHODS[:2]:
        assert re.search(
            rf"^Mean teacher over {other}: [+-][\d.]+ ± [\d.]+ points", printed, re.M
        )


def test_gains_are_paired_by_seed():
    found = {
        "supervised": [70.0, 80.0],
        "its average": [71.0, 81.0],
        "student": [72.0, 82.0],
        "mean teacher": [73.0, 83.0],
    }
    lines = list(program.report(found))
    assert lines[-2].startswith("Mean teacher over supervised: +3.00 ± 0.00 points")
    assert lines[-1].startswith("Mean teacher over its average: +2.00 ± 0.00 points")


def test_few_images_have_a_label_and_the_same_in_every_batch():
    (x, y), _ = program.load_data()
    images, targets = program.make_batches((x, y), labels=2, steps=7, seed=0)
    assert images.shape == (7 * 64, 8, 8, 1)
    batches = targets.reshape(7, 64)
    assert (batches[:, 16:] == program.NO_LABEL).all()
    labeled = images[targets != program.NO_LABEL]
    assert len(np.unique(labeled.reshape(len(labeled), -1), axis=0)) == 20
    counts = np.bincount(targets[targets != program.NO_LABEL])
    assert len(counts) == 10
    assert counts.max() - counts.min() <= 3


def test_both_methods_begin_with_the_same_weights_and_see_the_same_batches():
    data = program.load_data()
    options = types.SimpleNamespace(seeds=1, labels=2, steps=2, consistency=0.0)
    found = program.compare(data, options)
    assert found["supervised"] == found["student"]
    assert found["its average"] == found["mean teacher"]


def test_the_teacher_is_the_average_of_the_student():
    data = program.load_data()
    model = program.make_model(consistency=1.0)
    x, y = program.make_batches(data[0], labels=2, steps=4, seed=0)
    model.fit(x, y, program.BATCH, shuffle=False, verbose=0)
    averages = model.averager.averages
    sources = model.averager.sources
    by_path = dict(zip([v.path for v in sources], averages, strict=True))
    assert len(averages) == 12
    for variable, ours in zip(
        model.student.weights, model.teacher.weights, strict=True
    ):
        expected = keras.ops.convert_to_numpy(by_path[variable.path].value)
        np.testing.assert_array_equal(ours.numpy(), expected)
