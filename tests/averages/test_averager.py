"""`Averager` against NumPy, in loops of every kind."""

import errno
import functools
import importlib.util
import os

import keras
import numpy as np
import pytest

from keras_lrs import averages as A  # noqa: N812
from tests import processes
from tests.averages import teachers
from tests.callbacks import references

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
# What some optimizer makes of a kernel and a bias.
KERNELS = RNG.normal(size=(12, 3, 2)).astype("float32")
BIASES = RNG.normal(size=(12, 2)).astype("float32")

SHARES = [
    (A.ExponentialAverage(0.9), lambda k: 0.1 / (1.0 - 0.9 ** (k + 1))),
    (A.ExponentialAverage(0.9, debias=False), lambda k: 0.1),
    (A.UniformAverage(), lambda k: 1.0 / (k + 1)),
    (A.PolynomialAverage(3), lambda k: 4.0 / (k + 4)),
    (A.WarmupAverage(0.9), lambda k: max(9.0 / (k + 10), 0.1)),
    (A.PowerFunctionAverage(0.1), lambda k: 1.0 - (k / (k + 1)) ** 7.9372039376),
]
IDS = ["exponential", "not debiased", "uniform", "polynomial", "warmup", "power"]


def small_model(dtype="float32"):
    dense = keras.layers.Dense(2, name="dense", dtype=dtype)
    return keras.Sequential([keras.Input((3,), dtype=dtype), dense])


def norm_model():
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, name="dense"),
            keras.layers.BatchNormalization(momentum=0.5, name="norm"),
        ]
    )


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v.value)) for v in variables]


def loop(first, seen, share):
    """The average of what was seen, in float64."""
    average = np.asarray(first, np.float64)
    for k, value in enumerate(seen):
        average = average + share(k) * (np.asarray(value, np.float64) - average)
    return average


def assign_and_update(model, averager, step):
    model.set_weights([KERNELS[step], BIASES[step]])
    averager.update()


def assert_averages(averager, first, share, num_steps=12, atol=1e-6):
    for found, initial, seen in zip(
        values(averager.averages), first, (KERNELS, BIASES), strict=True
    ):
        expected = loop(initial, seen[:num_steps], share)
        np.testing.assert_allclose(found, expected, atol=atol)


class TestUpdate:
    @pytest.mark.parametrize(("average", "share"), SHARES, ids=IDS)
    def test_is_the_recurrence_of_every_average(self, average, share):
        model = small_model()
        first = model.get_weights()
        averager = A.Averager(model, average)
        for step in range(12):
            assign_and_update(model, averager, step)
        assert_averages(averager, first, share)

    def test_takes_one_call_in_so_many_with_the_decay_as_given(self):
        model = small_model()
        averager = A.Averager(model, A.ExponentialAverage(0.9), every=3)
        for step in range(2):
            assign_and_update(model, averager, step)
        # Till there is an average, it is the last weights.
        found = values(averager.averages)[0]
        np.testing.assert_allclose(found, KERNELS[1], rtol=1e-6)
        for step in range(2, 11):
            assign_and_update(model, averager, step)
        seen = KERNELS[2:11:3]
        expected = loop(seen[0], seen, lambda k: 0.1 / (1.0 - 0.9 ** (k + 1)))
        np.testing.assert_allclose(values(averager.averages)[0], expected, atol=1e-6)

    def test_averages_of_16_bits_do_not_stall(self):
        model = small_model("bfloat16")
        averager = A.Averager(model, A.ExponentialAverage(0.999, debias=False))
        assert [average.dtype for average in averager.averages] == ["float32"] * 2
        model.set_weights([np.zeros((3, 2)), np.zeros(2)])
        averager = A.Averager(model, A.ExponentialAverage(0.999, debias=False))
        model.set_weights([np.ones((3, 2)), np.ones(2)])
        for _ in range(200):
            averager.update()
        found = values(averager.averages)[0]
        np.testing.assert_allclose(found, 1.0 - 0.999**200, rtol=1e-4)

    def test_variables_that_hold_no_floats_are_copied(self):
        count = keras.Variable(3, dtype="int32", trainable=False, name="count")
        weight = keras.Variable([2.0], name="weight")
        averager = A.Averager([count, weight], A.UniformAverage())
        for value in (5, 8):
            count.assign(value)
            weight.assign([float(value)])
            averager.update()
        assert [one.dtype for one in averager.averages] == ["int32", "float32"]
        found = values(averager.averages)
        assert (found[0], found[1].tolist()) == (8, [6.5])
        with averager.averaged():
            assert values([count, weight])[1].tolist() == [6.5]
        assert values([count, weight])[1].tolist() == [8.0]

    def test_of_what_is_included_and_not_excluded(self):
        model = norm_model()
        averager = A.Averager(model, include=["dense/", "gamma$"], exclude="bias")
        paths = [variable.path.rpartition("/")[2] for variable in averager.sources]
        assert paths == ["kernel", "gamma"]
        before = model.get_weights()
        model.set_weights([value + 1.0 for value in before])
        with averager.averaged():
            inside = model.get_weights()
        same = [np.array_equal(x, y) for x, y in zip(inside, before, strict=True)]
        assert same == [True, False, True, False, False, False]

    @pytest.mark.parametrize("batch_norm", ["keep", "average"])
    def test_statistics_go_with_the_weights_if_asked_to(self, batch_norm):
        model = norm_model()
        averager = A.Averager(model, A.UniformAverage(), batch_norm=batch_norm)
        seen = []
        for step in range(3):
            model(references.X + step, training=True)
            seen.append(model.get_weights())
            averager.update()
        with averager.averaged():
            found = model.get_weights()
        expected = [np.mean(group, axis=0) for group in zip(*seen, strict=True)]
        last = seen[-1] if batch_norm == "keep" else expected
        for index, value in enumerate(found):
            wanted = (last if index >= 4 else expected)[index]
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)

    def test_adds_no_trainable_variable(self):
        averager = A.Averager(small_model())
        assert averager.trainable_variables == []
        assert len(averager.variables) == 3


