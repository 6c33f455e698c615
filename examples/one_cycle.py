"""How many epochs 1cycle saves on scans of digits, in about four minutes on two cores.

    python examples/one_cycle.py
    python examples/one_cycle.py --backend jax --epochs 2 4 8 --seeds 10
    python examples/one_cycle.py --tune

Smith and Topin ("Super-Convergence", 2017, arXiv:1708.07120) report that one cycle of
the rate, with the momentum cycled the other way, trains several times faster than step
decay: a ResNet-56 on CIFAR-10 reached 92.4 % in 10,000 iterations, where step decay
reached 91.2 % in 80,000. This asks the same of a small network on 1,797 handwritten
digits. Every method trains from scratch for each number of epochs, with a schedule
exactly as long as that training, once per seed. It has reached the baseline when its
mean test accuracy is that of step decay at the most epochs, less one standard error.

Each method has the rate of one grid that is best for it, on average over the numbers of
epochs: on a quarter of the training data held out (`--tune`), never on the test data.

Five seeds leave room for luck: `docs/evidence.md` compares other networks by 20 seeds.
"""

import argparse
import os
import statistics

import program
from images import hold_out, load_cifar10, make_resnet
from quickstart import load_data, make_model

EPOCHS = {"digits": (2, 3, 5, 8, 12, 20, 30), "cifar10": (5, 10, 20, 40, 80)}
BATCH_SIZE = {"digits": 64, "cifar10": 128}
MOMENTUM = 0.9  # Where nothing cycles it.
RESNET = {"widths": (32, 64, 128), "blocks": 2}

STEP, PLAIN, FULL = "step decay", f"1cycle, momentum {MOMENTUM}", "1cycle"
METHODS = (STEP, PLAIN, FULL)
RATE_GRID = (0.01, 0.03, 0.1, 0.3, 1.0)
# Those that `--tune --backend jax` chose; the next larger ones are hardly worse.
RATES = {"digits": (0.03, 0.1, 0.1)}


def make_callback(method, rate):
    """What drives the optimizer. The lengths are open: `fit` fills them in."""
    from keras_lrs import Fraction, callbacks, schedules

    if method == FULL:  # The momentum goes from 0.95 to 0.85 and back.
        return callbacks.OneCycleScheduler(rate)
    if method == PLAIN:
        return callbacks.HyperparameterScheduler(learning_rate=schedules.OneCycle(rate))
    thirds = [Fraction(1 / 3), Fraction(2 / 3)]
    return callbacks.HyperparameterScheduler(
        learning_rate=schedules.MultiStepDecay(rate, thirds, decay_rate=0.1)
    )


def make_network(dataset):
    """A network that is ready to train; the rate it is given here is never used."""
    import keras

    model = make_model(0.1) if dataset == "digits" else make_resnet(**RESNET)
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=MOMENTUM, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=program.jit_compile(),
    )
    model.optimizer.build(model.trainable_variables)
    return model


class Trainer:
    """Trains one network again and again, each time from scratch.

    Fits with equal schedules share one compilation, as long as the network is one.
    """

    def __init__(self, dataset, data, total):
        from tqdm import tqdm

        self.dataset = dataset
        (x, y), self.test = data
        # A last batch of few images would compile anew and normalize badly.
        whole = len(x) - len(x) % BATCH_SIZE[dataset]
        self.train = x[:whole], y[:whole]
        self.model = make_network(dataset)
        self.accuracy()  # Builds what the first `fit` would otherwise build.
        self.progress = tqdm(total=total, unit="epoch")

    def accuracy(self):
        """Of the test data, in percent."""
        x, y = self.test
        return 100.0 * self.model.evaluate(x, y, batch_size=512, verbose=0)[1]

    def restart(self, seed):
        """Gives the network all that a new one has."""
        import keras

        keras.utils.set_random_seed(seed)  # Weights, dropout and the order of the data.
        new = make_network(self.dataset)
        for mine, fresh in zip(state(self.model), state(new), strict=True):
            mine.assign(fresh)

    def run(self, method, rate, epochs, seeds):
        """The accuracies at the end of the training, and the callback of the last."""
        import keras

        accuracies = []
        count = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: self.progress.update()
        )
        for seed in range(seeds):
            self.progress.set_description(f"{method}, {rate:g}, {epochs} epochs")
            self.restart(seed)
            callback = make_callback(method, rate)
            self.model.fit(
                *self.train,
                batch_size=BATCH_SIZE[self.dataset],
                epochs=epochs,
                callbacks=[callback, count],
                verbose=0,
            )
            accuracies.append(self.accuracy())
        return accuracies, callback


