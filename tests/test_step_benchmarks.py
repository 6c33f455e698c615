"""The benchmark of training steps runs, and compares like with like."""

import dataclasses
import json
import math
import re

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests.programs import ROOT, load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

BACKEND = keras.backend.backend()
CELL = r"([\d.]+) \[([\d.]+), ([\d.]+)\]"


steps = load_program("benchmarks/steps")
FEW = [
    steps.REFERENCE,
    steps.CONTROL,
    "`optimizers.Scheduled`",
    "`WeightAveraging`",
    "Keras: `use_ema`",
    "`OneCycleScheduler`, `HyperparameterLogger(every=1)`",
    "hand-written 1cycle, logging the rate",
]
FITS = steps.FITS[:2]
TINY = steps.Size(seconds=0.0, rounds=2, fresh=1)


def contender(name):
    return next(each for each in steps.CONTENDERS if each.name == name)


def configuration(name=None):
    """Of this backend, with epochs of two executions at most."""
    found = next(
        each
        for key, each in steps.CONFIGURATIONS.items()
        if name in (None, key) and each.backend == BACKEND
    )
    return dataclasses.replace(found, steps=2)


@pytest.fixture(scope="module")
def result():
    contenders = [contender(name) for name in FEW]
    found = steps.measured(configuration(), TINY, contenders, FITS)
    return contenders, json.loads(json.dumps(found))


def test_every_sample_is_a_time(result):
    _, found = result
    assert list(found["steps"]) == [steps.ADAM]
    assert list(found["steps"][steps.ADAM]) == FEW
    for samples in found["steps"][steps.ADAM].values():
        assert len(samples) == TINY.rounds
        assert all(math.isfinite(sample) and sample > 0.0 for sample in samples)
    assert list(found["fits"]) == [each.name for each in FITS]
    for samples in found["fits"].values():
        assert len(samples["first"]) == TINY.fresh
        assert len(samples["later"]) == TINY.fresh * steps.LATER_FITS
        assert all(sample > 0.0 for sample in samples["first"] + samples["later"])


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return {
        cells[0]: cells[1:] for cells in (line[2:-2].split(" | ") for line in lines)
    }


def test_tables_have_a_row_for_every_contender(result):
    contenders, found = result
    results = {"here": found, "there": found}
    rows = rows_of(steps.markdown(results, contenders))
    assert rows[""] == ["here", "there"]
    assert f"**{steps.ADAM}: {steps.REFERENCE}**" in rows
    for name in FEW[1:]:
        here, there = rows[name]
        assert here == there
        median, low, high = map(float, re.fullmatch(CELL, here).groups())
        assert 0.0 < low <= median <= high
    for each in FITS:
        assert {f"first: {each.name}", f"later: {each.name}"} <= set(rows)


def test_aims_have_a_row_for_each_contender_of_ours(result):
    contenders, found = result
    rows = rows_of(steps.aims_of({"here": found}, contenders))
    names = [each.name for each in contenders if each.name.startswith("`")]
    assert list(rows)[2:] == [f"{steps.ADAM}: {name}" for name in names]
    for (cell,) in list(rows.values())[2:]:
        assert cell.split(":")[0] in ("above", "met", "undecided")


def test_aims_allow_for_the_noise_of_the_control():
    def cell(of_control, of_ours):
        reference = [1.0, 1.1, 1.2]
        samples = {
            steps.REFERENCE: reference,
            steps.CONTROL: [of_control * sample for sample in reference],
            "ours": [of_ours * sample for sample in reference],
        }
        ours = steps.ours(steps.ADAM, "ours", target=1.05)
        text = steps.aims_of({"here": {"steps": {steps.ADAM: samples}}}, [ours])
        return rows_of(text)[f"{steps.ADAM}: ours"]

    assert cell(1.0, 1.0) == ["met: 1.00 [1.00, 1.00], aim 1.05"]
    assert cell(1.0, 1.25) == ["above: 1.25 [1.25, 1.25], aim 1.05"]
    assert cell(0.75, 1.25) == ["met: 1.25 [1.25, 1.25], aim 1.05 + noise 0.25"]


def test_epochs_of_larger_models_are_shorter_and_of_whole_executions():
    for each in steps.CONFIGURATIONS.values():
        executed = each.options.get("steps_per_execution", 1)
        long, short = (steps.length(each, w) for w in (steps.ADAM, steps.ADAMW))
        assert long == each.steps
        assert 0 < short <= long / 2
        assert long % executed == short % executed == 0


def test_contenders_are_told_apart_and_have_a_reference():
    for each in (steps.CONTENDERS, steps.FITS):
        assert len({(c.workload, c.name) for c in each}) == len(each)
    for workload in steps.WORKLOADS:
        names = [c.name for c in steps.CONTENDERS if c.workload == workload]
        assert names[:2] == [steps.REFERENCE, steps.CONTROL]


