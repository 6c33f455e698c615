"""Weight decay as a schedule: the same functions, step for step."""

import math
import re

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests import normalized

S = lrs.schedules
NUM_STEPS = 400
SCHEDULES = {
    "constant": S.Constant(0.1),
    "step decay": S.MultiStepDecay(0.1, [150, 300]),
    "cosine": S.CosineAnnealing(0.1, NUM_STEPS),
    "from zero": S.Warmup(S.LinearDecay(0.1, NUM_STEPS - 40), 40),
}
THEIRS = keras.optimizers.schedules.PiecewiseConstantDecay([149], [0.1, 0.01])


def largest_difference(functions, others):
    return max(
        np.abs(one - other).max() for one, other in zip(functions, others, strict=True)
    )


@pytest.mark.parametrize("form", ["decoupled", "l2"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 5e-4, 5e-3, 2e-2])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_functions_are_the_same_at_every_step(name, weight_decay, momentum, form):
    rates = SCHEDULES[name].curve(NUM_STEPS)
    momenta = np.full(NUM_STEPS, momentum)
    decayed, _ = normalized.train(rates, momenta, weight_decay, form)
    rate, gamma = S.without_weight_decay(
        SCHEDULES[name], weight_decay, NUM_STEPS, momentum, form
    )
    plain, _ = normalized.train(rate.curve(NUM_STEPS), gamma.curve(NUM_STEPS))
    assert largest_difference(decayed, plain) <= 1e-9
    assert np.abs(decayed[0] - decayed[-1]).max() > 1.0  # They do train.


@pytest.mark.parametrize("form", ["decoupled", "l2"])
def test_both_schedules_are_needed(form):
    # What the theorem adds to a schedule that only has the rate.
    rates, momenta = np.full(NUM_STEPS, 0.1), np.full(NUM_STEPS, 0.9)
    decayed, _ = normalized.train(rates, momenta, 5e-3, form)
    rate, gamma = S.without_weight_decay(0.1, 5e-3, NUM_STEPS, 0.9, form)
    for pair in (
        (rate.curve(NUM_STEPS), momenta),
        (rates, gamma.curve(NUM_STEPS)),
        (rates, momenta),
    ):
        plain, _ = normalized.train(*pair)
        assert largest_difference(decayed, plain) > 1e-3


def test_a_constant_rate_grows_exponentially():
    rate, momentum = S.without_weight_decay(0.1, 5e-4, 1000, momentum=0.9)
    assert isinstance(rate, S.ExponentialGrowth)
    steps = np.arange(1000)
    np.testing.assert_allclose(
        rate(steps), 0.1 * (1 - 5e-5) ** (-2.0 * steps - 1), rtol=1e-12
    )
    assert momentum == S.Constant(0.9 / (1 - 5e-5))


def test_the_l2_form_grows_as_the_paper_says():
    # alpha is the larger root of x**2 - (1 + gamma - lambda * eta) x + gamma.
    rate, momentum = S.without_weight_decay(0.1, 5e-4, 2000, momentum=0.9, form="l2")
    alpha = 0.999497728368
    values = rate.curve(2000)
    np.testing.assert_allclose(values[1000:] / values[999:-1], alpha**-2, rtol=1e-11)
    assert float(momentum(1999)) == pytest.approx(0.9 / alpha**2, rel=1e-6)
    # The published "0.1 * 1.481**t" counts epochs of 391 steps.
    assert values[1391] / values[1000] == pytest.approx(1.481, abs=5e-4)


def test_a_step_decay_becomes_the_tapered_exponential():
    staircase = S.MultiStepDecay(0.1, [300, 600])
    rate, momentum = S.without_weight_decay(staircase, 5e-4, 900)
    values = rate.curve(900)
    growth = (1 - 5e-4 * np.array([0.1, 0.01, 0.001])) ** -2
    for start, expected in zip((0, 300, 600), growth, strict=True):
        within = values[start : start + 300]
        np.testing.assert_allclose(within[1:] / within[:-1], expected, rtol=1e-12)
    # Between the phases: ten times less, and the mean of both growths.
    drop = 0.1 * math.sqrt(growth[0] * growth[1])
    assert values[300] / values[299] == pytest.approx(drop, rel=1e-12)
    assert len(rate.boundaries) == 6
    assert momentum == S.Constant(0.0)


@pytest.mark.parametrize("form", ["decoupled", "l2"])
def test_without_weight_decay_to_replace_nothing_changes(form):
    rate, momentum = S.without_weight_decay(
        S.CosineAnnealing(0.1), 0.0, 50, momentum=0.9, form=form
    )
    np.testing.assert_allclose(rate.curve(50), S.CosineAnnealing(0.1, 50).curve(50))
    np.testing.assert_allclose(momentum.curve(50), 0.9)


