"""Tests of `plot_schedules`."""

import errno
import os
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure

import keras_lrs as lrs
from keras_lrs.schedules import (
    Constant,
    CosineAnnealing,
    Epochs,
    ExponentialDecay,
    Fraction,
    LinearDecay,
    PiecewiseConstant,
    REXDecay,
    Warmup,
)

PNG = b"\x89PNG\r\n\x1a\n"


def names(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def curves(figure):
    """The drawn points of each line: pairs of steps and rates."""
    (axes,) = figure.axes
    return [line.get_data() for line in axes.get_lines()]


class Halved(keras.optimizers.schedules.LearningRateSchedule):
    """A user's schedule, without a config."""

    def __call__(self, step):
        return 0.5 * 0.9 ** keras.ops.cast(step, "float32")


# --- What is drawn --------------------------------------------------------------------


def test_draws_the_curve_of_a_schedule():
    schedule = REXDecay(0.1, 50)
    figure = lrs.plot_schedules(schedule, 80)
    ((steps, rates),) = curves(figure)
    assert isinstance(figure, Figure)
    assert steps.tolist() == list(range(80))
    np.testing.assert_array_equal(rates, schedule.curve(80))


def test_draws_one_line_per_schedule_in_order():
    figure = lrs.plot_schedules([Constant(0.2), LinearDecay(1.0, 4)], 5)
    assert [rates.tolist() for _, rates in curves(figure)] == [
        [0.2] * 5,
        [1.0, 0.75, 0.5, 0.25, 0.0],
    ]


def test_binds_open_lengths_to_the_number_of_steps():
    schedule = Warmup(CosineAnnealing(0.1), Fraction(0.1))
    ((_, rates),) = curves(lrs.plot_schedules(schedule, 200))
    np.testing.assert_array_equal(rates, schedule.bind(200).curve(200))


def test_draws_a_bound_schedule_as_it_is():
    schedule = Warmup(LinearDecay(0.1), Epochs(2)).bind(60, steps_per_epoch=10)
    ((_, rates),) = curves(lrs.plot_schedules(schedule, 100))
    np.testing.assert_array_equal(rates, schedule.curve(100))


def test_draws_schedules_of_keras():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 20, 0.0)
    ((_, rates),) = curves(lrs.plot_schedules(schedule, 30))
    np.testing.assert_allclose(rates, LinearDecay(0.1, 20).curve(30), atol=1e-8)


def test_draws_schedules_of_keras_that_take_one_step_at_a_time():
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, 6, warmup_target=0.1, warmup_steps=2
    )
    ((_, rates),) = curves(lrs.plot_schedules(schedule, 8))
    np.testing.assert_allclose(rates[:5], [0.0, 0.05, 0.1, 0.0933, 0.075], atol=1e-4)


def test_draws_schedules_of_users():
    figure = lrs.plot_schedules([Halved(), Constant(0.1)], 3)
    np.testing.assert_allclose(curves(figure)[0][1], [0.5, 0.45, 0.405], rtol=1e-6)
    assert names(figure) == ["Halved", "Constant"]


@pytest.mark.parametrize("num_steps", [10_001, 1_000_000, 10**10])
def test_draws_evenly_spaced_steps_of_a_long_training(num_steps):
    schedule = LinearDecay(1.0, num_steps)
    ((steps, rates),) = curves(lrs.plot_schedules(schedule, num_steps))
    assert len(steps) == 10_000
    assert (steps[0], steps[-1]) == (0, num_steps - 1)
    gaps = np.diff(steps)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    np.testing.assert_array_equal(rates, schedule(steps))


def test_draws_every_step_of_a_short_training():
    ((steps, _),) = curves(lrs.plot_schedules(Constant(0.1), 10_000))
    assert steps.tolist() == list(range(10_000))


def test_draws_a_single_step():
    ((steps, rates),) = curves(lrs.plot_schedules(Constant(0.5), 1))
    assert (steps.tolist(), rates.tolist()) == ([0], [0.5])


# --- Axes -----------------------------------------------------------------------------


def test_axes_are_labelled():
    (axes,) = lrs.plot_schedules(Constant(0.1), 10).axes
    assert axes.get_xlabel() == "step"
    assert axes.get_ylabel() == "learning rate"
    assert axes.get_yscale() == "linear"