class TestAveraged:
    class Broken(Exception):  # noqa: N818
        pass

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("broken", [False, True])
    def test_gives_the_weights_back_bit_for_bit(self, dtype, broken):
        model = small_model(dtype)
        averager = A.Averager(model, A.UniformAverage())
        for step in range(3):
            assign_and_update(model, averager, step)
        before, averages = model.get_weights(), values(averager.averages)
        try:
            with averager.averaged():
                inside = model.get_weights()
                model.set_weights([np.zeros((3, 2)), np.zeros(2)])
                if broken:
                    raise self.Broken
        except self.Broken:
            assert broken
        np.testing.assert_allclose(
            np.asarray(inside[0], "float32"), averages[0], rtol=1e-2
        )
        for found, expected in zip(
            [*model.get_weights(), *values(averager.averages)],
            [*before, *averages],
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)

    def test_is_what_evaluate_sees_also_twice(self):
        model = references.linear_model(keras.optimizers.SGD(0.05))
        averager = A.Averager(model, A.UniformAverage())
        ends = []
        for _ in range(3):
            references.fit(model, epochs=1)
            averager.update()
            ends.append(references.weights(model))
        w = np.mean(ends, axis=0)
        expected = np.mean((references.X @ w - references.Y) ** 2)
        for _ in range(2):
            with averager.averaged():
                loss = model.evaluate(references.X, references.Y, verbose=0)
            assert loss == pytest.approx(expected, rel=1e-5)
            np.testing.assert_array_equal(references.weights(model), ends[-1])
        # The buffers of the averages are theirs: training goes on.
        references.fit(model, epochs=1)
        averager.update()

    def test_refuses_what_would_be_lost(self):
        averager = A.Averager(small_model())
        with averager.averaged():
            with pytest.raises(RuntimeError, match="outside of"):
                averager.update()
            with (
                pytest.raises(RuntimeError, match="outside of"),
                averager.averaged(),
            ):
                pass
        averager.update()


class TestCopy:
    def test_to_a_frozen_teacher(self):
        model, teacher = norm_model(), norm_model()
        teacher.trainable = False
        statistics = teacher.get_weights()[4:]
        averager = A.Averager(model)
        averager.copy_to(teacher)
        for found, expected in zip(
            teacher.get_weights(), [*model.get_weights()[:4], *statistics], strict=True
        ):
            np.testing.assert_array_equal(found, expected)

    def test_of_a_choice_goes_to_the_same_places(self):
        model, teacher = norm_model(), norm_model()
        before = teacher.get_weights()
        A.Averager(model, include="gamma").copy_to(teacher)
        found = teacher.get_weights()
        np.testing.assert_array_equal(found[0], before[0])
        np.testing.assert_array_equal(found[2], model.get_weights()[2])

    def test_to_a_list_of_variables(self):
        model, other = small_model(), small_model()
        A.Averager(model.trainable_variables).copy_to(other.trainable_variables)
        np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (lambda: norm_model(), "2 weights.* 6 weights"),
            (
                lambda: keras.Sequential(
                    [keras.Input((4,)), keras.layers.Dense(2, name="other")]
                ),
                r"\(3, 2\) for `.*dense/kernel`.*\(4, 2\) for `.*other/kernel`",
            ),
            (lambda: [keras.Variable(1.0)], "2 weights.* 1 weights"),
        ],
    )
    def test_to_another_kind_of_model_names_what_differs(self, other, message):
        averager = A.Averager(small_model())
        with pytest.raises(ValueError, match=message):
            averager.copy_to(other())


