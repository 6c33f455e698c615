"""What an ensemble of snapshots gains on scans of digits, in about two minutes.

    python examples/snapshot_ensemble.py
    python examples/snapshot_ensemble.py --backend jax --cycles 6 --epochs 60
    python examples/snapshot_ensemble.py --quick

Huang et al. ("Snapshot Ensembles: Train 1, get M for free", 2017, arXiv:1704.00109)
train once, with M cycles of the cosine rate of SGDR (Loshchilov and Hutter, 2016,
arXiv:1608.03983), and average the predictions of the models at the cycles' ends. With a
ResNet-110 on CIFAR-100 the error fell from 28.02 % of a single model, trained as long
with step decay, to 24.19 % (their table 1, five cycles of 40 epochs).

This asks the same of a small network on 1,797 handwritten digits. All methods have the
same number of epochs in total:

- step decay, and one cosine: a single model each;
- snapshots: the last m = 1 .. M of the ends of M equal cycles of one training;
- independent: m = 1 .. M models, each from scratch with a cosine of its own for a
  cycle's epochs.

And Cutkosky's notes return the weights of a completed phase only: the table has the
model in the middle of the last cycle beside that of the end of the cycle before, which
`SnapshotEnsemble(restore_last_completed=True)` keeps.
"""

import argparse
import os
import statistics
import tempfile

from one_cycle import load_cifar10, make_resnet, state
from quickstart import load_data, make_model

PEAK = 0.1
EPOCHS = {"digits": 40, "cifar10": 200}
BATCH_SIZE = {"digits": 64, "cifar10": 128}
RESNET20 = {"widths": (16, 32, 64), "blocks": 3}
STEP, COSINE, CYCLES = "step decay", "one cosine", "cycles"


def make_schedule(method, cycles):
    """The lengths are open: `fit` fills them in."""
    from keras_lrs import Fraction, schedules

    if method == STEP:  # As Huang et al. have it.
        return schedules.MultiStepDecay(PEAK, [Fraction(0.5), Fraction(0.75)])
    if method == COSINE:
        return schedules.CosineAnnealing(PEAK)
    return schedules.CosineRestarts(PEAK, t_mul=1.0, num_cycles=cycles)


class Trainer:
    """Trains one network again and again, each time from scratch."""

    def __init__(self, dataset, data, total):
        from tqdm import tqdm

        self.dataset = dataset
        (x, y), self.test = data
        # A last batch of few images would compile anew and normalize badly.
        whole = len(x) - len(x) % BATCH_SIZE[dataset]
        self.train = x[:whole], y[:whole]
        self.model = self.make_network()
        self.progress = tqdm(total=total, unit="epoch")

    def make_network(self):
        """One that is ready to train."""
        import keras

        digits = self.dataset == "digits"
        model = make_model(PEAK) if digits else make_resnet(RESNET20)
        model.compile(
            keras.optimizers.SGD(PEAK, momentum=0.9, nesterov=True),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            # For a network this small, TensorFlow's own kernels are faster on a CPU.
            jit_compile=keras.backend.backend() == "jax",
        )
        model.optimizer.build(model.trainable_variables)
        return model

    def run(self, method, epochs, seed, cycles=1, callbacks=()):
        """Trains; returns the test accuracies after the epochs, in percent."""
        import keras

        from keras_lrs.callbacks import HyperparameterScheduler

        self.progress.set_description(f"{method}, seed {seed}")
        keras.utils.set_random_seed(seed)  # Weights, dropout and the order of the data.
        new = self.make_network()
        for mine, fresh in zip(state(self.model), state(new), strict=True):
            mine.assign(fresh)
        schedule = make_schedule(method, cycles)
        count = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: self.progress.update()
        )
        training = self.model.fit(
            *self.train,
            batch_size=BATCH_SIZE[self.dataset],
            epochs=epochs,
            validation_data=self.test,
            validation_batch_size=512,
            callbacks=[
                HyperparameterScheduler(learning_rate=schedule),
                *callbacks,
                count,
            ],
            verbose=0,
        )
        return [100.0 * value for value in training.history["val_accuracy"]]

    def probabilities(self):
        """Of the test data, by the model as it is."""
        import keras

        logits = self.model.predict(self.test[0], batch_size=512, verbose=0)
        return keras.ops.convert_to_numpy(keras.ops.softmax(logits))

    def accuracy(self, probabilities):
        """In percent."""
        return 100.0 * (probabilities.argmax(-1) == self.test[1]).mean().item()