def test_logarithmic_axis_leaves_out_rates_of_zero():
    figure = lrs.plot_schedules(LinearDecay(0.1, 4), 7, log_scale=True)
    ((_, rates),) = curves(figure)
    assert figure.axes[0].get_yscale() == "log"
    assert np.isnan(rates).tolist() == [False] * 4 + [True] * 3


def test_logarithmic_axis_without_any_positive_rate_is_empty(tmp_path):
    figure = lrs.plot_schedules(Constant(0.0), 5, tmp_path / "a.png", log_scale=True)
    assert np.isnan(curves(figure)[0][1]).all()


# --- Names ----------------------------------------------------------------------------


def test_schedules_are_named_by_their_classes():
    figure = lrs.plot_schedules([REXDecay(0.1), LinearDecay(0.2)], 10)
    assert names(figure) == ["REXDecay", "LinearDecay"]


def test_a_single_schedule_is_named():
    assert names(lrs.plot_schedules(REXDecay(0.1), 10)) == ["REXDecay"]


def test_schedules_of_one_class_are_named_by_the_arguments_that_differ():
    schedules = [
        REXDecay(0.1, 5),
        REXDecay(0.1, Fraction(0.5), beta=0.9),
        Constant(0.1),
    ]
    assert names(lrs.plot_schedules(schedules, 10)) == [
        "REXDecay(decay_steps=5, beta=0.5)",
        "REXDecay(decay_steps=Fraction(fraction=0.5), beta=0.9)",
        "Constant",
    ]


def test_schedules_inside_are_named_the_same_way():
    schedules = [
        Warmup(REXDecay(0.1, beta=0.5), 3),
        Warmup(REXDecay(0.1, beta=0.9), 3),
        Warmup(LinearDecay(0.1), 3),
    ]
    assert names(lrs.plot_schedules(schedules, 10)) == [
        "Warmup(schedule=REXDecay(beta=0.5))",
        "Warmup(schedule=REXDecay(beta=0.9))",
        "Warmup(schedule=LinearDecay)",
    ]


def test_schedules_of_keras_are_named_by_their_config():
    decay = keras.optimizers.schedules.ExponentialDecay
    figure = lrs.plot_schedules([decay(0.1, 5, 0.5), decay(0.1, 5, 0.9)], 10)
    assert names(figure) == [
        "ExponentialDecay(decay_rate=0.5)",
        "ExponentialDecay(decay_rate=0.9)",
    ]


def test_classes_of_one_name_are_told_apart_by_their_packages():
    theirs = keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)
    figure = lrs.plot_schedules([theirs, ExponentialDecay(0.1, 5, 0.5)], 10)
    assert names(figure) == ["keras.ExponentialDecay", "keras_lrs.ExponentialDecay"]


def test_equal_schedules_have_the_same_name():
    figure = lrs.plot_schedules([LinearDecay(0.1), LinearDecay(0.1)], 10)
    assert names(figure) == ["LinearDecay", "LinearDecay"]


def test_keys_of_a_dict_are_the_names():
    figure = lrs.plot_schedules({"ours": REXDecay(0.1), "flat": Constant(0.1)}, 10)
    assert names(figure) == ["ours", "flat"]


def test_many_schedules_look_different():
    schedules = {str(i): Constant(0.1 * i) for i in range(30)}
    (axes,) = lrs.plot_schedules(schedules, 10).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(looks) == 30


# --- The picture ----------------------------------------------------------------------


def test_saves_to_a_path(tmp_path):
    path = tmp_path / "rates.png"
    lrs.plot_schedules(REXDecay(0.1), 100, path=path)
    assert path.read_bytes().startswith(PNG)


def test_the_suffix_chooses_the_format(tmp_path):
    path = tmp_path / "rates.svg"
    lrs.plot_schedules(REXDecay(0.1), 100, path=str(path))
    assert "<svg" in path.read_text()


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    tmp_path, monkeypatch, suffix
):
    path = tmp_path / f"rates.{suffix}"
    lrs.plot_schedules(REXDecay(0.1), 100, path)
    old = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left.*rates.{suffix}"):
        lrs.plot_schedules(Constant(0.1), 10, path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["rates", "rates."])
def test_a_name_without_a_suffix_gets_that_of_the_default_format(tmp_path, name):
    lrs.plot_schedules(REXDecay(0.1), 100, tmp_path / name)
    assert os.listdir(tmp_path) == ["rates.png"]


def test_a_notebook_shows_the_figure():
    assert lrs.plot_schedules(REXDecay(0.1), 100)._repr_png_().startswith(PNG)


