"""Runs: one compiled network for each optimizer, trained again and again from scratch.

All of it goes through `model.fit` and the callbacks of the library. An execution of the
compiled step is many steps, which would take longer to call than to compute.
"""

import dataclasses
import math
import statistics

from claims import methods, networks, regime
from claims.experiment import job
from claims.regime import ADAM, SGD

MOST_STEPS = 64  # Of one execution.
SEEDS_OF_CHOOSING = 1_000  # The first; none of them is one that is reported.


@dataclasses.dataclass(frozen=True)
class Kind:
    """An optimizer and a batch size: what is compiled once.

    Args:
        optimizer: `SGD` or `ADAM`.
        batch_size: None is that of the data.
        momentum: Of SGD; 0 also leaves out the weight decay.
        free: Whether `ScheduleFree` is around the optimizer.
        average: That of `ScheduleFree`.
    """

    optimizer: str = SGD
    batch_size: int | None = None
    momentum: float = regime.MOMENTUM
    free: bool = False
    average: object = None

    def make(self):
        """The optimizer; the rate that it is given is never used."""
        import keras

        from keras_lrs.optimizers import ScheduleFree

        if self.optimizer == ADAM and self.free:
            adam = keras.optimizers.Adam(0.01, beta_1=0.0)
            return ScheduleFree(adam, average=self.average)
        if self.optimizer == ADAM:
            return keras.optimizers.Adam(0.01)
        decay = regime.WEIGHT_DECAY if self.momentum else None
        return keras.optimizers.SGD(0.1, momentum=self.momentum, weight_decay=decay)


