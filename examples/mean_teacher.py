"""A mean teacher with few labels on scans of digits, in some minutes on two cores.

    python examples/mean_teacher.py
    python examples/mean_teacher.py --backend jax --labels 10 --seeds 20

Tarvainen and Valpola ("Mean teachers are better role models", 2017, arXiv:1703.01780)
let a network learn from its own average, the teacher, what it has no labels for. Here
1,347 digits are trained on, of which a few per class have a label. Both methods see the
same batches, a quarter of each with labels; the supervised one ignores the rest. A
supervised network's average is measured as well, to separate what the teacher teaches
from what averaging does. Accuracies are of 450 digits that nobody has trained on.
Nothing was tuned.

Ten seeds on JAX with two labels per class reached 75.3 % supervised, 75.4 % with the
average of that, and 78.7 % with a mean teacher: 3.3 ± 1.3 points more than the average
(95 %, paired by seed). Its student reached 79.2 %.

The teacher is alive: `keras_lrs.averages.Averager` averages in `train_step` and gives
the teacher its weights after every step.
"""

import program
from quickstart import load_data

BATCH, LABELED = 64, 16  # Images in a batch, and how many of them have a label.
RAMP = 100  # Steps until the teacher counts fully.
DECAY = 0.98
NO_LABEL = -1
RATE = 2e-3


def make_network():
    """A small convolutional network; student and teacher differ by its noise."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.GaussianNoise(0.15),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.Activation("relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.Activation("relu"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10),
        ]
    )


def make_model(consistency):
    """A student with its teacher.

    Args:
        consistency: The weight of the distance between them; 0 is supervised.
    """
    import keras
    from keras import ops

    from keras_lrs import averages

    class MeanTeacher(keras.Model):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = make_network(), make_network()
            self.teacher.trainable = False
            self.averager = averages.Averager(
                self.student,
                averages.ExponentialAverage(DECAY),
                batch_norm="average",
            )
            self.averager.copy_to(self.teacher)
            self.built = True

        def call(self, inputs, training=None):
            return self.student(inputs, training=training)

        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            labeled = ops.cast(y != NO_LABEL, "float32")
            errors = keras.losses.sparse_categorical_crossentropy(
                ops.maximum(y, 0), y_pred, from_logits=True
            )
            loss = ops.sum(labeled * errors) / ops.sum(labeled)
            if not consistency:
                return loss
            taught = ops.stop_gradient(ops.softmax(self.teacher(x, training=False)))
            distance = ops.mean(ops.square(ops.softmax(y_pred) - taught))
            steps = ops.cast(self.averager.updates.value, "float32")
            return loss + consistency * ops.minimum(steps / RAMP, 1.0) * distance

        def train_step(self, *state_and_data):
            found = super().train_step(*state_and_data)
            if keras.backend.backend() == "jax":  # There variables are in the state.
                logs, state = found
                return logs, self.averager.update_state(self, state, self.teacher)
            self.averager.update()
            self.averager.copy_to(self.teacher)
            return found

    model = MeanTeacher()
    model.compile(keras.optimizers.Adam(RATE), jit_compile=program.jit_compile())
    return model


def make_batches(data, labels, steps, seed):
    """Images and labels of all steps; those without a label have `NO_LABEL`."""
    import numpy as np

    x, y = data
    rng = np.random.default_rng(seed)
    known = [
        rng.permutation(np.flatnonzero(y == digit))[:labels] for digit in range(10)
    ]
    known = np.concatenate(known)
    unknown = np.setdiff1d(np.arange(len(x)), known)

    def drawn(indices, count):
        """Every index as often as the others, in a new order each time."""
        rounds = -(-count // len(indices))
        return np.concatenate([rng.permutation(indices) for _ in range(rounds)])[:count]

    first = drawn(known, steps * LABELED).reshape(steps, LABELED)
    second = drawn(unknown, steps * (BATCH - LABELED)).reshape(steps, -1)
    chosen = np.concatenate([first, second], axis=1)
    targets = y[chosen].astype("int32")
    targets[:, LABELED:] = NO_LABEL
    return x[chosen.ravel()], targets.ravel()


def accuracy(network, data):
    """Of the test data, in percent."""
    x, y = data
    return 100.0 * float((network.predict(x, 512, verbose=0).argmax(-1) == y).mean())


def run(data, consistency, labels, steps, seed):
    """The accuracies of a student and its teacher, after one training."""
    import keras

    train, test = data
    keras.utils.set_random_seed(seed)
    model = make_model(consistency)
    x, y = make_batches(train, labels, steps, seed)
    model.fit(x, y, BATCH, shuffle=False, verbose=0)
    return accuracy(model.student, test), accuracy(model.teacher, test)


METHODS = ("supervised", "its average", "student", "mean teacher")


def compare(data, options):
    """The accuracies of all methods, by seed."""
    import keras
    from tqdm import tqdm

    found = {name: [] for name in METHODS}
    for seed in tqdm(range(options.seeds), unit="seed"):
        runs = [
            run(data, consistency, options.labels, options.steps, seed)
            for consistency in (0.0, options.consistency)
        ]
        for name, value in zip(METHODS, [*runs[0], *runs[1]], strict=True):
            found[name].append(value)
        keras.backend.clear_session()
    return found


def report(found):
    """A table, and what the teacher gains over both supervised networks."""
    import numpy as np

    columns = {name: np.array(runs) for name, runs in found.items()}
    rows = [[name, program.spread(runs)] for name, runs in columns.items()]
    yield from program.table(["network", "test accuracy (%)"], rows)
    yield ""
    for other in METHODS[:2]:
        gains = columns["mean teacher"] - columns[other]
        interval = program.half_interval(gains)
        yield (
            f"Mean teacher over {other}: {gains.mean():+.2f} ± {interval:.2f} points "
            "(95 %, paired by seed)"
        )


def main(arguments=None):
    """Trains, and prints what came of it."""
    parser = program.base_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="runs of everything")
    parser.add_argument("--labels", type=int, default=2, help="per class")
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument(
        "--consistency", type=float, default=10.0, help="the weight of the teacher"
    )
    options = program.parse(parser, arguments)
    found = compare(load_data(), options)
    print("\n".join(report(found)))


if __name__ == "__main__":
    main()