def test_the_figure_can_be_pickled():
    figure = pickle.loads(pickle.dumps(lrs.plot_schedules(REXDecay(0.1), 10)))
    assert names(figure) == ["REXDecay"]
    assert figure._repr_png_().startswith(PNG)


def test_pyplot_knows_nothing_of_the_figure():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    lrs.plot_schedules(REXDecay(0.1), 10)
    assert pyplot.get_fignums() == before


# --- matplotlib is optional -----------------------------------------------------------


def run_python(program):
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-1]


@pytest.mark.only("torch")
def test_importing_the_package_does_not_import_matplotlib():
    # Keras imports it where it can; here it cannot, and then we could.
    program = """
import sys
sys.modules["matplotlib"] = None
import keras
del sys.modules["matplotlib"]
import keras_lrs
print("matplotlib" in sys.modules)
"""
    assert run_python(program) == "False"


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(ImportError, match=r'pip install "keras-lrs\[plot\]"'):
        lrs.plot_schedules(REXDecay(0.1), 10)


# --- Wrong arguments ------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [0, -1, 2.5, float("nan"), float("inf")])
def test_num_steps_must_be_a_positive_whole_number(num_steps):
    message = rf"Argument `num_steps` must be .*Received: num_steps={num_steps}"
    with pytest.raises(ValueError, match=message):
        lrs.plot_schedules(REXDecay(0.1), num_steps)


@pytest.mark.parametrize("num_steps", ["10", None, True, [10]])
def test_num_steps_must_be_a_number(num_steps):
    with pytest.raises(TypeError, match="Argument `num_steps` must be"):
        lrs.plot_schedules(REXDecay(0.1), num_steps)


@pytest.mark.parametrize("schedules", [[], {}, ()])
def test_there_must_be_a_schedule(schedules):
    with pytest.raises(ValueError, match="`schedules` must hold at least one"):
        lrs.plot_schedules(schedules, 10)


@pytest.mark.parametrize(
    "schedules", [0.1, "REXDecay", REXDecay, None, [0.1], {"a": 0.1}, [[REXDecay(0.1)]]]
)
def test_only_schedules_are_drawn(schedules):
    with pytest.raises(TypeError, match="`schedules` must be a `LearningRateSchedule`"):
        lrs.plot_schedules(schedules, 10)


def test_path_must_be_a_path():
    with pytest.raises(TypeError, match="Argument `path` must be a path"):
        lrs.plot_schedules(REXDecay(0.1), 10, path=3)
    with pytest.raises(ValueError, match="Argument `path` must be a path, which holds"):
        lrs.plot_schedules(REXDecay(0.1), 10, path="a\0b.png")
    with pytest.raises(ValueError, match=r"Argument `path` must have the suffix .*svg"):
        lrs.plot_schedules(REXDecay(0.1), 10, path="rates.csv")


def test_log_scale_must_be_true_or_false():
    with pytest.raises(TypeError, match="Argument `log_scale` must be True or False"):
        lrs.plot_schedules(REXDecay(0.1), 10, log_scale="symlog")


def test_lengths_in_epochs_must_have_been_bound():
    message = (
        "`schedules` cannot be bound to 10 steps. .*`steps_per_epoch` must be given"
    )
    with pytest.raises(ValueError, match=message):
        lrs.plot_schedules(Warmup(REXDecay(0.1), Epochs(1)), 10)


def test_lists_of_lengths_are_bound_too():
    schedule = PiecewiseConstant([Fraction(0.5)], [0.1, 0.01])
    ((_, rates),) = curves(lrs.plot_schedules(schedule, 4))
    assert rates.tolist() == [0.1, 0.1, 0.01, 0.01]


def test_lengths_in_epochs_are_bound_by_the_steps_of_one():
    schedule = Warmup(LinearDecay(0.1), Epochs(2))
    figure = lrs.plot_schedules(schedule, 60, steps_per_epoch=10)
    (line,) = figure.axes[0].lines
    rising, falling = np.arange(20) / 20, 1.0 - np.arange(40) / 40
    expected = 0.1 * np.concatenate([rising, falling])
    np.testing.assert_allclose(line.get_ydata(), expected)
    with pytest.raises(ValueError, match="`steps_per_epoch` must be > 0"):
        lrs.plot_schedules(schedule, 60, steps_per_epoch=0)