class Harness:
    """Trains on the data that it is given; what it has compiled, it keeps."""

    def __init__(self, data, quick=False):
        self.data, self.quick = data, quick
        self.models, self.initial, self.rates = {}, {}, {}

    def batch_size(self, kind):
        """Of the kind, or that of the data."""
        return kind.batch_size or self.data.batch_size

    def steps_per_epoch(self, kind=None):
        """Whole batches only: another size would compile anew."""
        size = self.batch_size(kind or Kind())
        return len(self.data.training[0][0]) // size

    def make_network(self):
        """The network for the data."""
        return networks.make_network(self.data.shape, self.data.classes)

    def make_model(self, kind):
        """One that is ready to train."""
        import keras

        model = self.make_network()
        steps = self.steps_per_epoch(kind)
        divisors = [n for n in range(1, MOST_STEPS + 1) if steps % n == 0]
        model.compile(
            kind.make(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=max(divisors),
            # For a network this small, TensorFlow's own kernels are faster on a CPU.
            jit_compile=keras.backend.backend() == "jax",
        )
        model.optimizer.build(model.trainable_variables)
        return model

    def restart(self, kind, seed):
        """The compiled network with all that a new one of this seed has."""
        import keras
        import numpy as np

        if kind not in self.models:
            self.models[kind] = self.make_model(kind)
            self.score(self.models[kind], self.data.held_out)  # Builds the metrics.
        model = self.models[kind]
        if (kind, seed) not in self.initial:
            keras.utils.set_random_seed(seed)
            new = self.make_model(kind)
            # As copies: the step gives away the buffers of the variables.
            self.initial[kind, seed] = [
                np.array(keras.ops.convert_to_numpy(variable.value))
                for variable in (*new.variables, *new.optimizer.variables)
            ]
        variables = [*model.variables, *model.optimizer.variables]
        for variable, fresh in zip(variables, self.initial[kind, seed], strict=True):
            variable.assign(fresh.copy())
        keras.utils.set_random_seed(seed)  # The order of the data.
        return model

    def fit(
        self, callbacks, epochs, seed, kind=None, choosing=False, looks=None, part=None
    ):
        """Trains from scratch; returns the model and the history.

        Args:
            callbacks: One that drives the rate, and others.
            epochs: The length.
            seed: Of the training set, the weights and the order of the data.
            kind: What is trained; None is SGD.
            choosing: Whether it is one of the seeds that rates are chosen with.
            looks: After which epochs to look at the test data; None does not.
            part: Another seed of weights and order, with the same training set.
        """
        kind = kind or Kind()
        first = SEEDS_OF_CHOOSING if choosing else 0
        model = self.restart(kind, first + seed if part is None else part)
        x, y = self.data.train(seed, choosing)
        whole = self.steps_per_epoch(kind) * self.batch_size(kind)
        history = model.fit(
            x[:whole],
            y[:whole],
            batch_size=self.batch_size(kind),
            epochs=epochs,
            callbacks=callbacks,
            validation_data=self.data.test if looks else None,
            validation_batch_size=self.evaluated_in(self.data.test),
            validation_freq=list(looks) if looks else 1,
            verbose=0,
        ).history
        return model, history

    @staticmethod
    def evaluated_in(part):
        """The size of the batches that it is evaluated in."""
        return min(len(part[0]), 4_000)

    def score(self, model, part):
        """Error (%) and loss."""
        x, y = part
        size = self.evaluated_in(part)
        loss, accuracy = model.evaluate(x, y, batch_size=size, verbose=0)
        return [round(100.0 - 100.0 * accuracy, 4), round(loss, 5)]

    # --- The rate ---------------------------------------------------------------------

    def choose(self, make_callbacks, epochs, kind=None, key=None):
        """The best rate, and the errors held out by rate: see `search`.

        Args:
            make_callbacks: A function from the rate to callbacks.
            epochs: The length.
            kind: What is trained.
            key: What the outcome is remembered by, among those of this function.
        """
        kind = kind or Kind()
        # Two functions may call different methods the same.
        name = make_callbacks.__module__, make_callbacks.__qualname__
        if key is not None and (name, key, epochs, kind) in self.rates:
            return self.rates[name, key, epochs, kind]
        seeds = 2 if self.quick else regime.TUNING_SEEDS

        def scores(rate):
            found = []
            for seed in range(seeds):
                callbacks = make_callbacks(rate)
                model, _ = self.fit(callbacks, epochs, seed, kind, choosing=True)
                found.append(self.score(model, self.data.held_out))
            return found

        found = search(scores, regime.FIRST_RATES[kind.optimizer], self.data.grid)
        self.rates[name, key, epochs, kind] = found
        return found


def search(scores, first, grid=regime.GRID):
    """The rate with the least mean error, on a grid extended until it is inside.

    Args:
        scores: A function from a rate to errors and losses by seed.
        first: The rate that the grid is around.
        grid: Exponents of the factor, for the rates that are tried in any case.
    """
    found = {n: scores(first * regime.FACTOR**n) for n in grid}
    best = best_of(found)
    for _ in range(regime.EXTENSIONS):
        if best not in (min(found), max(found)):
            break
        beyond = best - 1 if best == min(found) else best + 1
        found[beyond] = scores(first * regime.FACTOR**beyond)
        best = best_of(found)
    held_out = {
        f"{first * regime.FACTOR**n:g}": round(
            statistics.mean(e for e, _ in found[n]), 3
        )
        for n in sorted(found)
    }
    return first * regime.FACTOR**best, held_out


def best_of(found):
    """The least mean error; between equal ones, the least loss."""

    def held_out(name):
        errors, losses = zip(*found[name], strict=True)
        loss = statistics.mean(losses)
        return statistics.mean(errors), loss if math.isfinite(loss) else math.inf

    return min(found, key=held_out)


# --- Jobs -----------------------------------------------------------------------------


def measure(harness, method, epochs, seeds, optimizer=SGD, looks=False):
    """A method at its best rate: the scores of all seeds, and curves.

    Scores are the error (%) and the loss of the held-out data, then of the test data.

    Args:
        harness: What runs it.
        method: Its name in `methods`.
        epochs: The length.
        seeds: How many.
        optimizer: `SGD` or `ADAM`.
        looks: Whether to look at the test data after each epoch.
    """
    kind = Kind(optimizer)

    def make_callbacks(rate):
        return [methods.make_callback(method, rate)]

    rate, held_out = harness.choose(make_callbacks, epochs, kind, method)
    scores, curves = [], []
    for seed in range(seeds):
        every = range(1, epochs + 1) if looks else None
        model, history = harness.fit(
            make_callbacks(rate), epochs, seed, kind, looks=every
        )
        scores.append(
            harness.score(model, harness.data.held_out)
            + harness.score(model, harness.data.test)
        )
        if looks:
            accuracies = [round(100.0 * each, 4) for each in history["val_accuracy"]]
            curves.append(
                [accuracies, [round(each, 5) for each in history["val_loss"]]]
            )
    found = {"rate": rate, "scores": scores, "errors held out": held_out}
    return found | ({"curves": curves} if looks else {})


def measured(method, epochs, size, optimizer=SGD, looks=False):
    """The job of `measure`: equal calls of several experiments are one job."""
    return job(
        measure,
        method=method,
        epochs=epochs,
        seeds=size.seeds,
        optimizer=optimizer,
        looks=looks,
    )


def words_of(data, kind=None):
    """Data, network, optimizer and how rates are chosen, in words."""
    kind = kind or Kind()
    network = networks.words(data.shape)
    return (
        f"{data.describe()} {network[0].upper()}{network[1:]}, batches of "
        f"{kind.batch_size or data.batch_size}."
    )


def grid_words(data, *optimizers, when=""):
    """How a rate is chosen, in words; `when` says in which runs, and at what point."""
    ranges = []
    for each in optimizers:
        rates = [regime.FIRST_RATES[each] * regime.FACTOR**n for n in data.grid]
        ranges.append(f"{min(rates):g} to {max(rates):g}")
    if len(ranges) > 1:
        pairs = zip(ranges, optimizers, strict=True)
        ranges = [f"{each} ({optimizer})" for each, optimizer in pairs]
    return (
        f"the rate with the lowest mean held-out error over {regime.TUNING_SEEDS} "
        f"other seeds{when}, from a grid of {' or '.join(ranges)} in factors of "
        f"{regime.FACTOR:g} that is extended until the best rate lies inside it"
    )