@pytest.mark.parametrize("form", ["decoupled", "l2"])
def test_the_compiled_rates_are_those_of_the_host(form):
    schedule = S.MultiStepDecay(0.1, [150, 300])
    for found in S.without_weight_decay(schedule, 5e-3, NUM_STEPS, 0.9, form):
        steps = keras.ops.arange(NUM_STEPS)
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(found(steps)), found.curve(NUM_STEPS), rtol=1e-6
        )


def test_a_number_and_a_schedule_of_keras_will_do():
    ours = S.without_weight_decay(S.Constant(0.1), 5e-3, 50, 0.9)
    assert S.without_weight_decay(0.1, 5e-3, 50, 0.9) == ours
    rate, momentum = S.without_weight_decay(THEIRS, 5e-3, NUM_STEPS, 0.9)
    staircase = S.PiecewiseConstant([150], [0.1, 0.01])
    expected = S.without_weight_decay(staircase, 5e-3, NUM_STEPS, 0.9)
    for found, wanted in zip((rate, momentum), expected, strict=True):
        np.testing.assert_allclose(
            found.curve(NUM_STEPS), wanted.curve(NUM_STEPS), rtol=1e-6
        )


@pytest.mark.parametrize("form", ["decoupled", "l2"])
def test_two_stages_with_divided_weights_train_the_same_functions(form):
    arguments = (S.CosineAnnealing(0.1, NUM_STEPS), 5e-3, NUM_STEPS, 0.9, form)
    rates, momenta = arguments[0].curve(NUM_STEPS), np.full(NUM_STEPS, 0.9)
    decayed, lengths = normalized.train(rates, momenta, 5e-3, form)
    stop = 150
    rate, gamma = S.without_weight_decay(*arguments)
    early, states = normalized.train(rate.curve(stop), gamma.curve(stop))
    # The weights are as long as with weight decay when they have been divided.
    divisor = np.linalg.norm(states[-1][0][0]) / np.linalg.norm(lengths[stop - 1][0][0])
    assert divisor > 1.05
    divided = [[x / divisor for x in parts] for parts in states[-1]]
    rate, gamma = S.without_weight_decay(*arguments, start_step=stop)
    rest = NUM_STEPS - stop
    late, _ = normalized.train(
        rate.curve(rest), gamma.curve(rest), start=divided, first=stop
    )
    assert largest_difference(decayed, [*early, *late]) <= 1e-9


@pytest.mark.parametrize("form", ["decoupled", "l2"])
def test_rates_beyond_float32_are_refused_with_a_way_out(form):
    def rates(num_steps, **start):
        rate, _ = S.without_weight_decay(0.5, 0.02, num_steps, 0.6, form, **start)
        return rate.curve(num_steps - start.get("start_step", 0))

    with pytest.raises(ValueError, match="too large for a float32") as error:
        rates(10_000)
    numbers = re.findall(r"(?:step |=|by )([\d.e+]+\d)", str(error.value))
    first, stop, divisor, start = (float(number) for number in numbers)
    assert stop == start == first // 2
    first, stop = int(first), int(stop)
    assert 1e37 < rates(first)[-1] < np.finfo(np.float32).max
    ratio = rates(first)[stop:] / rates(first, start_step=stop)
    np.testing.assert_allclose(ratio, divisor**2, rtol=1e-7)