@pytest.mark.parametrize(
    "each", steps.CONTENDERS, ids=lambda each: f"{each.workload}: {each.name}"
)
def test_contenders_train_with_positive_rates(each, tmp_path):
    rate = each.rate(keras.optimizers.schedules, lrs)
    model, optimizer = steps.WORKLOADS[each.workload](rate, **each.options)
    optimizer = each.wrapped(optimizer, lrs)
    assert isinstance(optimizer, keras.optimizers.Optimizer)
    assert optimizer.use_ema == ("use_ema" in each.name)
    assert f"{len(model.trainable_variables)} variables" in each.workload
    for step in (1, 700, 30_000):
        value = rate if isinstance(rate, float) else rate(step)
        assert 0.0 < float(keras.ops.convert_to_numpy(value)) < 0.01
    for callback in each.callbacks(lrs, tmp_path):
        assert isinstance(callback, keras.callbacks.Callback)
        assert has_batch_hooks(callback) == each.name.startswith("hand-written")


def has_batch_hooks(callback):
    """Whether Keras waits for every batch because of it."""
    return any(
        getattr(type(callback), name) is not getattr(keras.callbacks.Callback, name)
        for name in ("on_train_batch_begin", "on_train_batch_end")
    )


def test_the_stopwatch_has_no_batch_hooks():
    assert not has_batch_hooks(steps.stopwatch_of(None))


def test_keras_and_we_give_the_same_rates():
    schedules = keras.optimizers.schedules
    for theirs, ours in [
        ("Keras: cosine with warmup", "`Warmup(CosineAnnealing)`"),
        ("Keras: piecewise, 100 boundaries", "`PiecewiseConstant`, 100 boundaries"),
    ]:
        first = contender(theirs).rate(schedules, lrs)
        second = contender(ours).rate(schedules, lrs)
        at = [0, 1, 250, 499, 501, 7_777, 33_333, 77_777]
        rates = [float(keras.ops.convert_to_numpy(first(step))) for step in at]
        np.testing.assert_allclose(second(np.array(at)), rates, rtol=2e-3, atol=1e-8)


def test_a_hand_written_callback_follows_our_schedule(tmp_path):
    trainee = steps.Trainee(
        contender("hand-written 1cycle, logging the rate"),
        configuration(),
        tmp_path,
    )
    trainee.fit(steps.data(20))
    (callback,) = trainee.callbacks
    ours = lrs.schedules.OneCycle(steps.RATE, 20).curve(20)
    np.testing.assert_allclose(callback.rates, ours, rtol=1e-4)


def test_the_program_measures_each_configuration_by_itself(
    result, monkeypatch, tmp_path, capsys
):
    contenders, found = result
    everything = {
        **found,
        "steps": dict.fromkeys(steps.WORKLOADS, found["steps"][steps.ADAM]),
    }
    names = []

    def measured_in_a_process(name, quick):
        assert quick
        names.append(name)
        return everything

    markdown, aims_of = steps.markdown, steps.aims_of
    monkeypatch.setattr(steps, "measured_in_a_process", measured_in_a_process)
    monkeypatch.setattr(steps, "markdown", lambda found: markdown(found, contenders))
    monkeypatch.setattr(steps, "aims_of", lambda found: aims_of(found, contenders))
    page, aims = tmp_path / "performance.md", tmp_path / "aims.md"
    page.write_text("# Another part\n", encoding="utf-8")
    files = ["--output", str(page), "--aims", str(aims), "--summaries", str(tmp_path)]
    steps.main(["--quick", "--backends", "jax", "torch", *files])
    assert names == ["JAX", "PyTorch"]
    written = page.read_text(encoding="utf-8")
    assert written.startswith(f"{steps.TITLE}\n")
    assert written.endswith("\n\n# Another part\n")
    printed = capsys.readouterr()
    assert printed.out.strip() in written
    assert aims.read_text(encoding="utf-8").strip() in printed.err
    summary = json.loads((tmp_path / "steps.json").read_text(encoding="utf-8"))
    assert summary["packages"]["keras"] == keras.__version__
    ratio = summary["measured"]["ratios"]["JAX"][steps.ADAM][FEW[2]]
    assert ratio["rounds"] == TINY.rounds
    samples = found["steps"][steps.ADAM]
    each = np.divide(samples[FEW[2]], samples[FEW[0]])
    np.testing.assert_allclose(ratio["median"], np.median(each), rtol=1e-4)


def test_the_report_in_the_repository_is_of_these_contenders():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = rows_of(load_program("benchmarks/report").parts_of(text)[steps.TITLE])
    for each in steps.CONTENDERS:
        if each.name != steps.REFERENCE:
            assert len(rows[each.name]) == len(steps.CONFIGURATIONS)
