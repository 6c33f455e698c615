"""`Scheduled` against loops in NumPy, in every kind of training loop."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    ReduceOnPlateau,
    ResumableTraining,
    WeightAveraging,
)
from keras_lrs.optimizers import Scheduled, ScheduleFree
from tests import processes
from tests.callbacks import references
from tests.optimizers import resumed

S = lrs.schedules
BACKEND = keras.backend.backend()
SGD, Adam = keras.optimizers.SGD, keras.optimizers.Adam

STEPS = 40
RATE = S.Warmup(S.LinearDecay(0.1), 5)
MOMENTUM = S.LinearDecay(0.9, end_learning_rate=0.5)


def sgd(**arguments):
    """One whose rate and momentum are scheduled over 4 epochs."""
    inner = SGD(0.3, momentum=0.9, **arguments)
    return Scheduled(inner, RATE, momentum=MOMENTUM).bind(STEPS, references.STEPS)


def curves(num_steps=STEPS):
    bound = {"learning_rate": RATE.bind(STEPS), "momentum": MOMENTUM.bind(STEPS)}
    return {name: schedule.curve(num_steps) for name, schedule in bound.items()}


def expected(num_steps=STEPS):
    return references.SGD().train(num_steps, **curves(num_steps))


def batches(num_steps, begin=0):
    size = references.BATCH
    for step in range(begin, begin + num_steps):
        at = size * (step % references.STEPS)
        yield references.X[at : at + size], references.Y[at : at + size]


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


# --- Loops ---


def zeros():
    return keras.Variable(np.zeros((3, 1)), dtype="float32")


def loss_of(w, x, y):
    return keras.ops.mean(keras.ops.square(keras.ops.matmul(x, w) - y))


def eager(optimizer, num_steps):
    w = zeros()
    for step in range(num_steps):
        gradient = references.gradient(keras.ops.convert_to_numpy(w), step)
        optimizer.apply([keras.ops.convert_to_tensor(gradient, dtype="float32")], [w])
    return keras.ops.convert_to_numpy(w)


def train_on_batch(optimizer, num_steps):
    model = references.linear_model(optimizer)
    for x, y in batches(num_steps):
        model.train_on_batch(x, y)
    return references.weights(model)


def fit(optimizer, num_steps):
    model = references.linear_model(optimizer)
    references.fit(model, epochs=num_steps // references.STEPS)
    return references.weights(model)


def fit_with_callbacks(optimizer, num_steps):
    model = references.linear_model(optimizer)
    epochs = num_steps // references.STEPS
    references.fit(model, [HyperparameterLogger()], epochs=epochs)
    return references.weights(model)


def tensorflow_function(optimizer, num_steps, **compiled):
    import tensorflow as tf

    w = zeros()

    @tf.function(**compiled)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(w, x, y)
        optimizer.apply(tape.gradient(loss, [w]), [w])

    if compiled:  # XLA creates no variables; else the first trace builds.
        optimizer.build([w])
    for x, y in batches(num_steps):
        step(tf.constant(x), tf.constant(y))
    assert step.experimental_get_tracing_count() <= 2
    return w.numpy()


def tensorflow_xla(optimizer, num_steps):
    return tensorflow_function(optimizer, num_steps, jit_compile=True)


def jax_stateless(optimizer, num_steps):
    import jax

    w = zeros()
    optimizer.build([w])

    def step(weights, state, x, y):
        gradients = jax.grad(lambda weights: loss_of(weights[0], x, y))(weights)
        return optimizer.stateless_apply(state, gradients, weights)

    compiled = jax.jit(step, donate_argnums=(0, 1))
    weights = [jax.numpy.copy(w.value)]
    state = [jax.numpy.copy(v.value) for v in optimizer.variables]
    for x, y in batches(num_steps):
        weights, state = compiled(weights, state, x, y)
    return np.asarray(weights[0])


def torch_loop(optimizer, num_steps):
    import torch

    w = zeros()
    for x, y in batches(num_steps):
        w.value.grad = None
        loss_of(w.value, torch.from_numpy(x), torch.from_numpy(y)).backward()
        with torch.no_grad():
            optimizer.apply([w.value.grad], [w])
    return w.value.detach().numpy()


LOOPS = [eager, train_on_batch, fit, fit_with_callbacks]
LOOPS += {
    "tensorflow": [tensorflow_function, tensorflow_xla],
    "jax": [jax_stateless],
    "torch": [torch_loop],
}[BACKEND]

every_loop = pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)


@pytest.mark.every_backend
@every_loop
def test_every_loop_uses_the_scheduled_values(loop):
    assert_close(loop(sgd(), STEPS), expected())


@pytest.mark.every_backend
@every_loop
def test_scheduled_betas_get_their_bias_correction(loop):
    beta = S.LinearDecay(0.9, end_learning_rate=0.5)
    optimizer = Scheduled(Adam(0.05), beta_1=beta).bind(STEPS)
    wanted = references.Adam().train(STEPS, beta_1=beta.bind(STEPS).curve(STEPS))
    assert_close(loop(optimizer, STEPS), wanted)


def test_it_trains_bit_for_bit_as_the_callback_does():
    model = references.linear_model(SGD(0.3, momentum=0.9))
    scheduler = HyperparameterScheduler(learning_rate=RATE, momentum=MOMENTUM)
    references.fit(model, [scheduler])
    np.testing.assert_array_equal(train_on_batch(sgd(), STEPS), model.get_weights()[0])


@pytest.mark.every_backend
def test_a_plateau_lowers_the_rate_without_another_compilation():
    optimizer = Scheduled(SGD(0.1), S.Constant(0.05))
    plateau = lrs.Plateau(factor=0.5, patience=1)
    model = references.linear_model(optimizer)
    metrics = [1.0, 1.0, 0.5, 0.5]
    for epoch, metric in enumerate(metrics):
        for x, y in batches(references.STEPS, epoch * references.STEPS):
            model.train_on_batch(x, y)
        function = model.train_function
        optimizer.rate_factor = plateau.update(metric)
        assert model.train_function is function
    assert optimizer.rate_factor == 0.25
    rates = np.repeat(0.05 * np.array([1.0, 1.0, 0.5, 0.5]), references.STEPS)
    none = np.zeros(STEPS)
    wanted = references.SGD().train(STEPS, learning_rate=rates, momentum=none)
    assert_close(references.weights(model), wanted)
    # The rate last used; the factor was changed since.
    np.testing.assert_allclose(float(optimizer.learning_rate), 0.025, rtol=1e-6)


@pytest.mark.every_backend
def test_a_factor_multiplies_a_rate_that_is_not_scheduled():
    optimizer = Scheduled(SGD(0.1, momentum=0.9), momentum=S.Constant(0.5))
    optimizer.rate_factor = 0.5  # Before it is built.
    found = eager(optimizer, 10)
    rates, momenta = np.full(10, 0.05), np.full(10, 0.5)
    wanted = references.SGD().train(10, learning_rate=rates, momentum=momenta)
    assert_close(found, wanted)
    again = Scheduled.from_config(optimizer.get_config())
    np.testing.assert_allclose(float(again.learning_rate), 0.1, rtol=1e-6)


# --- What the optimizer inside does ---


def test_gradients_are_accumulated_and_steps_are_micro_batches():
    rate = S.LinearDecay(0.1, STEPS)
    model = references.linear_model(SGD(0.3, gradient_accumulation_steps=2))
    references.fit(model, [HyperparameterScheduler(learning_rate=rate)])
    optimizer = Scheduled(SGD(0.3, gradient_accumulation_steps=2), rate)
    np.testing.assert_array_equal(
        train_on_batch(optimizer, STEPS), model.get_weights()[0]
    )
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == STEPS // 2


@pytest.mark.every_backend
def test_a_loss_scale_optimizer_may_be_around_it():
    optimizer = keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=8.0)
    assert_close(train_on_batch(optimizer, STEPS), expected())


def test_variables_are_excluded_from_a_scheduled_weight_decay():
    optimizer = Scheduled(
        keras.optimizers.AdamW(0.1, weight_decay=0.1), weight_decay=S.Constant(0.5)
    )
    decayed, excluded = keras.Variable([1.0]), keras.Variable([1.0])
    optimizer.exclude_from_weight_decay([excluded])
    gradients = [keras.ops.zeros(1), keras.ops.zeros(1)]
    optimizer.apply(gradients, [decayed, excluded])
    np.testing.assert_allclose(decayed.numpy(), 0.95, rtol=1e-6)
    assert excluded.numpy() == 1.0


def test_the_averages_of_keras_are_finalized():
    inner = SGD(use_ema=True, ema_momentum=0.5)
    optimizer = Scheduled(inner, S.Constant(0.05))
    plain = SGD(0.05, use_ema=True, ema_momentum=0.5)
    np.testing.assert_array_equal(fit(optimizer, STEPS), fit(plain, STEPS))


# --- In a fit with callbacks ---


@pytest.mark.every_backend
def test_the_logger_writes_all_that_it_schedules_across_fits():
    model = references.linear_model(sgd())
    rates, momenta = [], []
    for _ in range(2):
        logs = references.fit(model, [HyperparameterLogger()], epochs=2).history
        rates += logs["learning_rate"]
        momenta += logs["momentum"]
    last = slice(references.STEPS - 1, None, references.STEPS)
    np.testing.assert_allclose(rates, curves()["learning_rate"][last], rtol=1e-6)
    np.testing.assert_allclose(momenta, curves()["momentum"][last], rtol=1e-6)
    assert_close(references.weights(model), expected())


@pytest.mark.every_backend
def test_a_plateau_of_the_fit_and_its_own_factor_both_multiply():
    optimizer = Scheduled(SGD(0.1), S.Constant(0.08))
    optimizer.rate_factor = 0.5
    model = references.linear_model(optimizer)
    plateau = ReduceOnPlateau("loss", factor=0.25, patience=1, min_delta=1e6)
    callbacks = [HyperparameterLogger(), plateau]
    logs = references.fit(model, callbacks, epochs=3).history
    found = [0.04, 0.04, 0.01]
    np.testing.assert_allclose(logs["learning_rate"], found, rtol=1e-6)
    rates, none = np.repeat(found, references.STEPS), np.zeros(30)
    wanted = references.SGD().train(30, learning_rate=rates, momentum=none)
    assert_close(references.weights(model), wanted)
    np.testing.assert_allclose(float(optimizer.learning_rate), 0.01, rtol=1e-6)


def test_a_second_schedule_of_the_same_name_is_refused():
    model = references.linear_model(sgd())
    message = "`Scheduled` and `HyperparameterScheduler` both schedule `momentum`"
    with pytest.raises(ValueError, match=message):
        references.fit(model, [HyperparameterScheduler(momentum=MOMENTUM)])


@pytest.mark.every_backend
def test_a_callback_may_schedule_what_it_does_not():
    inner = SGD(0.3, momentum=0.9)
    model = references.linear_model(Scheduled(inner, RATE).bind(STEPS))
    references.fit(model, [HyperparameterScheduler(momentum=MOMENTUM)])
    assert_close(references.weights(model), expected())


def test_an_average_is_that_of_the_same_training():
    found = []
    for model in (
        references.linear_model(sgd()),
        references.linear_model(SGD(0.3, momentum=0.9)),
    ):
        callbacks = [WeightAveraging(lrs.averages.UniformAverage())]
        if not isinstance(model.optimizer, Scheduled):
            schedules = {"learning_rate": RATE, "momentum": MOMENTUM}
            callbacks.append(HyperparameterScheduler(**schedules))
        references.fit(model, callbacks)
        found.append(references.weights(model))
    np.testing.assert_array_equal(*found)


@pytest.mark.every_backend
def test_a_run_that_was_cut_off_resumes_exactly(tmp_path):
    class Cut(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(*callbacks):
        optimizer = sgd()
        optimizer.rate_factor = 0.5
        model = references.linear_model(optimizer)
        references.fit(model, [ResumableTraining(tmp_path, verbose=0), *callbacks])
        return references.weights(model)

    with pytest.raises(KeyboardInterrupt):
        train(Cut())
    resumed_weights = train()
    np.testing.assert_array_equal(resumed_weights, train())


# --- Files ---


@pytest.mark.every_backend
@pytest.mark.slow
def test_a_saved_model_continues_in_another_process(tmp_path):
    model = references.linear_model(sgd())
    for x, y in batches(15):
        model.train_on_batch(x, y)
    model.optimizer.rate_factor = 0.5
    model.save(tmp_path / "model.keras")
    found = processes.call(resumed.trained_on, tmp_path / "model.keras", 15, 25)
    for x, y in batches(25, 15):
        model.train_on_batch(x, y)
    np.testing.assert_array_equal(found, references.weights(model))


def test_the_config_is_not_changed_and_makes_the_same_optimizer():
    optimizer = sgd()
    config = optimizer.get_config()
    text = keras.saving.serialize_keras_object(optimizer)
    first, second = (Scheduled.from_config(config) for _ in range(2))
    assert keras.saving.serialize_keras_object(second) == text
    assert first.schedules == optimizer.schedules
    assert first.inner_optimizer is not second.inner_optimizer


# --- Several, and replicas ---


class TwoNetworks(keras.Model):
    """Two networks that are trained by optimizers of their own, as in a GAN."""

    def __init__(self, optimizers):
        super().__init__()
        linear = {"use_bias": False, "kernel_initializer": "zeros"}
        self.networks = [keras.layers.Dense(1, **linear) for _ in optimizers]
        self.optimizers = optimizers

    def call(self, x):
        return [network(x) for network in self.networks]

    def train_step(self, data):
        x, y = data
        for network, optimizer in zip(self.networks, self.optimizers, strict=True):
            gradients, loss = self.gradients(network, x, y)
            optimizer.apply(gradients, network.trainable_variables)
        return {"loss": loss}

    def gradients(self, network, x, y):
        variables = network.trainable_variables
        if BACKEND == "torch":
            self.zero_grad()
            loss = keras.ops.mean(keras.ops.square(network(x) - y))
            loss.backward()
            return [v.value.grad for v in variables], loss
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(network(x) - y))
        return tape.gradient(loss, variables), loss


@pytest.mark.skipif(BACKEND == "jax", reason="Keras's JAX trainer carries one state")
@pytest.mark.every_backend
def test_each_optimizer_of_a_model_with_two_has_its_own_schedules():
    slow = S.LinearDecay(0.02)
    pair = [sgd(), Scheduled(SGD(), slow).bind(STEPS)]
    model = TwoNetworks(pair)
    model(references.X[:4])
    model.compile()
    references.fit(model)
    first, second = (network.get_weights()[0] for network in model.networks)
    assert_close(first, expected())
    rates, none = slow.bind(STEPS).curve(STEPS), np.zeros(STEPS)
    wanted = references.SGD().train(STEPS, learning_rate=rates, momentum=none)
    assert_close(second, wanted)


@pytest.mark.skipif(BACKEND != "jax", reason="the others have a test of their own")
def test_two_optimizers_share_a_stateless_step():
    import jax

    weights = [zeros() for _ in range(2)]
    pair = [sgd(), Scheduled(SGD(), S.LinearDecay(0.02)).bind(STEPS)]
    for weight, optimizer in zip(weights, pair, strict=True):
        optimizer.build([weight])

    @jax.jit
    def step(values, states, x, y):
        found = []
        for optimizer, value, state in zip(pair, values, states, strict=True):
            gradient = jax.grad(loss_of)(value, x, y)
            found.append(optimizer.stateless_apply(state, [gradient], [value]))
        return [value[0] for value, _ in found], [state for _, state in found]

    values = [weight.value for weight in weights]
    states = [[v.value for v in optimizer.variables] for optimizer in pair]
    for x, y in batches(STEPS):
        values, states = step(values, states, x, y)
    assert_close(values[0], expected())
    rates = S.LinearDecay(0.02).bind(STEPS).curve(STEPS)
    wanted = references.SGD().train(
        STEPS, learning_rate=rates, momentum=np.zeros(STEPS)
    )
    assert_close(values[1], wanted)


@pytest.mark.every_backend
@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_a_mirrored_strategy_with_schedules():
    processes.call_with_devices("tests.optimizers.mirrored_schedules")


# --- What is refused ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "At least one hyperparameter"),
        ({"learning_rate": "1"}, TypeError, "`learning_rate` must be a `LearningRate"),
        ({"momentum": -0.1}, ValueError, "`momentum` must be >= 0. Received: mom"),
        ({"beta_1": S.Constant(0.9)}, ValueError, "`beta_1` is not a hyperparameter"),
        ({"momentum": S.Constant(1.5)}, ValueError, r"values are in \[0, 1\)"),
        ({"learning_rate": S.Constant(0.1), "name": 3}, TypeError, "`name` must be"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Scheduled(SGD(0.1, momentum=0.9), **arguments)


def test_a_momentum_that_is_not_used_is_refused():
    with pytest.raises(ValueError, match="this `SGD` does not use it"):
        Scheduled(SGD(0.1), momentum=S.Constant(0.9))


HOST = sgd()


def used():
    optimizer = SGD()
    optimizer.build([keras.Variable([1.0])])
    return optimizer


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: "sgd", TypeError, "must be a Keras optimizer"),
        (lambda: sgd(), ValueError, "an optimizer that updates variables"),
        (
            lambda: ScheduleFree(SGD()),
            ValueError,
            "an optimizer that updates variables",
        ),
        (lambda: HOST.inner_optimizer, ValueError, "SGD that is in use"),
        (used, ValueError, "SGD that is in use"),
        (lambda: SGD(S.Constant(0.1)), ValueError, "holds a schedule or a function"),
    ],
)
def test_an_optimizer_that_cannot_be_inside_is_refused(make, error, message):
    inner = make()
    with pytest.raises(error, match=message):
        Scheduled(inner, S.Constant(0.1))


@pytest.mark.every_backend
def test_the_rates_that_it_reads_as_add_up_to_the_way():
    schedules = {"momentum": S.Constant(1e-30), "rate_multipliers": {".*": 1.0}}
    for inner in (SGD(0.5, 0.9), SGD(S.LinearDecay(0.5, 8), 0.9)):
        optimizer = Scheduled(inner, **schedules)
        assert float(optimizer.learning_rate) == 0.5
        w, way = keras.Variable([0.0]), 0.0
        for step in range(8):
            optimizer.rate_factor = 0.5 if step > 3 else 2.0
            optimizer.apply([keras.ops.convert_to_tensor([-1.0])], [w])
            way += float(optimizer.learning_rate)
        assert way == pytest.approx(w.numpy().item(), rel=1e-5)
        assert way > 1.0


@pytest.mark.every_backend
def test_it_reads_as_the_rate_used_beside_a_plateau():
    optimizer = Scheduled(SGD(S.LinearDecay(0.1, 40), 0.9), momentum=MOMENTUM).bind(40)
    model = references.linear_model(optimizer)
    plateau = ReduceOnPlateau("loss", 0.5, 1, min_delta=1e9)
    references.fit(model, [plateau], epochs=3)
    # The last update of 30, after one reduction of two.
    rate = 0.5 * 0.1 * (1.0 - 29 / 40)
    assert plateau.state["factor"] == 0.25
    assert float(optimizer.learning_rate) == pytest.approx(rate)


@pytest.mark.every_backend
def test_hyperparameters_read_as_the_values_last_used():
    optimizer = sgd(weight_decay=0.01)
    assert optimizer.momentum == 0.9
    eager(optimizer, 3)
    assert optimizer.momentum == pytest.approx(curves()["momentum"][2])
    assert (optimizer.weight_decay, optimizer.nesterov) == (0.01, False)
    assert ScheduleFree(SGD(0.1, weight_decay=0.1)).weight_decay == 0.1
    with pytest.raises(AttributeError, match=r"'Scheduled' .* 'beta_1'"):
        print(optimizer.beta_1)


def test_what_has_a_schedule_cannot_be_set():
    optimizer = sgd()
    with pytest.raises(ValueError, match=r"`momentum` .* cannot be set.*=0\.5"):
        optimizer.momentum = 0.5
    optimizer.weight_decay = 0.1
    assert optimizer.inner_optimizer.weight_decay == 0.1


def test_wrappers_within_each_other_are_told_what_to_do():
    with pytest.raises(ValueError, match="One `Scheduled` is enough"):
        Scheduled(sgd(), S.Constant(0.1))
    with pytest.raises(ValueError, match="`ScheduleFree` may hold a schedule of its"):
        Scheduled(ScheduleFree(SGD()), S.Constant(0.1))
    with pytest.raises(ValueError, match="do not work together"):
        ScheduleFree(sgd())
    scaled = keras.optimizers.LossScaleOptimizer(SGD())
    with pytest.raises(ValueError, match="Wrap `Scheduled` in a `LossScaleOptimizer`"):
        Scheduled(scaled, S.Constant(0.1))


@pytest.mark.every_backend
def test_an_open_schedule_is_refused_by_name_at_the_first_update():
    for loop in (eager, fit, fit_with_callbacks):
        optimizer = Scheduled(SGD(), S.LinearDecay(0.1))
        with pytest.raises(RuntimeError, match="schedule of `learning_rate` has open"):
            loop(optimizer, STEPS)


def test_the_rate_cannot_be_set_past_the_schedule():
    with pytest.raises(ValueError, match="Set `rate_factor`"):
        sgd().learning_rate = 0.1
    with pytest.raises(ValueError, match="`rate_factor` must be >= 0"):
        sgd().rate_factor = -1.0


# --- Groups ---


def two_layers():
    """A body and a head, both from the same weights every time."""
    body = keras.layers.Dense(3, use_bias=False, name="body", kernel_initializer="ones")
    head = keras.layers.Dense(1, use_bias=False, name="head", kernel_initializer="ones")
    model = keras.Sequential([keras.Input((3,)), body, head])
    return model


def kernels(num_steps, rates_of_body, rates_of_head):
    """The weights of `two_layers`, trained by SGD with these rates, in float64."""
    body, head = np.ones((3, 3)), np.ones((3, 1))
    steps = zip(rates_of_body, rates_of_head, batches(num_steps), strict=True)
    for body_rate, head_rate, (x, y) in steps:
        x, y = x.astype(np.float64), y.astype(np.float64)
        back = 2.0 * (x @ body @ head - y) / len(x)
        gradients = x.T @ back @ head.T, (x @ body).T @ back
        body = body - body_rate * gradients[0]
        head = head - head_rate * gradients[1]
    return body, head


GROUPS = {
    "multipliers": {
        "learning_rate": RATE,
        "rate_multipliers": {"body/": S.LinearDecay(1.0), "head/": 0.5},
    },
    "rates": {
        "learning_rate": lrs.PerVariable(
            {"body/": S.Product([RATE, S.LinearDecay(1.0)]), ".*": S.Scaled(RATE, 0.5)}
        ),
    },
}


@pytest.mark.every_backend
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("callbacks", [(), (HyperparameterLogger,)])
def test_groups_of_variables_have_rates_of_their_own(name, callbacks):
    optimizer = Scheduled(SGD(), **GROUPS[name]).bind(20)
    again = Scheduled.from_config(optimizer.get_config())
    assert again.schedules == optimizer.schedules
    model = two_layers()
    model.compile(again, "mse")
    # The second fit begins at iteration 10 of the same schedules.
    for _ in range(2):
        references.fit(model, [callback() for callback in callbacks], epochs=1)
    rates = RATE.bind(20).curve(20)
    decay = S.LinearDecay(1.0, 20).curve(20)
    found = model.get_weights()
    for one, other in zip(found, kernels(20, rates * decay, rates / 2), strict=True):
        assert_close(one, other)


@pytest.mark.every_backend
def test_saved_groups_keep_the_order_of_their_patterns(tmp_path):
    # Sorted, ".*" would decide for all.
    found = []
    for arguments in (
        {"rate_multipliers": {"head/": 0.0, ".*": S.LinearDecay(1.0)}},
        {"learning_rate": lrs.PerVariable({"head/": 0.0, ".*": S.LinearDecay(0.02)})},
    ):
        model = two_layers()
        model.compile(Scheduled(SGD(0.02), **arguments).bind(20), "mse")
        references.fit(model, epochs=1)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        references.fit(loaded, epochs=1)
        found.append(loaded.get_weights())
    rates = S.LinearDecay(0.02, 20).curve(20)
    expected = kernels(20, rates, np.zeros(20))
    for weights in found:
        for one, other in zip(weights, expected, strict=True):
            assert_close(one, other)


@pytest.mark.every_backend
def test_groups_multiply_a_rate_that_is_not_scheduled():
    multipliers = {"body/": 0.0, "head/": S.LinearDecay(1.0, 10)}
    model = two_layers()
    model.compile(Scheduled(SGD(0.02), rate_multipliers=multipliers), "mse")
    references.fit(model, epochs=1)
    head_rates = 0.02 * S.LinearDecay(1.0, 10).curve(10)
    body, head = kernels(10, np.zeros(10), head_rates)
    np.testing.assert_array_equal(model.get_weights()[0], body)
    assert_close(model.get_weights()[1], head)


@pytest.mark.every_backend
def test_a_pattern_without_a_variable_is_refused_by_name():
    optimizer = Scheduled(SGD(), rate_multipliers={"nowhere": 0.5})
    with pytest.raises(ValueError, match="'nowhere' matches no trainable variable"):
        optimizer.build([zeros()])


def test_an_open_schedule_of_a_group_is_refused_by_name():
    optimizer = Scheduled(SGD(), rate_multipliers={".*": S.LinearDecay(1.0)})
    with pytest.raises(RuntimeError, match="`rate_multipliers` has open lengths"):
        eager(optimizer, 1)


def test_lengths_are_bound_once():
    optimizer = sgd()
    with pytest.raises(ValueError, match=r"nothing to bind.*total_steps=20"):
        optimizer.bind(20)


def test_a_number_of_a_group_that_is_out_of_range_is_refused():
    momentum = lrs.PerVariable({"a/": 1.5})
    with pytest.raises(ValueError, match=r"`momentum`.*in \[0, 1\).*1.5"):
        Scheduled(SGD(momentum=0.9), momentum=momentum)


def test_a_rate_that_is_a_function_is_refused():
    def rate():
        return 0.1

    inner = SGD(rate, momentum=0.9)
    with pytest.raises(ValueError, match=r"`optimizer`.*a float or a schedule"):
        Scheduled(inner, momentum=S.Constant(0.9))


def test_lengths_in_samples_are_bound():
    schedule = S.Warmup(S.Constant(0.1), S.Samples(16))
    optimizer = Scheduled(SGD(), schedule)
    with pytest.raises(ValueError, match="samples_per_step"):
        optimizer.bind(20)
    optimizer.bind(20, samples_per_step=4)
    assert optimizer.schedules["learning_rate"].warmup_steps == 4


@pytest.mark.every_backend
def test_a_plateau_waits_for_the_warmup_of_the_optimizers_life():
    # The warmup of 5 steps is over in the first of two fits.
    model = references.linear_model(sgd())
    references.fit(model, epochs=1)
    plateau = ReduceOnPlateau("loss", 0.5, 1, min_delta=1e9)
    references.fit(model, [plateau], epochs=2)
    assert plateau.state["factor"] == 0.5