def test_the_paper_s_setting_overflows_after_232_epochs():
    # Of 391 steps; from a velocity of 0 it takes a few steps more.
    with pytest.raises(ValueError, match="from step 90600 on"):
        S.without_weight_decay(0.1, 5e-4, 300 * 391, 0.9, "l2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": -1.0}, "`weight_decay` must be >= 0"),
        ({"weight_decay": math.nan}, "`weight_decay` must be finite"),
        ({"num_steps": 0}, "`num_steps` must be > 0"),
        ({"num_steps": 2**22 + 1}, "`num_steps` must be <= 4194304"),
        ({"num_steps": 1.5}, "`num_steps` must be a whole number"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
        ({"momentum": -0.1}, r"`momentum` must be in \[0, 1\)"),
        ({"form": "L2"}, "`form` must be one of 'decoupled', 'l2'"),
        ({"form": None}, "`form` must be one of 'decoupled', 'l2'"),
        ({"schedule": -0.1}, "`schedule` must be >= 0"),
        ({"schedule": math.inf}, "`schedule` must be finite"),
        ({"start_step": 10}, "`start_step` must be < num_steps=10"),
        ({"start_step": -1}, "`start_step` must be >= 0"),
        (
            {"schedule": S.StepDecay(0.1, S.Epochs(1))},
            "`schedule` cannot be bound to 10 steps. .*`steps_per_epoch` must be given",
        ),
        (
            {"schedule": S.PiecewiseConstant([S.Epochs(1)], [0.1, 0.01])},
            "`schedule` cannot be bound to 10 steps. .*`steps_per_epoch` must be given",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    good = {"schedule": 0.1, "weight_decay": 5e-4, "num_steps": 10}
    with pytest.raises(ValueError, match=message):
        S.without_weight_decay(**good | arguments)


def test_what_is_no_number_is_refused():
    with pytest.raises(TypeError, match="`schedule`"):
        S.without_weight_decay("0.1", 5e-4, 10)
    with pytest.raises(TypeError, match="`weight_decay`"):
        S.without_weight_decay(0.1, None, 10)


# (1 - sqrt(0.9))**2 = 0.0026334
@pytest.mark.parametrize(
    ("form", "momentum", "decay", "fits"),
    [
        ("decoupled", 0.0, 0.999, True),
        ("decoupled", 0.0, 1.0, False),
        ("decoupled", 0.9, 0.0999, True),
        ("decoupled", 0.9, 0.1001, False),
        ("l2", 0.0, 0.999, True),
        ("l2", 0.0, 1.0, False),
        ("l2", 0.9, 0.00263, True),
        ("l2", 0.9, 0.00264, False),
        ("l2", 0.25, 0.25, True),
    ],
)
def test_the_decay_of_a_step_has_a_limit(form, momentum, decay, fits):
    rate = S.PiecewiseConstant([3, 4], [0.01, 1.0, 0.01])
    if fits:
        rates, momenta = S.without_weight_decay(rate, decay, 6, momentum, form)
        assert np.all(np.isfinite(rates.curve(6)))
        assert np.all(momenta.curve(6) < 1.0)
    else:
        with pytest.raises(ValueError, match=r"`weight_decay` .* 1 at step 3"):
            S.without_weight_decay(rate, decay, 6, momentum, form)


@pytest.mark.parametrize("form", ["decoupled", "l2"])
def test_one_step_is_enough(form):
    rate, momentum = S.without_weight_decay(0.1, 0.01, 1, form=form)
    assert rate == S.Constant(0.1 / (1 - 0.001))
    assert momentum == S.Constant(0.0)
    rate, _ = S.without_weight_decay(0.0, 0.01, 10, form=form)
    assert rate == S.Constant(0.0)


# --- In Keras, in float32 -------------------------------------------------------------


def network(optimizer, epsilon, l2=0.0):
    """The network of `normalized`, with the epsilon that Keras adds."""

    def normalization():
        return keras.layers.BatchNormalization(
            center=False, scale=False, epsilon=epsilon
        )

    inner = [
        keras.layers.Dense(
            kernel.shape[1],
            use_bias=False,
            kernel_regularizer=keras.regularizers.L2(l2),
        )
        for kernel in normalized.KERNELS
    ]
    output = keras.layers.Dense(3, use_bias=False, trainable=False)
    relu = keras.layers.ReLU
    first, second = inner
    model = keras.Sequential(
        [keras.Input((5,)), first, normalization(), relu(), second, normalization(),
         relu(), output]
    )  # fmt: skip
    for layer, kernel in zip(
        [*inner, output], [*normalized.KERNELS, normalized.OUTPUT], strict=True
    ):
        layer.set_weights([kernel])
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    return model


def trained_logits(model, epochs, callback_list=()):
    x = normalized.X.reshape(-1, 5).astype("float32")
    y = normalized.Y.reshape(-1, 3).astype("float32")
    model.fit(
        x, y, batch_size=normalized.BATCH, epochs=epochs, shuffle=False, verbose=0,
        callbacks=list(callback_list),
    )  # fmt: skip
    first = normalized.X[0].astype("float32")
    return keras.ops.convert_to_numpy(model(first, training=True))


def keras_difference(form, momentum, weight_decay, epsilon, epochs=2):
    """Between the logits of trainings by Keras with and without weight decay."""
    steps = epochs * normalized.STEPS
    decoupled = form == "decoupled"
    decayed = network(
        keras.optimizers.SGD(
            0.1, momentum=momentum, weight_decay=weight_decay if decoupled else None
        ),
        epsilon,
        l2=0.0 if decoupled else weight_decay / 2.0,
    )
    rate, gamma = S.without_weight_decay(0.1, weight_decay, steps, momentum, form)
    driven = {"learning_rate": rate} | ({"momentum": gamma} if momentum else {})
    plain = network(keras.optimizers.SGD(0.1, momentum=momentum), epsilon)
    return np.abs(
        trained_logits(decayed, epochs)
        - trained_logits(
            plain, epochs, [lrs.callbacks.HyperparameterScheduler(**driven)]
        )
    ).max()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("form", ["decoupled", "l2"])
def test_keras_trains_the_same_functions_but_for_its_epsilon(form, momentum):
    # As much as makes the weights a few times as long, within the limit of the form.
    weight_decay = 0.02 if form == "l2" and momentum > 0.0 else 0.1
    default, smaller, none = (
        keras_difference(form, momentum, weight_decay, epsilon)
        for epsilon in (1e-3, 1e-5, 0.0)
    )
    assert none <= 2e-5
    assert smaller > 10.0 * none
    assert default > 100.0 * none
