"""The parts of an optimizer's step: their order, their factors, their slots."""

import itertools

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs._keras import in_step
from keras_lrs._keras.variables import StepVariable
from keras_lrs.callbacks import (
    FitCallback,
    GradientNormRecorder,
    HyperparameterLogger,
    HyperparameterScheduler,
    OneCycleScheduler,
    PosthocAveraging,
    ReduceOnPlateau,
    StepPart,
    Wanted,
    WeightAveraging,
)
from tests.callbacks import grouped, references
from tests.ramp import mean_of_prediction, ramp

S = lrs.schedules
BACKEND = keras.backend.backend()
SETTINGS = [{}] if BACKEND == "torch" else [{"jit_compile": False}, {}]


class Factor(StepPart):
    """Multiplies the rate by a schedule."""

    scales = True

    def __init__(self, step, schedule):
        super().__init__(step)
        self.schedule = schedule

    @staticmethod
    def bind(run, schedule):
        return (run.bind("learning_rate", schedule),)

    def values(self, update):
        update.factors.append(update.evaluate(self.schedule))


class ScaleRate(FitCallback):
    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def prepare(self, run):
        return [Wanted(one, Factor, (self.schedule,)) for one in run.optimizers]


class Watching(StepPart):
    """Notes the phases while the step is traced or run."""

    phases = ("values", "before", "update_step", "after")

    def __init__(self, step, seen):
        super().__init__(step)
        self.seen = seen

    @staticmethod
    def key(seen):
        return id(seen)

    def values(self, update):
        if not isinstance(update.iterations, np.ndarray):  # Those are of the past.
            self.seen.append("values")

    def before(self, update):
        self.seen.append(("before", sorted(update.values)))
        return "kept"

    def update_step(self, update, call):
        def watched(gradients, variables, rate):
            self.seen.append("update_step")
            return call(gradients, variables, rate)

        return watched

    def after(self, update, kept):
        self.seen.append(("after", kept))


class Watch(FitCallback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def prepare(self, run):
        return [Wanted(one, Watching, (self.seen,)) for one in run.optimizers]


def fitted(callbacks, optimizer=None, **compile_arguments):
    if optimizer is None:
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    model = references.linear_model(optimizer, **compile_arguments)
    references.fit(model, callbacks)
    return model


@pytest.mark.every_backend
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_four_phases_follow_each_other(settings):
    watch = Watch()
    momentum = S.LinearDecay(0.9, end_learning_rate=0.5)
    fitted([HyperparameterScheduler(momentum=momentum), watch], **settings)
    one = ["values", ("before", ["momentum"]), "update_step", ("after", "kept")]
    assert watch.seen[:4] == one
    assert len(watch.seen) % 4 == 0


class Counted(StepPart):
    """Adds up the counts that each phase reads, in a variable that is never written."""

    def __init__(self, step):
        super().__init__(step)
        self.sums = StepVariable(step.model, np.zeros(3), "float32")
        self.variables = [self.sums]

    def before(self, update):
        count = keras.ops.cast(update.iterations, "float32")
        return count, in_step.values_of(self.step.weights)

    def after(self, update, kept):
        before, (weights, *_) = kept
        after = keras.ops.cast(update.iterations, "float32")
        (now, *_) = in_step.values_of(self.step.weights)
        moved = keras.ops.cast(keras.ops.any(now != weights), "float32")
        sums = self.sums.value + keras.ops.stack([before, after, moved])
        self.sums.variable.assign(sums)


class Count(FitCallback):
    def prepare(self, run):
        return [Wanted(one, Counted) for one in run.optimizers]

    def fit_ends(self):
        (part,) = self.run.parts(self)
        self.sums = part.sums.read().tolist()


@pytest.mark.every_backend
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_number_of_an_update_is_the_same_before_and_after_it(settings):
    count = Count()
    fitted([count], **settings)
    steps = 4 * references.STEPS
    assert count.sums == [sum(range(steps)), sum(range(steps)), steps]


@pytest.mark.every_backend
def test_the_order_of_parts_changes_nothing(tmp_path):
    def callbacks(order):
        made = [
            HyperparameterScheduler(
                learning_rate=S.LinearDecay(0.05),
                momentum=S.LinearDecay(0.9, end_learning_rate=0.5),
                momentum_correction=True,
            ),
            ReduceOnPlateau("loss", 0.5, patience=1),
            ScaleRate(S.LinearDecay(1.0, end_learning_rate=0.5)),
            WeightAveraging(lrs.averages.UniformAverage()),
        ]
        return [made[i] for i in order]

    def outcome(order):
        model = fitted([*callbacks(order), HyperparameterLogger()])
        history = model.history.history
        return model.get_weights()[0], history["learning_rate"], history["momentum"]

    orders = list(itertools.permutations(range(4)))[:: 5 if BACKEND == "torch" else 11]
    first = outcome(orders[0])
    for order in orders[1:]:
        for one, other in zip(first, outcome(order), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.every_backend
def test_the_order_of_parts_beside_groups_changes_nothing():
    def outcome(order):
        made = [
            HyperparameterScheduler(
                learning_rate=lrs.PerVariable({"early": 0.02, "late": 0.01}),
                weight_decay=lrs.PerVariable({"late": 0.0}),
            ),
            HyperparameterScheduler(beta_1=S.LinearDecay(0.9, None, 0.5)),
            ReduceOnPlateau("loss", 0.5, patience=1, min_delta=1e9),
            ScaleRate(S.LinearDecay(1.0, end_learning_rate=0.5)),
        ]
        model = grouped.linear_models(keras.optimizers.AdamW(0.03, weight_decay=0.1))
        callbacks = [*(made[i] for i in order), HyperparameterLogger()]
        history = grouped.fit(model, callbacks, epochs=3)
        rates = [v for k, v in history.items() if k.startswith("learning_rate")]
        assert len(rates) == 3
        return np.concatenate([*map(np.ravel, model.get_weights()), *rates])

    orders = list(itertools.permutations(range(4)))[:: 5 if BACKEND == "torch" else 11]
    first = outcome(orders[0])
    for order in orders[1:]:
        np.testing.assert_array_equal(outcome(order), first)


@pytest.mark.every_backend
@pytest.mark.parametrize("driven", [True, False])
def test_the_factors_of_several_callbacks_multiply(driven):
    plateau = ReduceOnPlateau("loss", 0.5, patience=1, mode="max")
    scaled = ScaleRate(S.LinearDecay(1.0, end_learning_rate=0.5))
    model = ramp(keras.optimizers.SGD(0.125))
    rate = S.LinearDecay(0.2) if driven else S.Constant(0.125)
    schedulers = [HyperparameterScheduler(learning_rate=rate)] if driven else []
    x = np.zeros((8, 1), "float32")
    history = model.fit(
        x,
        x,
        batch_size=2,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[plateau, scaled, *schedulers, HyperparameterLogger()],
    )
    # The loss falls, so with mode="max" every look after the first one halves.
    factors = np.repeat([1.0, 1.0, 0.5], 4)
    own = rate.bind(12).curve(12) if driven else np.full(12, 0.125)
    used = own * factors * np.linspace(1.0, 0.5, 13)[:12]
    position = float(keras.ops.convert_to_numpy(model.position))
    assert position == pytest.approx(used.sum(), rel=1e-5)
    logged = history.history["learning_rate"]
    np.testing.assert_allclose(logged, used[3::4], rtol=1e-6)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.125)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: ReduceOnPlateau("loss"),
        lambda folder: GradientNormRecorder(),
        lambda folder: PosthocAveraging(folder),
    ],
)
def test_two_that_cannot_share_a_step_are_named(make, tmp_path):
    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    name = type(one).__name__
    with pytest.raises(ValueError, match=rf"one `{name}`.*`{name}` and `{name}`"):
        fitted([one, other])


