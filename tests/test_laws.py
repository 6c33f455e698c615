"""Laws that every exported schedule keeps."""

import dataclasses
import inspect
import json
import pickle

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests import catalogue, compiled

pytestmark = pytest.mark.every_backend

ABSTRACT = {"Schedule", "Decay", "Composition"}
OTHERS = {"Epochs", "Fraction", "PerVariable", "Samples", "Tokens"}
STEPS = np.array([0, 1, 2, 5, 9, 10, 11, 36, 50, 99, 100, 101, 500, 10**6, 2**31 - 2])


def _names(schedules):
    return [f"{type(s).__name__}{number}" for number, s in enumerate(schedules)]


# The scope makes pytest run all laws of one schedule before those of the next, so that
# they share what is compiled.
every_schedule = pytest.mark.parametrize(
    "schedule", catalogue.SCHEDULES, ids=_names(catalogue.SCHEDULES), scope="module"
)
every_open_schedule = pytest.mark.parametrize(
    "schedule", catalogue.OPEN, ids=_names(catalogue.OPEN)
)


def test_no_exported_schedule_is_missing_from_the_catalogue():
    exported = {name: getattr(lrs.schedules, name) for name in lrs.schedules.__all__}
    classes = {name for name, value in exported.items() if inspect.isclass(value)}
    expected = classes - ABSTRACT - OTHERS
    assert set(catalogue.BOUND) == expected
    for name, variants in catalogue.BOUND.items():
        assert variants
        assert all(type(variant).__name__ == name for variant in variants)


@every_schedule
def test_values_are_finite_and_not_negative(schedule):
    values = schedule(STEPS)
    assert np.all(np.isfinite(values))
    assert np.all(values >= 0.0)


@pytest.mark.every_backend(20)
@every_schedule
def test_every_way_of_asking_gives_the_same_value(schedule):
    expected = schedule(STEPS)
    assert expected.dtype == np.float64
    rtol = 1e-5 if catalogue.holds_a_keras_schedule(schedule) else 2e-6
    tolerance = {"rtol": rtol, "atol": 1e-37}
    for compiler in compiled.compilers().values():
        values = compiled.values(schedule, STEPS, compiler)
        np.testing.assert_allclose(values, expected, **tolerance)
    for function in compiled.scalar_functions(schedule):
        values = compiled.scalar_values(function, STEPS)
        np.testing.assert_allclose(values, expected, **tolerance)
    scalars = [float(schedule(int(step))) for step in STEPS]
    np.testing.assert_allclose(scalars, expected, **tolerance)


@every_schedule
def test_a_compiled_scalar_step_gives_a_float32_scalar(schedule):
    step = keras.ops.convert_to_tensor(7, compiled.integer_dtype())
    for function in compiled.scalar_functions(schedule):
        value = keras.ops.convert_to_numpy(function(step))
        assert value.shape == ()
        assert value.dtype == np.float32


@pytest.mark.every_backend(20)
@every_schedule
def test_steps_of_any_type_and_shape_are_accepted(schedule):
    expected = schedule(np.array([7]))[0]
    variable = keras.Variable(7, dtype=compiled.integer_dtype(), trainable=False)
    scalars = [
        7,
        7.9,
        np.int32(7),
        np.int64(7),
        np.uint8(7),
        np.float32(7.5),
        variable,
        *(
            keras.ops.convert_to_tensor(7, dtype=dtype)
            for dtype in ("int32", "int64", "float32", "uint8")
            if dtype != "int64" or keras.backend.backend() != "jax"
        ),
    ]
    for step in scalars:
        value = schedule(step)
        assert keras.ops.is_tensor(value)
        assert tuple(value.shape) == ()
        np.testing.assert_allclose(float(value), expected, rtol=2e-6, atol=1e-37)
    assert schedule(np.array([[7, 7]])).shape == (1, 2)
    assert schedule(np.array(7)).shape == ()
    vector = schedule(keras.ops.convert_to_tensor([7]))
    assert tuple(vector.shape) == (1,)
    matrix = schedule(keras.ops.convert_to_tensor([[7, 7], [7, 7]], dtype="int32"))
    assert tuple(matrix.shape) == (2, 2)