class TestSaving:
    def test_by_itself(self, tmp_path):
        path = tmp_path / "averages.weights.h5"
        whole, first, second = (small_model() for _ in range(3))
        expected = A.Averager(whole, A.UniformAverage())
        for step in range(12):
            assign_and_update(whole, expected, step)
        averager = A.Averager(first, A.UniformAverage())
        for step in range(5):
            assign_and_update(first, averager, step)
        averager.save_weights(path)
        other = A.Averager(second, A.UniformAverage())
        other.update()
        other.load_weights(path)
        for step in range(5, 12):
            assign_and_update(second, other, step)
        for one, two in zip(
            values(other.variables), values(expected.variables), strict=True
        ):
            np.testing.assert_array_equal(one, two)

    @pytest.mark.slow
    def test_with_a_model_that_tracks_it_in_a_fresh_process(self, tmp_path):
        path = tmp_path / "model.keras"
        model = teachers.MeanTeacher()
        model.compile(keras.optimizers.SGD(0.05))
        references.fit(model, epochs=1)
        model.save(path)
        references.fit(model, epochs=1)
        found = processes.call(teachers.resume, path)
        for one, two in zip(found, model.get_weights(), strict=True):
            np.testing.assert_array_equal(np.asarray(one, two.dtype), two)

    def test_a_file_that_cannot_be_written_leaves_the_old_one(
        self, tmp_path, monkeypatch
    ):
        path = tmp_path / "averages.weights.h5"
        averager = A.Averager(small_model())
        averager.save_weights(path)
        old = path.read_bytes()

        def full(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        averager.update()
        with pytest.raises(OSError, match=r"No space left.*averages\.weights\.h5"):
            averager.save_weights(path)
        assert path.read_bytes() == old
        assert os.listdir(tmp_path) == [path.name]

    def test_another_file_name_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"weights\.h5"):
            A.Averager(small_model()).save_weights(tmp_path / "averages.npz")


@pytest.mark.every_backend
@pytest.mark.parametrize(
    "compiled",
    [{}, {"run_eagerly": True}, {"jit_compile": False}],
    ids=["compiled", "eager", "not by XLA"],
)
def test_a_live_teacher_in_train_step(compiled):
    if BACKEND == "torch" and "jit_compile" in compiled:
        pytest.skip("PyTorch is eager unless told to compile")
    model = teachers.MeanTeacher()
    model.compile(keras.optimizers.SGD(0.05), **compiled)
    teachers.check(model)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has no steps per execution")
def test_a_live_teacher_with_several_steps_per_execution():
    model = teachers.MeanTeacher()
    model.compile(keras.optimizers.SGD(0.05), steps_per_execution=5)
    teachers.check(model)


@pytest.mark.every_backend
@pytest.mark.slow
@pytest.mark.skipif(
    BACKEND != "tensorflow", reason="a graph or a strategy of TensorFlow"
)
def test_a_mirrored_strategy():
    processes.call_with_devices("tests.averages.mirrored")


# --- Loops of the backends' own ---


def trained(averager, model, steps=20):
    """What a loop must have: SGD in NumPy, and the average of its weights."""
    sgd, seen = references.SGD(), []
    for _ in range(steps):
        seen.append(sgd.train(1, momentum=[0.0]).copy())
    np.testing.assert_allclose(references.weights(model), seen[-1], atol=1e-6)
    np.testing.assert_allclose(
        values(averager.averages)[0], np.mean(seen, axis=0), atol=1e-6
    )
    assert int(keras.ops.convert_to_numpy(averager.updates.value)) == steps


def batches():
    for step in range(20):
        at = references.BATCH * (step % references.STEPS)
        yield tuple(
            array[at : at + references.BATCH] for array in (references.X, references.Y)
        )


@pytest.mark.skipif(
    BACKEND != "tensorflow", reason="a graph or a strategy of TensorFlow"
)
@pytest.mark.parametrize("mode", ["eager", "function", "jit"])
def test_a_loop_of_tensorflow(mode):
    import tensorflow as tf

    optimizer = keras.optimizers.SGD(0.05)
    model = references.linear_model(optimizer)
    averager = A.Averager(model, A.UniformAverage())
    optimizer.build(model.trainable_variables)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        averager.update()

    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "jit")
    for x, y in batches():
        step(tf.constant(x), tf.constant(y))
    trained(averager, model)