def test_two_schedules_of_one_hyperparameter_name_both_callbacks():
    callbacks = [
        HyperparameterScheduler(learning_rate=S.LinearDecay(0.1)),
        OneCycleScheduler(0.1),
    ]
    names = "`HyperparameterScheduler` and `OneCycleScheduler` both schedule"
    with pytest.raises(ValueError, match=names):
        fitted(callbacks)


def test_two_averages_of_equal_keys_are_two(tmp_path):
    recorder = PosthocAveraging(tmp_path, sigma_rels=(0.05, 0.1))
    fitted([recorder])
    parts = recorder.run.parts(recorder)
    assert [part.index for part in parts] == [0, 1]
    averages = [part.variables[0].read() for part in parts]
    assert not np.array_equal(*averages)


@pytest.mark.every_backend
@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
)
def test_momentum_correction_of_one_optimizer_beside_a_plateau():
    sgd = keras.optimizers.SGD(0.05, momentum=0.9, name="sgd")
    adam = keras.optimizers.Adam(0.01, name="adam")
    optimizer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(sgd, {"late/.*": adam})
    )
    dense = [
        keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name=name)
        for name in ("early", "late")
    ]
    inputs = keras.Input((1,))
    model = keras.Model(inputs, [dense[0](inputs), dense[1](inputs)])
    model.compile(optimizer, [mean_of_prediction, mean_of_prediction])
    x, rate = np.ones((8, 1), "float32"), S.LinearDecay(0.1)
    callbacks = [
        HyperparameterScheduler(learning_rate={"sgd": rate}, momentum_correction=True),
        ReduceOnPlateau("loss", 0.5, patience=1, mode="max"),
        HyperparameterLogger(),
    ]
    history = model.fit(
        x, [x, x], 1, 3, shuffle=False, verbose=0, callbacks=callbacks
    ).history
    # The loss falls: every look after the first one halves the rates.
    factors = np.repeat([1.0, 1.0, 0.5], 8)
    used = rate.bind(24).curve(24) * factors
    np.testing.assert_allclose(history["learning_rate/sgd"], used[7::8], rtol=1e-6)
    logged = history["learning_rate/adam"]
    np.testing.assert_allclose(logged, 0.01 * factors[7::8], rtol=1e-6)
    w, v = 1.0, 0.0
    for k in range(24):  # The gradient is 1.
        v = v * (used[k] / used[k - 1] if k else 1.0)
        v = 0.9 * v - used[k]
        w += v
    kernel = keras.ops.convert_to_numpy(dense[0].kernel.value).item()
    assert kernel == pytest.approx(w, rel=1e-5)
    # Adam moves by its rate where all gradients are the same.
    kernel = keras.ops.convert_to_numpy(dense[1].kernel.value).item()
    assert kernel == pytest.approx(1.0 - 0.01 * factors.sum(), rel=1e-5)


class Wants(FitCallback):
    def __init__(self, want):
        super().__init__()
        self.want = want

    def prepare(self, run):
        return self.want(run)


def test_what_is_no_wish_is_refused():
    with pytest.raises(TypeError, match=r"`Wants.prepare` must return a list"):
        fitted([Wants(lambda run: ["norms"])])
    with pytest.raises(ValueError, match=r"must want parts of one of `run.optimizers`"):
        fitted([Wants(lambda run: [Wanted(keras.optimizers.SGD(0.1), StepPart)])])
    with pytest.raises(TypeError, match=r"Argument `kind` must be a subclass"):
        Wanted(keras.optimizers.SGD(0.1), FitCallback)


def test_calling_hooks_by_hand_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"callbacks=\["):
        Watch().on_epoch_begin(0)
