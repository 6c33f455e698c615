"""A network that trains fast, and the rate that it is given."""

import statistics


def load_parts():
    """Digits in three parts: 640 to train with, 357 to choose rates by, 800 to test.

    A tenth of the labels to train with are drawn at random: a network that learns all
    of them by heart has gradients without noise, and then no use for a decay.
    """
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype("float32")
    x, x_test, y, y_test = train_test_split(
        x, y, test_size=800, stratify=y, random_state=0
    )
    x, x_valid, y, y_valid = train_test_split(
        x, y, train_size=640, stratify=y, random_state=0
    )
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(y), len(y) // 10, replace=False)
    y[chosen] = rng.integers(0, 10, len(chosen))
    return (x, y), (x_valid, y_valid), (x_test, y_test)


BATCH_SIZE = 32
CHOOSING = 5  # Seeds that a rate is chosen with.
EXTENSIONS = 3  # How often a grid goes on at most.
SGD, ADAM = "SGD with momentum 0.9", "Adam"
GRIDS = {
    SGD: (0.01, 0.03, 0.1, 0.3),
    ADAM: (0.001, 0.003, 0.01, 0.03),
}
NETWORK = (
    "A network of two hidden layers of 64 units, batches of 32; scikit-learn's "
    "handwritten digits (8 x 8), 640 to train with, a tenth of their labels drawn at "
    "random so that gradients stay noisy, 357 held out to choose rates by, 800 to test"
)


class Trainer:
    """Trains one compiled network again and again, from scratch.

    An epoch is one execution of the compiled step: it is 20 steps, which would take
    longer to call than to compute. Trainings with equal schedules share a compilation.
    """

    def __init__(self, optimizer=SGD):
        self.optimizer = optimizer
        self.data, *self.others = load_parts()
        self.steps_per_epoch = len(self.data[0]) // BATCH_SIZE
        self.model = self.make_network()
        self.initial = {}
        self.score()  # Builds what the first `fit` would otherwise build.

    def make_network(self):
        """One that is ready to train."""
        import keras
        from keras import layers

        model = keras.Sequential(
            [
                keras.Input((64,)),
                layers.Dense(64, activation="relu"),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ]
        )
        # The rate that it is given here is never used.
        if self.optimizer == SGD:
            optimizer = keras.optimizers.SGD(momentum=0.9)
        else:
            optimizer = keras.optimizers.Adam()
        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=self.steps_per_epoch,
            # For a network this small, TensorFlow's own kernels are faster on a CPU.
            jit_compile=keras.backend.backend() == "jax",
        )
        optimizer.build(model.trainable_variables)
        return model

    def restart(self, seed):
        """Gives the network all that a new one of this seed has, and the seed."""
        import keras
        import numpy as np

        if seed not in self.initial:
            keras.utils.set_random_seed(seed)
            new = self.make_network()
            # As copies: the step gives away the buffers of the variables.
            self.initial[seed] = [
                np.array(keras.ops.convert_to_numpy(variable.value))
                for variable in (*new.variables, *new.optimizer.variables)
            ]
        variables = [*self.model.variables, *self.model.optimizer.variables]
        for variable, fresh in zip(variables, self.initial[seed], strict=True):
            variable.assign(fresh.copy())
        keras.utils.set_random_seed(seed)  # The order of the data.

    def fit(self, schedule, epochs, seed, callbacks=(), validate=False, **others):
        """The history of a training from scratch.

        Args:
            schedule: Of the rate.
            epochs: The length.
            seed: Of the weights and the order of the data.
            callbacks: More of them.
            validate: Whether to look at the test data after each epoch.
            **others: Schedules of other hyperparameters.
        """
        from keras_lrs.callbacks import HyperparameterScheduler

        self.restart(seed)
        return self.model.fit(
            *self.data,
            batch_size=BATCH_SIZE,
            epochs=epochs,
            callbacks=[
                HyperparameterScheduler(learning_rate=schedule, **others),
                *callbacks,
            ],
            validation_data=self.others[1] if validate else None,
            validation_batch_size=len(self.others[1][0]),
            verbose=0,
        ).history

    def score(self):
        """Error (%) and loss of the data held out, then of the test data."""
        found = []
        for x, y in self.others:
            loss, accuracy = self.model.evaluate(x, y, batch_size=len(x), verbose=0)
            found += [round(100.0 - 100.0 * accuracy, 4), round(loss, 5)]
        return found

    def run(self, make_schedule, epochs, seeds):
        """The scores of every seed, at the rate that is best on the data held out.

        It is the one of the grid with the least mean error of the first `CHOOSING`
        seeds. While that is at the grid's edge, the grid goes on there.

        Args:
            make_schedule: A function from the rate to the schedule.
            epochs: The length of the training.
            seeds: How many.
        """

        def train(rate, chosen):
            schedule, found = make_schedule(rate), []
            for seed in chosen:
                self.fit(schedule, epochs, seed)
                found.append(self.score())
            return found

        few = range(min(seeds, CHOOSING))
        scores = {rate: train(rate, few) for rate in GRIDS[self.optimizer]}
        rate = best_rate(scores)
        for _ in range(EXTENSIONS):
            if (beyond := next_rate(rate, scores)) is None:
                break
            scores[beyond] = train(beyond, few)
            rate = best_rate(scores)
        return {
            "rate": rate,
            "scores": scores[rate] + train(rate, range(len(few), seeds)),
            "errors held out": {
                f"{each:g}": round(statistics.mean(score[0] for score in found), 3)
                for each, found in scores.items()
            },
        }


def next_rate(best, rates):
    """Beyond the edge of rates that go 1, 3, 10, 30 ..., if the best is there."""
    rates = sorted(rates)
    if best == rates[0]:
        return round(rates[1] / 10.0, 9)
    if best == rates[-1]:
        return round(rates[-2] * 10.0, 9)
    return None


def grid_of(optimizer):
    """How a rate is chosen, in words."""
    rates = ", ".join(f"{rate:g}" for rate in GRIDS[optimizer])
    return (
        f"the rate of {rates} (and on, where the best is at the edge) whose error on "
        f"the data held out is the least in {CHOOSING} seeds"
    )


def best_rate(scores):
    """The least mean error of the data held out; between equal ones, the least loss.

    Args:
        scores: By rate, what `Trainer.score` gave for each seed.
    """

    def held_out(rate):
        errors, losses, *_ = zip(*scores[rate], strict=True)
        loss = statistics.mean(losses)
        return statistics.mean(errors), loss if loss == loss else float("inf")

    return min(scores, key=held_out)
