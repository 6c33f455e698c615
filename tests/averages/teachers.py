"""A mean teacher that is alive in `train_step`, and the same in NumPy."""

import keras
import numpy as np

from keras_lrs.averages import Averager, ExponentialAverage
from tests.callbacks import references

DECAY = 0.9


def linear(seed=0):
    """A linear layer in a model; teachers are frozen by their owner."""
    initializer = keras.initializers.RandomNormal(seed=seed)
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer=initializer)
    return keras.Sequential([keras.Input((3,)), dense])


@keras.saving.register_keras_serializable("keras_lrs_tests")
class MeanTeacher(keras.Model):
    """Is drawn to the labels and to what its own average says."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.student, self.teacher = linear(0), linear(1)
        self.teacher.trainable = False
        average = ExponentialAverage(DECAY, debias=False)
        self.averager = Averager(self.student, average)
        self.averager.copy_to(self.teacher)
        self.built = True

    def call(self, inputs):
        """What the student says."""
        return self.student(inputs)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The error of the student, and how far it is from its teacher."""
        taught = keras.ops.stop_gradient(self.teacher(x))
        # Keras's own losses know the number of replicas.
        distance = keras.losses.MeanSquaredError()
        return distance(y, y_pred) + distance(taught, y_pred)

    if keras.backend.backend() == "jax":

        def train_step(self, state, data):
            """Moves the teacher after the student."""
            logs, state = super().train_step(state, data)
            state = self.averager.update_state(self, state, copy_to=self.teacher)
            return logs, state

    else:

        def train_step(self, data):
            """Moves the teacher after the student."""
            logs = super().train_step(data)
            self.averager.update()
            self.averager.copy_to(self.teacher)
            return logs


def loop(student, num_steps, rate=0.05):
    """The student and the teacher after so many steps, in float64."""
    student = np.asarray(student, np.float64)
    teacher = student.copy()
    for step in range(num_steps):
        first = references.BATCH * (step % references.STEPS)
        x = references.X[first : first + references.BATCH].astype(np.float64)
        way = 2.0 * x.T @ (x @ (student - teacher)) / len(x)
        student = student - rate * (references.gradient(student, step) + way)
        teacher = DECAY * teacher + (1.0 - DECAY) * student
    return student, teacher


def check(model, epochs=2):
    """Trains under `fit`, and compares with the loop."""
    before = model.student.get_weights()[0]
    references.fit(model, epochs=epochs)
    student, teacher = loop(before, epochs * references.STEPS)
    np.testing.assert_allclose(model.student.get_weights()[0], student, atol=1e-6)
    np.testing.assert_allclose(model.teacher.get_weights()[0], teacher, atol=1e-6)
    average = keras.ops.convert_to_numpy(model.averager.averages[0].value)
    np.testing.assert_allclose(average, teacher, atol=1e-6)


def resume(path):
    """Loads a model in a process of its own, and trains on; returns its weights."""
    model = keras.saving.load_model(path)
    references.fit(model, epochs=1)
    return [value.tolist() for value in model.get_weights()]