def state(model):
    """All that training changes, except the metrics."""
    return [*model.variables, *model.optimizer.variables]


def compare(dataset, data, rates, budgets, seeds):
    """Accuracies by method and epochs, and the schedules of the longest training."""
    trainer = Trainer(dataset, data, total=len(METHODS) * sum(budgets) * seeds)
    accuracies, schedules = {}, {}
    with trainer.progress:
        for method, rate in zip(METHODS, rates, strict=True):
            accuracies[method] = {}
            for epochs in budgets:
                accuracies[method][epochs], callback = trainer.run(
                    method, rate, epochs, seeds
                )
            schedules[method] = callback.bound
    return accuracies, schedules


def tune(dataset, data, budgets, seeds):
    """The mean accuracies on held-out data, by method, rate and epochs."""
    total = len(METHODS) * len(RATE_GRID) * sum(budgets) * seeds
    trainer = Trainer(dataset, hold_out(data), total)
    with trainer.progress:
        return {
            method: {
                rate: {
                    epochs: statistics.mean(trainer.run(method, rate, epochs, seeds)[0])
                    for epochs in budgets
                }
                for rate in RATE_GRID
            }
            for method in METHODS
        }


def best_rate(by_rate):
    """The rate whose accuracy, averaged over the numbers of epochs, is best."""
    return max(by_rate, key=lambda rate: statistics.mean(by_rate[rate].values()))


def print_tuning(held_out):
    """A table per method: a row per rate, a column per number of epochs."""
    for method, by_rate in held_out.items():
        budgets = next(iter(by_rate.values()))
        print(f"\n{method}: accuracy (%) on held-out data, by rate and epochs")
        print(f"{'':<8}", *(f"{epochs:>6}" for epochs in budgets), f"{'mean':>7}")
        for rate, by_epochs in by_rate.items():
            values = [*by_epochs.values(), statistics.mean(by_epochs.values())]
            print(f"{rate:<8g}", *(f"{value:>6.2f}" for value in values))
    best = (f"{best_rate(by_rate):g}" for by_rate in held_out.values())
    print(f"\nBest on average: --rates {' '.join(best)}")


def target_accuracy(accuracies):
    """The mean of step decay at the most epochs, less one standard error."""
    final = accuracies[STEP][max(accuracies[STEP])]
    if len(final) == 1:
        return final[0]
    return statistics.mean(final) - statistics.stdev(final) / len(final) ** 0.5


def epochs_to_reach(target, by_epochs):
    """The fewest epochs whose mean accuracy reaches the target; None if none does."""
    reached = (e for e, runs in by_epochs.items() if statistics.mean(runs) >= target)
    return min(reached, default=None)


def print_table(accuracies):
    """A row per number of epochs, a column per method."""
    print("\nepochs", *(f"{method:>22}" for method in accuracies))
    for epochs in accuracies[STEP]:
        cells = []
        for by_epochs in accuracies.values():
            runs = by_epochs[epochs]
            cells.append(
                f"{statistics.mean(runs):.2f} ± {statistics.pstdev(runs):.2f} %"
            )
        print(f"{epochs:>6}", *(f"{cell:>22}" for cell in cells))
    print("\n± is the standard deviation over seeds.")