@pytest.mark.skipif(
    BACKEND != "tensorflow", reason="a graph or a strategy of TensorFlow"
)
def test_averaged_in_a_graph_of_tensorflow_raises():
    import tensorflow as tf

    averager = A.Averager(small_model())

    @tf.function
    def step():
        with averager.averaged():
            pass

    with pytest.raises(RuntimeError, match="works only between steps"):
        step()


@pytest.mark.skipif(BACKEND != "jax", reason="a trace of JAX")
class TestJax:
    def test_a_stateless_loop_that_donates(self):
        import jax

        optimizer = keras.optimizers.SGD(0.05)
        model = references.linear_model(optimizer)
        averager = A.Averager(model, A.UniformAverage())
        optimizer.build(model.trainable_variables)

        def loss(trainable, non_trainable, x, y):
            outputs, _ = model.stateless_call(trainable, non_trainable, x)
            return keras.ops.mean(keras.ops.square(outputs - y))

        @functools.partial(jax.jit, donate_argnums=0)
        def step(state, x, y):
            trainable, non_trainable, optimizer_variables, own = state
            gradients = jax.grad(loss)(trainable, non_trainable, x, y)
            trainable, optimizer_variables = optimizer.stateless_apply(
                optimizer_variables, gradients, trainable
            )
            own = averager.stateless_update(own, trainable)
            return trainable, non_trainable, optimizer_variables, own

        groups = (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
            averager.variables,
        )
        state = tuple([v.value for v in group] for group in groups)
        for x, y in batches():
            state = step(state, x, y)
        for group, found in zip(groups, state, strict=True):
            for variable, value in zip(group, found, strict=True):
                variable.assign(value)
        trained(averager, model)

    def test_a_plain_update_in_a_trace_raises(self):
        import jax

        averager = A.Averager(small_model())
        with pytest.raises(RuntimeError, match="stateless_update"):
            jax.jit(averager.update)()

    def test_in_a_scope_without_its_variables_it_names_them(self):
        averager = A.Averager(small_model())
        with (
            keras.StatelessScope(),
            pytest.raises(RuntimeError, match=r"dense/kernel.*updates"),
        ):
            averager.update()

    def test_values_that_a_step_has_donated_are_named(self):
        averager = A.Averager(small_model())
        averager.averages[0].value.delete()
        with pytest.raises(RuntimeError, match="donated"):
            averager.update()

    def test_a_model_that_does_not_track_it_is_named(self):
        model = small_model()
        model.averager = A.Averager(model)
        state = (
            [v.value for v in model.trainable_variables],
            [v.value for v in model.non_trainable_variables],
            [],
            [],
        )
        with pytest.raises(ValueError, match="does not track attributes that are set"):
            model.averager.update_state(model, state)


def test_stateless_update_is_update():
    model = small_model()
    averager = A.Averager(model, A.UniformAverage(), every=2)
    in_order = [*averager.averages, averager.updates]
    assert list(map(id, averager.variables)) == list(map(id, in_order))
    own = [v.value + 0 for v in averager.variables]
    for step in range(4):
        weights = [keras.ops.array(KERNELS[step]), keras.ops.array(BIASES[step])]
        own = averager.stateless_update(own, weights)
    assert not any(values([averager.updates]))
    for step in range(4):
        assign_and_update(model, averager, step)
    for found, expected in zip(own, values(averager.variables), strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(found), expected, atol=1e-6
        )
    with pytest.raises(ValueError, match=r"2 values of `averager\.sources`"):
        averager.stateless_update(own, weights[:1])
    with pytest.raises(ValueError, match=r"3 values of `averager\.variables`"):
        averager.stateless_update(own[:2], weights)