def compare(dataset, data, epochs, cycles, seeds):
    """Accuracies by method, a list per seed; curves by method, a list per seed."""
    from keras_lrs import ensembles
    from keras_lrs.callbacks import SnapshotEnsemble

    trainer = Trainer(dataset, data, total=4 * epochs * seeds)
    single = {STEP: [], COSINE: []}
    curves = {STEP: [], COSINE: [], CYCLES: []}
    found = {"single": single, "curves": curves, "snapshots": [], "independent": []}
    found |= {"within": [], "completed": [], "disagreement": {}}
    part = epochs // cycles
    for seed in range(seeds):
        for method, accuracies in single.items():
            curves[method].append(trainer.run(method, epochs, seed))
            accuracies.append(curves[method][-1][-1])
        with tempfile.TemporaryDirectory() as directory:
            snapshots = SnapshotEnsemble(directory)
            curve = trainer.run(CYCLES, epochs, seed, cycles, [snapshots])
            ensemble = ensembles.load(directory, trainer.model, activation="softmax")
        curves[CYCLES].append(curve)
        x = trainer.test[0]
        found["snapshots"].append(
            [
                trainer.accuracy(ensemble.predict(x, m, batch_size=512, verbose=0))
                for m in range(1, cycles + 1)
            ]
        )
        found["within"].append(curve[-1 - part // 2])
        found["completed"].append(curve[-1 - part])
        members = ensemble.predict_members(x, batch_size=512, verbose=0)
        alone = []
        for number in range(cycles):
            trainer.run(COSINE, part, seed=1_000 * (seed + 1) + number)
            alone.append(trainer.probabilities())
        found["independent"].append(
            [trainer.accuracy(sum(alone[: m + 1])) for m in range(cycles)]
        )
        for name, outputs in (("snapshots", members), ("independent", alone)):
            matrix = ensembles.disagreement(outputs)
            share = 100.0 * matrix.sum() / (cycles * (cycles - 1))
            found["disagreement"].setdefault(name, []).append(share)
    trainer.progress.close()
    return found


def cell(values):
    return f"{statistics.mean(values):.2f} ± {statistics.pstdev(values):.2f} %"


def print_tables(found, epochs, cycles):
    """A row per number of members; then what the singles and the phases give."""
    part = epochs // cycles
    print(f"\nTest accuracy after {epochs} epochs, {cycles} cycles of {part}")
    print(f"\n{'members':>7} {'last snapshots':>18} {'independent':>18} {'epochs':>7}")
    for m in range(1, cycles + 1):
        cells = [
            cell([run[m - 1] for run in found[name]])
            for name in ("snapshots", "independent")
        ]
        print(f"{m:>7}", *(f"{text:>18}" for text in cells), f"{m * part:>7}")
    print("\nThe last column is what the independent models took.\n")
    for method, values in found["single"].items():
        print(f"{f'single model, {method}':<42}{cell(values):>18}")
    print(f"{'middle of the last cycle':<42}{cell(found['within']):>18}")
    print(f"{'end of the cycle before, as restored':<42}{cell(found['completed']):>18}")
    for name, values in found["disagreement"].items():
        print(f"{f'disagreement of two, {name}':<42}{cell(values):>18}")
    for method, runs in found["curves"].items():
        means = [statistics.mean(run) for run in runs]
        print(f"{f'mean over all epochs, {method}':<42}{cell(means):>18}")
    print("\n± is the standard deviation over seeds.")


def summarize(found):
    """Whether the claims hold here, by the differences within seeds."""
    last = [run[-1] for run in found["snapshots"]]
    claims = {
        "All snapshots against the last one": [run[0] for run in found["snapshots"]],
        "All snapshots against step decay": found["single"][STEP],
        "All snapshots against one cosine": found["single"][COSINE],
        "All snapshots against as many independent": [
            run[-1] for run in found["independent"]
        ],
    }
    for claim, others in claims.items():
        yield f"{claim:<42}{verdict(last, others)}"
    of_phases = verdict(found["completed"], found["within"])
    yield f"{'End of a phase against a middle':<42}{of_phases}"


def verdict(ours, theirs):
    """The mean difference and its standard error, and what it says."""
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    mean = statistics.mean(differences)
    if len(differences) == 1:
        return f"{mean:+.2f} points (one seed)"
    error = statistics.stdev(differences) / len(differences) ** 0.5
    word = "equal within noise"
    if abs(mean) > 2.0 * error:
        word = "better" if mean > 0.0 else "worse"
    return f"{mean:+.2f} ± {error:.2f} points: {word}"


def draw(found, epochs, cycles, path):
    """Accuracies by members on the left, during training on the right."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.5), layout="constrained")
    members, time = figure.subplots(1, 2)
    sizes = range(1, cycles + 1)
    for name in ("snapshots", "independent"):
        runs = np.array(found[name])
        members.errorbar(
            sizes, runs.mean(0), runs.std(0), fmt="o-", capsize=3, label=name
        )
    for color, (method, runs) in zip(
        ("C2", "C3"), found["single"].items(), strict=True
    ):
        label = f"single, {method}"
        members.axhline(np.mean(runs), color=color, linestyle="--", label=label)
    members.set(xlabel="members", ylabel="test accuracy (%)", xticks=sizes)
    for color, (method, runs) in zip(
        ("C2", "C3", "C0"), found["curves"].items(), strict=True
    ):
        mean = np.mean(runs, axis=0)
        time.plot(range(1, epochs + 1), mean, color=color, label=method)
    low = min(np.mean(runs, axis=0)[epochs // 10] for runs in found["curves"].values())
    time.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(low, None))
    for panel in (members, time):
        panel.grid(alpha=0.3)
        panel.legend(loc="lower right")
    figure.savefig(path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"])
    parser.add_argument("--dataset", choices=list(EPOCHS), default="digits")
    parser.add_argument("--epochs", type=int, help="of each method, in total")
    parser.add_argument("--cycles", type=int, default=5, help="members of an ensemble")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a look at the tables")
    parser.add_argument(
        "--output", default="snapshot_ensemble.png", help="the picture's path"
    )
    options = parser.parse_args(arguments)
    epochs = options.epochs or EPOCHS[options.dataset]
    cycles, seeds = options.cycles, options.seeds
    if options.quick:
        epochs, cycles, seeds = 12, 3, 1
    if cycles < 2 or seeds < 1:
        parser.error("--cycles must be at least 2, --seeds at least 1")
    if epochs < 2 * cycles or epochs % cycles:
        parser.error(f"--epochs must be a multiple of {cycles}, twice that or more")

    # Keras reads its backend when it is imported, so it is imported in the functions.
    if options.backend is not None:
        os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    data = load_data() if options.dataset == "digits" else load_cifar10()
    found = compare(options.dataset, data, epochs, cycles, seeds)
    print_tables(found, epochs, cycles)
    print("\n".join(["", *summarize(found)]))
    draw(found, epochs, cycles, options.output)
    print(f"\nAccuracies: {options.output}")


if __name__ == "__main__":
    main()