def summarize(accuracies):
    """Lines that say how many epochs each method needs, and what that saves."""
    target, most = target_accuracy(accuracies), max(accuracies[STEP])
    needed = {m: epochs_to_reach(target, runs) for m, runs in accuracies.items()}
    yield (
        f"Epochs to reach {target:.2f} %, the mean of step decay in {most} less one "
        "standard error:"
    )
    for method, epochs in needed.items():
        if epochs is None:
            verdict = f"not in {most}"
        elif epochs < needed[STEP]:
            verdict = f"{epochs}, {needed[STEP] / epochs:.1f} times fewer"
        elif epochs > needed[STEP]:
            verdict = f"{epochs}, {epochs / needed[STEP]:.1f} times more"
        else:
            verdict = f"{epochs}"
        yield f"  {method:<22}{verdict}"
    yield "Published: 8 times fewer, for a ResNet-56 on CIFAR-10 (arXiv:1708.07120)."


def draw(accuracies, schedules, steps, path):
    """Accuracies on the left; on the right the schedules of the longest training."""
    import numpy as np
    from matplotlib.figure import Figure

    from keras_lrs.schedules import Constant

    figure = Figure(figsize=(10.0, 5.0), layout="constrained")
    axes = figure.subplot_mosaic([["accuracy", "rate"], ["accuracy", "momentum"]])
    budgets = list(accuracies[STEP])
    epochs = max(budgets) * np.arange(steps) / steps
    for method, by_epochs in accuracies.items():
        # One has the momentum of step decay and may have the rate of 1cycle.
        line, order = ("--", 3) if method == PLAIN else ("-", 2)
        means = [statistics.mean(runs) for runs in by_epochs.values()]
        spreads = [statistics.pstdev(runs) for runs in by_epochs.values()]
        axes["accuracy"].errorbar(
            budgets, means, spreads, fmt=f"o{line}", capsize=3, label=method
        )
        rates = schedules[method]["learning_rate"].curve(steps)
        axes["rate"].plot(epochs, rates, line, zorder=order)
        momentum = schedules[method].get("momentum", Constant(MOMENTUM))
        axes["momentum"].plot(epochs, momentum.curve(steps), line, zorder=order)
    target = target_accuracy(accuracies)
    axes["accuracy"].axhline(target, color="gray", linestyle=":", label="to be reached")
    axes["accuracy"].set(xlabel="epochs of the run", ylabel="test accuracy (%)")
    axes["accuracy"].set_xscale("log")
    axes["accuracy"].set_xticks(budgets, labels=[f"{epochs}" for epochs in budgets])
    axes["accuracy"].minorticks_off()
    axes["accuracy"].legend(loc="lower right")
    axes["rate"].set(ylabel="learning rate")
    axes["momentum"].set(xlabel="epoch", ylabel="momentum")
    for panel in axes.values():
        panel.grid(alpha=0.3)
    figure.savefig(path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"])
    parser.add_argument("--dataset", choices=list(EPOCHS), default="digits")
    parser.add_argument("--epochs", type=int, nargs="+", help="of each training")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each training")
    parser.add_argument("--rates", type=float, nargs=3, help=f"of {'; '.join(METHODS)}")
    parser.add_argument("--tune", action="store_true", help="only choose the rates")
    parser.add_argument("--output", default="one_cycle.png", help="the picture's path")
    options = parser.parse_args(arguments)
    budgets = sorted(set(options.epochs or EPOCHS[options.dataset]))
    if budgets[0] < 1 or options.seeds < 1:
        parser.error("--epochs and --seeds must be at least 1")
    rates = options.rates or RATES.get(options.dataset)
    if rates is None and not options.tune:
        parser.error(f"{options.dataset} needs --rates; --tune chooses them")

    # Keras reads its backend when it is imported, so it is imported in the functions.
    if options.backend is not None:
        os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    data = load_data() if options.dataset == "digits" else load_cifar10()
    if options.tune:
        print_tuning(tune(options.dataset, data, budgets, options.seeds))
        return
    accuracies, schedules = compare(
        options.dataset, data, rates, budgets, options.seeds
    )
    print_table(accuracies)
    print("\n".join(summarize(accuracies)))
    steps_per_epoch = len(data[0][0]) // BATCH_SIZE[options.dataset]
    draw(accuracies, schedules, max(budgets) * steps_per_epoch, options.output)
    print(f"Accuracies and schedules: {options.output}")


if __name__ == "__main__":
    main()