@pytest.mark.skipif(BACKEND != "torch", reason="tensors of PyTorch")
class TestTorch:
    def test_a_loop(self):
        optimizer = keras.optimizers.SGD(0.05)
        model = references.linear_model(optimizer)
        averager = A.Averager(model, A.UniformAverage())
        import torch

        for x, y in batches():
            loss = torch.mean((model(x) - torch.as_tensor(y)) ** 2)
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                optimizer.apply(
                    [v.value.grad for v in model.trainable_variables],
                    model.trainable_variables,
                )
            averager.update()
        trained(averager, model)

    def test_the_count_is_read_only_when_somebody_has_changed_it(self, monkeypatch):
        from keras_lrs._keras import anywhere

        reads = []
        number = anywhere.number
        monkeypatch.setattr(
            anywhere, "number", lambda one: reads.append(one) or number(one)
        )
        model = small_model()
        averager = A.Averager(model, A.UniformAverage())
        for step in range(5):
            assign_and_update(model, averager, step)
        assert len(reads) == 1
        averager.updates.assign(1)
        averager.update()
        assert len(reads) == 2
        assert int(averager.updates.value) == 2

    def test_equals_the_averaged_model_of_torch(self):
        import torch
        from torch.optim import swa_utils

        module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        theirs = swa_utils.AveragedModel(
            module,
            multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9),
            use_buffers=True,
        )
        model = norm_model()
        give(module, model)
        averager = A.Averager(
            model, A.ExponentialAverage(0.9, debias=False), batch_norm="average"
        )
        theirs.update_parameters(module)  # Their first is a copy.
        for step in range(6):
            optimizer_like(module, step)
            give(module, model)
            theirs.update_parameters(module)
            averager.update()
            other = norm_model()
            give(theirs.module, other)
            for found, expected in zip(averager.averages, in_order(other), strict=True):
                np.testing.assert_allclose(
                    values([found])[0], values([expected])[0], atol=1e-6
                )

    def test_equals_the_average_of_timm(self):
        import torch

        if importlib.util.find_spec("timm") is None:
            pytest.skip("timm is not installed")
        # The file by itself: timm would import torchvision.
        (folder,) = importlib.util.find_spec("timm").submodule_search_locations
        path = f"{folder}/utils/model_ema.py"
        spec = importlib.util.spec_from_file_location("timm_model_ema", path)
        timm = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(timm)
        module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        theirs = timm.ModelEmaV3(module, decay=0.9)
        model, other = norm_model(), norm_model()
        give(module, model)
        average = A.ExponentialAverage(0.9, debias=False)
        averager = A.Averager(model, average, batch_norm="average")
        for step in range(6):
            optimizer_like(module, step)
            give(module, model)
            theirs.update(module)
            averager.update()
        give(theirs.module, other)
        for found, expected in zip(averager.averages, in_order(other), strict=True):
            np.testing.assert_allclose(
                values([found])[0], values([expected])[0], rtol=1e-5, atol=1e-6
            )


def optimizer_like(module, step):
    """Changes parameters, and by a forward pass the statistics."""
    import torch

    module(torch.as_tensor(references.X + step))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * (step + 1))


def give(module, model):
    """Gives a Keras model the weights of a module of PyTorch."""
    linear, norm = module
    pairs = zip(
        in_order(model),
        (
            linear.weight.T,
            linear.bias,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
        ),
        strict=True,
    )
    for variable, tensor in pairs:
        variable.assign(tensor.detach().clone())


def in_order(model):
    return [*model.trainable_variables, *model.non_trainable_variables]


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"average": "0.9"}, TypeError, "average='0.9'"),
            ({"every": 0}, ValueError, "every=0"),
            ({"every": 1.5}, ValueError, "every=1.5"),
            ({"batch_norm": "recalibrate"}, ValueError, "batch_norm='recalibrate'"),
            ({"include": "nothing"}, ValueError, r"dense/kernel, .*include='nothing'"),
            ({"include": []}, ValueError, "include="),
            ({"include": "("}, ValueError, "include='\\('"),
            ({"include": 3}, TypeError, "include=3"),
            ({"exclude": [3]}, TypeError, "exclude="),
            ({"exclude": "dense"}, ValueError, "leave a variable to average"),
        ],
    )
    def test_of_arguments(self, arguments, error, message):
        with pytest.raises(error, match=message):
            A.Averager(small_model(), **arguments)

    @pytest.mark.parametrize("given", [None, 3, "model", [1.0]])
    def test_of_what_is_no_model(self, given):
        with pytest.raises(TypeError, match="model_or_variables"):
            A.Averager(given)

    def test_of_a_model_without_variables(self):
        with pytest.raises(ValueError, match="call the model on a batch"):
            A.Averager(keras.Sequential([keras.layers.Dense(1)]))
        with pytest.raises(ValueError, match="variables to average"):
            A.Averager([])

    def test_of_a_variable_that_is_named_twice(self):
        variable = keras.Variable(1.0)
        with pytest.raises(ValueError, match="each variable once"):
            A.Averager([variable, variable])


def test_it_is_not_created_while_a_fit_builds_the_model():
    """Keras would leave behind variables that break every later `fit`."""
    model = small_model()
    with keras.StatelessScope(), pytest.raises(RuntimeError, match="in the `__init__`"):
        A.Averager(model)
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
