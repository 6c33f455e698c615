"""The benchmark of training steps runs, and compares like with like."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests.programs import ROOT, load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

BACKEND = keras.backend.backend()


steps = load_program("benchmarks/steps")
FEW = [
    steps.REFERENCE,
    steps.CONTROL,
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


@pytest.mark.parametrize("verbose", [False, True])
def test_tables_have_a_row_for_every_contender(result, verbose):
    contenders, found = result
    results = {"here": found, "there": found}
    rows = rows_of(steps.markdown(results, verbose, contenders))
    assert rows[""] == ["here", "there", "target", ""]
    assert f"**{steps.ADAM}: {steps.REFERENCE}, us**" in rows
    for name in FEW[1:]:
        here, there, target, met = rows[name]
        assert here == there
        assert float(here.split(" ")[0]) > 0.0
        assert ("[" in here) == verbose
        assert bool(target) == bool(met) == name.startswith("`")
    assert rows["rounds"][0] == str(TINY.rounds)
    for each in FITS:
        assert {f"first: {each.name}", f"later: {each.name}"} <= set(rows)


def test_targets_allow_for_the_noise_of_the_control():
    def cells(of_control, of_ours):
        reference = [1.0, 1.1, 1.2]
        samples = {
            steps.REFERENCE: reference,
            steps.CONTROL: [of_control * sample for sample in reference],
            "ours": [of_ours * sample for sample in reference],
        }
        ratios = {name: steps.Ratio.of(s, reference) for name, s in samples.items()}
        ours = steps.ours(steps.ADAM, "ours", target=1.05)
        return steps.target_cells(ours, {"here": {steps.ADAM: ratios}})

    assert cells(1.0, 1.0) == ["1.05", "met"]
    assert cells(1.0, 1.2) == ["1.05", "not met: here"]
    assert cells(0.8, 1.2) == ["1.05", "met within noise"]


def test_a_minimum_without_its_median_is_noise():
    reference = [1.0, 1.0, 1.0]
    assert steps.Ratio.of([2.0, 1.0, 2.0], reference).excess(1.0) == 0.0
    assert steps.Ratio.of([2.0, 1.5, 2.0], reference).excess(1.0) == 0.5


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
    model, _ = steps.WORKLOADS[each.workload](rate)
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

    markdown = steps.markdown
    monkeypatch.setattr(steps, "measured_in_a_process", measured_in_a_process)
    monkeypatch.setattr(
        steps, "markdown", lambda found, verbose: markdown(found, verbose, contenders)
    )
    path = tmp_path / "performance.md"
    path.write_text("# Top\n", encoding="utf-8")
    steps.main(["--quick", "--backends", "jax", "torch", "--output", str(path)])
    assert names == ["JAX", "PyTorch"]
    written = path.read_text(encoding="utf-8")
    assert written.startswith(f"# Top\n\n{steps.TITLE}\n")
    assert capsys.readouterr().out.strip() in written


def test_the_report_in_the_repository_is_of_these_contenders():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = rows_of(load_program("benchmarks/report").parts_of(text)[steps.TITLE])
    for each in steps.CONTENDERS:
        if each.name != steps.REFERENCE:
            assert len(rows[each.name]) == len(steps.CONFIGURATIONS) + 2