@every_schedule
def test_negative_steps_read_as_zero(schedule):
    first = schedule(np.array([0]))[0]
    np.testing.assert_array_equal(schedule(np.array([-1, -(10**6)])), first)
    np.testing.assert_allclose(float(schedule(-5)), first, rtol=1e-6)
    for function in compiled.scalar_functions(schedule):
        value = compiled.scalar_values(function, [-5])
        np.testing.assert_allclose(value, first, rtol=2e-6)


@every_schedule
@pytest.mark.parametrize("step", [float("nan"), np.array([0.0, np.nan]), np.inf])
def test_a_step_that_is_not_a_number_is_refused(schedule, step):
    with pytest.raises(ValueError, match="Argument `step` must be finite"):
        schedule(step)


@every_schedule
def test_the_curve_is_the_first_values(schedule):
    curve = schedule.curve(40)
    assert curve.shape == (40,)
    assert curve.dtype == np.float64
    np.testing.assert_array_equal(curve, schedule(np.arange(40)))
    assert schedule.curve(0).shape == (0,)


@every_schedule
def test_the_config_is_json_and_gives_an_equal_schedule(schedule):
    text = json.dumps(keras.saving.serialize_keras_object(schedule))
    again = keras.saving.deserialize_keras_object(json.loads(text), safe_mode=True)
    assert again == schedule
    assert hash(again) == hash(schedule)
    serialized = keras.optimizers.schedules.serialize(schedule)
    assert keras.optimizers.schedules.deserialize(serialized) == schedule
    np.testing.assert_array_equal(again.curve(30), schedule.curve(30))


@every_open_schedule
def test_an_open_schedule_survives_its_config_too(schedule):
    text = json.dumps(keras.saving.serialize_keras_object(schedule))
    assert keras.saving.deserialize_keras_object(json.loads(text)) == schedule


def test_schedules_of_the_catalogue_differ():
    everything = catalogue.SCHEDULES + catalogue.OPEN
    assert len(set(everything)) == len(everything)
    assert catalogue.SCHEDULES[0] != "a string"


@every_schedule
def test_a_schedule_survives_pickling_after_use(schedule):
    schedule(3)
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@every_schedule
def test_schedules_cannot_be_changed(schedule):
    field = next(iter(schedule.get_config()))
    with pytest.raises(AttributeError):
        setattr(schedule, field, 1)


@every_schedule
def test_binding_a_bound_schedule_changes_nothing(schedule):
    assert schedule.bind(1000, 10) == schedule


@every_open_schedule
def test_an_open_schedule_says_what_is_open_and_the_two_ways_out(schedule):
    for use in (
        lambda: schedule(0),
        lambda: schedule.curve(3),
        lambda: schedule.cycle_ends(3),
        lambda: keras.optimizers.SGD(schedule).learning_rate,
    ):
        with pytest.raises(ValueError, match=r"Argument `.*` of .* is open") as raised:
            use()
        message = str(raised.value)
        assert f"`{type(schedule).__name__}`" in message
        assert "bind(total_steps" in message
        assert "HyperparameterScheduler" in message


@every_open_schedule
@pytest.mark.parametrize("total_steps", [1, 2, 3, 55, 1000, 2**31 - 2])
def test_binding_closes_everything_at_every_length(schedule, total_steps):
    if total_steps < catalogue.SHORTEST.get(schedule, 1):
        with pytest.raises(ValueError, match=f"total_steps={total_steps}"):
            schedule.bind(total_steps, steps_per_epoch=2)
        return
    bound = schedule.bind(total_steps, steps_per_epoch=2)
    assert type(bound) is type(schedule)
    assert bound.bind(total_steps, steps_per_epoch=2) == bound
    steps = [0, 1, 2, 3, total_steps - 1, total_steps]
    values = bound(np.append(steps, 10 * total_steps))
    assert np.all(np.isfinite(values))
    assert np.all(values >= 0.0)
    np.testing.assert_allclose(
        compiled.values(bound, steps), bound(steps), rtol=2e-6, atol=1e-37
    )


def with_epochs_in(kind, config, per_epoch, per_step):
    """The config of a schedule whose `Epochs` are as many samples or tokens."""
    if isinstance(config, list):
        return [with_epochs_in(kind, item, per_epoch, per_step) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "Epochs":
        size = round(config["config"]["epochs"] * per_epoch)
        return keras.saving.serialize_keras_object(kind(size, per_step))
    return {
        name: with_epochs_in(kind, value, per_epoch, per_step)
        for name, value in config.items()
    }


@every_open_schedule
@pytest.mark.parametrize("kind", [lrs.Samples, lrs.Tokens])
@pytest.mark.parametrize("known", ["by itself", "to bind"])
def test_samples_and_tokens_are_the_epochs_that_they_make(schedule, kind, known):
    config = keras.saving.serialize_keras_object(schedule)
    per_step = 32 if known == "by itself" else None
    # Of 7 batches of 32: one and a half epochs are 10.5 steps.
    other = keras.saving.deserialize_keras_object(
        with_epochs_in(kind, config, 7 * 32, per_step)
    )
    assert (other == schedule) == ("Epochs" not in repr(schedule))
    per_batch = {"samples_per_step": 32, "tokens_per_step": 32}
    given = {} if known == "by itself" else per_batch
    expected = schedule.bind(1000, 7, **given)
    assert other.bind(1000, 7, **given) == expected


@every_schedule
def test_cycles_end_within_the_steps_asked_for(schedule):
    ends = schedule.cycle_ends(120)
    assert ends == sorted(set(ends))
    assert all(type(end) is int and 1 <= end <= 120 for end in ends)
    assert schedule.cycle_ends(0) == []
    for shorter in (1, 50, 119):
        assert schedule.cycle_ends(shorter) == [end for end in ends if end <= shorter]


@every_schedule
def test_every_schedule_drives_an_optimizer(schedule):
    weight = keras.Variable(np.zeros(2, "float32"))
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.build([weight])
    before = keras.ops.convert_to_numpy(weight)
    for step in range(3):
        optimizer.apply([keras.ops.ones((2,))])
        after = keras.ops.convert_to_numpy(weight)
        rate = schedule(np.array([step]))[0]
        np.testing.assert_allclose(before - after, rate, rtol=1e-3, atol=1e-6)
        before = np.array(after)


@pytest.mark.parametrize("name", catalogue.BOUND)
def test_every_class_is_documented_for_a_user(name):
    cls = getattr(lrs.schedules, name)
    text = inspect.getdoc(cls)
    for heading in ("Args:", "Returns:", "Raises:", "Example:", "Reference:"):
        assert heading in text, heading
    assert "Use it" in text
    for argument in inspect.signature(cls).parameters:
        assert f"{argument}:" in text, argument
    assert inspect.signature(cls).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("floatx", ["float16", "bfloat16"])
def test_rates_keep_float32_whatever_floatx_is(floatx):
    before = keras.backend.floatx()
    try:
        keras.backend.set_floatx(floatx)
        for schedule in catalogue.SCHEDULES:
            if catalogue.holds_a_keras_schedule(schedule):
                continue  # Which computes in `floatx`.
            steps = keras.ops.convert_to_tensor(STEPS, compiled.integer_dtype())
            values = schedule(steps)
            assert keras.backend.standardize_dtype(values.dtype) == "float32"
            np.testing.assert_allclose(
                keras.ops.convert_to_numpy(values),
                schedule(STEPS),
                rtol=2e-6,
                atol=1e-37,
            )
    finally:
        keras.backend.set_floatx(before)


def test_users_extend_decays_with_frozen_dataclasses():
    @keras.saving.register_keras_serializable(package="keras_lrs_tests")
    @dataclasses.dataclass(frozen=True)
    class Squared(lrs.schedules.Decay):
        scale: float = 1.0

        def profile(self, progress, remaining):
            return remaining**2 * self.scale

    schedule = lrs.schedules.Warmup(Squared(0.1, None, scale=0.5), 10).bind(110)
    assert schedule.schedule.decay_steps == 100
    assert schedule(np.array([60]))[0] == pytest.approx(0.1 * 0.25 * 0.5)
    config = json.dumps(keras.saving.serialize_keras_object(schedule))
    assert keras.saving.deserialize_keras_object(json.loads(config)) == schedule
    assert Squared(0.1, 10, scale=0.5) != Squared(0.1, 10, scale=0.4)
    with pytest.raises(ValueError, match="Argument `initial_learning_rate`"):
        Squared(-0.1, 10)


def test_a_subclass_with_a_constructor_of_its_own_is_refused():
    with pytest.raises(TypeError, match="frozen dataclass"):

        class Lost(lrs.schedules.Schedule):
            def __init__(self, rate):
                self.rate = rate


def test_schedules_around_a_users_class_without_config_can_be_compared():
    class Plain(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

    plain = Plain()
    assert lrs.schedules.Scaled(plain, 2.0) == lrs.schedules.Scaled(plain, 2.0)
    assert lrs.schedules.Scaled(plain, 2.0) != lrs.schedules.Scaled(Plain(), 2.0)
    assert len({lrs.schedules.Scaled(plain, 2.0), lrs.schedules.Scaled(plain, 2)}) == 1


def test_a_users_schedule_that_mixes_a_vector_is_asked_step_by_step():
    class Mixing(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            largest = keras.ops.max(keras.ops.reshape(step, (-1,)))
            return 0.1 / (1.0 + keras.ops.cast(largest, "float32"))

    curve = lrs.schedules.Scaled(Mixing(), 1.0).curve(4)
    np.testing.assert_allclose(curve, 0.1 / np.arange(1, 5), rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a TF signature")
def test_a_vector_of_unknown_length_and_a_tensor_of_unknown_rank():
    import tensorflow as tf

    for schedule in (
        lrs.schedules.Warmup(lrs.schedules.CosineAnnealing(0.1, 50), 5),
        lrs.schedules.Scaled(catalogue.KERAS_COSINE, 1.0),
        lrs.schedules.PiecewiseConstant(range(1, 99), [0.1] * 99),
    ):
        vector = tf.function(schedule, [tf.TensorSpec([None], tf.int64)])
        values = vector(tf.constant([0, 3, 20], tf.int64))
        np.testing.assert_allclose(values, schedule(np.array([0, 3, 20])), rtol=1e-5)
    anything = tf.function(
        lrs.schedules.CosineAnnealing(0.1, 50), [tf.TensorSpec(None, tf.int64)]
    )
    assert float(anything(tf.constant(50, tf.int64))) == 0.0


KNOWN_LENGTH = [
    cls for cls in vars(lrs.schedules).values()
    if isinstance(cls, type) and issubclass(cls, lrs.schedules.Decay)
    and cls is not lrs.schedules.Decay
]  # fmt: skip


@pytest.mark.every_backend(30)
@pytest.mark.parametrize("cls", KNOWN_LENGTH)
@pytest.mark.parametrize("decay_steps", [1, 2, 3, 10, 41, 49, 1000, 2**31 - 2])
@pytest.mark.parametrize(("initial", "end"), [(0.3, 0.1), (0.1, 0.7), (0.3, 1e-9)])
def test_a_decay_is_exact_at_both_ends_and_held_after(cls, decay_steps, initial, end):
    schedule = cls(initial, decay_steps, end)
    steps = np.array([0, decay_steps, min(decay_steps + 1, 2**31 - 2), 2**31 - 2])
    expected = [initial, end, end, end]
    np.testing.assert_array_equal(schedule(steps), expected)
    for compiler in compiled.compilers().values():
        values = compiled.values(schedule, steps, compiler)
        np.testing.assert_array_equal(values, np.float32(expected))
    between = schedule(np.linspace(0, decay_steps, 50).astype(np.int64))
    assert np.all(np.diff(between) * np.sign(end - initial) >= 0.0)
