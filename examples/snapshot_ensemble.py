"""What an ensemble of snapshots gains on scans of digits, in some five minutes.

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

- step decay, and one cosine: a single model each; and cycles that double in length, the
  form of SGDR whose accuracy at any time was praised;
- snapshots: the last m = 1 .. M of the ends of M equal cycles of one training;
- independent: m = 1 .. M models, each from scratch with a cosine of its own for a
  cycle's epochs.

With 450 images to test on, one is 0.22 points of accuracy. So the loss is compared as
well: the mean of minus the logarithm of the probability of the right class.

And Cutkosky's notes return the weights of a completed phase only: the table has the
model in the middle of the last cycle beside that of the end of the cycle before, which
`SnapshotEnsemble(restore_last_completed=True)` keeps.

It took five to eight minutes on two cores that others used as well; `--quick` is a look
at one seed.
"""

import argparse
import os
import statistics
import tempfile

import program
from images import load_cifar10, make_resnet
from one_cycle import state
from quickstart import load_data, make_model

PEAK = 0.1
EPOCHS = {"digits": 40, "cifar10": 200}
BATCH_SIZE = {"digits": 64, "cifar10": 128}
RESNET20 = {"widths": (16, 32, 64), "blocks": 3}
STEP, COSINE, CYCLES = "step decay", "one cosine", "cycles"
GROWING = "growing cycles"
SNAPSHOTS, INDEPENDENT = "last snapshots", "independent"


def make_schedule(method, cycles):
    """The lengths are open: `fit` fills them in."""
    from keras_lrs import Fraction, schedules

    if method == STEP:  # As Huang et al. have it.
        return schedules.MultiStepDecay(PEAK, [Fraction(0.5), Fraction(0.75)])
    if method == COSINE:
        return schedules.CosineAnnealing(PEAK)
    if method == GROWING:  # Of 1, 2 and 4 sevenths of the training.
        return schedules.CosineRestarts(PEAK, t_mul=2.0, num_cycles=3)
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
        model = make_model(PEAK) if digits else make_resnet(**RESNET20)
        model.compile(
            keras.optimizers.SGD(PEAK, momentum=0.9, nesterov=True),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=program.jit_compile(),
        )
        model.optimizer.build(model.trainable_variables)
        return model

    def run(self, method, epochs, seed, cycles=1, callbacks=()):
        """Trains; returns accuracies (%) and losses of the test data, by epoch."""
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
        accuracies = [100.0 * value for value in training.history["val_accuracy"]]
        return accuracies, training.history["val_loss"]

    def probabilities(self):
        """Of the test data, by the model as it is."""
        import keras

        logits = self.model.predict(self.test[0], batch_size=512, verbose=0)
        return keras.ops.convert_to_numpy(keras.ops.softmax(logits))

    def scores(self, probabilities):
        """The accuracy in percent, and the loss."""
        import numpy as np

        y = self.test[1]
        right = probabilities[np.arange(len(y)), y]
        accuracy = 100.0 * (probabilities.argmax(-1) == y).mean()
        return accuracy.item(), -np.log(np.maximum(right, 1e-12)).mean().item()


def compare(dataset, data, epochs, cycles, seeds):
    """What came out: lists with an entry per seed, the scores as arrays.

    Their last axis is that of accuracy and loss; before it, the number of members.
    """
    import numpy as np

    from keras_lrs import ensembles
    from keras_lrs.callbacks import SnapshotEnsemble

    trainer = Trainer(dataset, data, total=5 * epochs * seeds)
    scores = {name: [] for name in (SNAPSHOTS, INDEPENDENT, STEP, COSINE)}
    curves = {name: [] for name in (STEP, COSINE, CYCLES, GROWING)}
    disagreement = {name: [] for name in (SNAPSHOTS, INDEPENDENT)}
    part = epochs // cycles
    for seed in range(seeds):
        for method in (STEP, COSINE):
            curves[method].append(trainer.run(method, epochs, seed))
            scores[method].append([values[-1] for values in curves[method][-1]])
        curves[GROWING].append(trainer.run(GROWING, epochs, seed))
        with tempfile.TemporaryDirectory() as directory:
            snapshots = SnapshotEnsemble(directory)
            curves[CYCLES].append(
                trainer.run(CYCLES, epochs, seed, cycles, [snapshots])
            )
            ensemble = ensembles.load(directory, trainer.model, activation="softmax")
        members = {SNAPSHOTS: ensemble.predict_members(trainer.test[0], 512, 0)}
        means = [
            ensemble.predict(trainer.test[0], m, batch_size=512, verbose=0)
            for m in range(1, cycles + 1)
        ]
        scores[SNAPSHOTS].append([trainer.scores(mean) for mean in means])
        alone = []
        for number in range(cycles):
            trainer.run(COSINE, part, seed=1_000 * (seed + 1) + number)
            alone.append(trainer.probabilities())
        members[INDEPENDENT] = np.stack(alone)
        scores[INDEPENDENT].append(
            [trainer.scores(np.mean(alone[:m], axis=0)) for m in range(1, cycles + 1)]
        )
        for name, outputs in members.items():
            pairs = cycles * (cycles - 1)
            share = ensembles.disagreement(outputs).sum() / pairs
            disagreement[name].append(100.0 * share.item())
    trainer.progress.close()
    return {
        "scores": {name: np.array(values) for name, values in scores.items()},
        "curves": {name: np.array(values) for name, values in curves.items()},
        "disagreement": disagreement,
        # Of the curves: by seed, accuracy or loss, epoch.
        "within": np.array(curves[CYCLES])[:, :, -1 - part // 2],
        "completed": np.array(curves[CYCLES])[:, :, -1 - part],
    }


def cell(values, unit=" %", digits=2):
    mean, spread = statistics.mean(values), statistics.pstdev(values)
    return f"{mean:.{digits}f} ± {spread:.{digits}f}{unit}"


def both(scores):
    """Cells of accuracy and loss; scores by seed."""
    return cell(scores[:, 0].tolist()), cell(scores[:, 1].tolist(), "", 4)


def print_tables(found, epochs, cycles):
    """A row per number of members; then what the singles and the phases give."""
    part, scores = epochs // cycles, found["scores"]
    print(f"\nTest data after {epochs} epochs, {cycles} cycles of {part}")
    header = ("accuracy", "loss") * 2
    print(f"\n{'':>7} {SNAPSHOTS:>35} {INDEPENDENT:>35}")
    print(f"{'members':>7}", *(f"{text:>17}" for text in header), f"{'epochs':>7}")
    for m in range(1, cycles + 1):
        cells = [
            text
            for name in (SNAPSHOTS, INDEPENDENT)
            for text in both(scores[name][:, m - 1])
        ]
        print(f"{m:>7}", *(f"{text:>17}" for text in cells), f"{m * part:>7}")
    print("\nThe last column is what the independent models took.\n")
    rows = {f"single model, {method}": scores[method] for method in (STEP, COSINE)}
    rows["middle of the last cycle"] = found["within"]
    rows["end of the cycle before, as restored"] = found["completed"]
    for method, curves in found["curves"].items():
        rows[f"mean over all epochs, {method}"] = curves.mean(-1)
    for name, values in rows.items():
        print(f"{name:<43}", *(f"{text:>17}" for text in both(values)))
    for name, values in found["disagreement"].items():
        print(f"{f'disagreement of two, {name}':<43} {cell(values):>17}")
    print("\n± is the standard deviation over seeds.")


def summarize(found):
    """Whether the claims hold here, by the differences within seeds."""
    scores = found["scores"]
    claims = {
        "All snapshots against the last one": scores[SNAPSHOTS][:, 0],
        "All snapshots against step decay": scores[STEP],
        "All snapshots against one cosine": scores[COSINE],
        "All snapshots against as many independent": scores[INDEPENDENT][:, -1],
    }
    rows = [(claim, scores[SNAPSHOTS][:, -1], other) for claim, other in claims.items()]
    rows.append(
        ("End of a phase against a middle", found["completed"], found["within"])
    )
    for claim, ours, theirs in rows:
        yield f"{claim}:"
        yield f"  accuracy {verdict(ours[:, 0] - theirs[:, 0], 'points', 2, 1.0)}"
        yield f"  loss     {verdict(ours[:, 1] - theirs[:, 1], '', 4, -1.0)}"


def verdict(differences, unit, digits, better):
    """The mean difference, half of its 95 % interval, and what it says."""
    mean, unit = statistics.mean(differences.tolist()), f" {unit}".rstrip()
    if len(differences) == 1:
        return f"{mean:+.{digits}f}{unit} (one seed)"
    half = program.half_interval(differences)
    word = "cannot be told apart"
    if abs(mean) > half:
        word = "better" if mean * better > 0.0 else "worse"
    return f"{mean:+.{digits}f} ± {half:.{digits}f}{unit}: {word}"


def draw(found, epochs, cycles, path):
    """Accuracy and loss by members on the left, accuracy in training on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 4.5), layout="constrained")
    *by_members, time = figure.subplots(1, 3)
    sizes = range(1, cycles + 1)
    # Those with an axis of members: the snapshots, and independent models.
    groups = {name: runs for name, runs in found["scores"].items() if runs.ndim == 3}
    for index, (panel, label) in enumerate(
        zip(by_members, ("test accuracy (%)", "test loss"), strict=True)
    ):
        for name, scores in groups.items():
            runs = scores[..., index]
            panel.errorbar(
                sizes,
                runs.mean(0),
                runs.std(0),
                fmt="o-",
                color={SNAPSHOTS: "C0", INDEPENDENT: "C1"}.get(name, "C5"),
                capsize=3,
                label=name,
            )
        for color, method in (("C2", STEP), ("C3", COSINE)):
            mean = found["scores"][method][:, index].mean()
            panel.axhline(mean, color=color, linestyle="--", label=f"single, {method}")
        panel.set(xlabel="members", ylabel=label, xticks=sizes)
    for color, (method, runs) in zip(
        ("C2", "C3", "C0", "C4"), found["curves"].items(), strict=True
    ):
        mean = runs[:, 0].mean(0)
        time.plot(range(1, epochs + 1), mean, color=color, label=method)
    low = min(runs[:, 0].mean(0)[epochs // 10] for runs in found["curves"].values())
    time.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(low, None))
    for panel in (*by_members, time):
        panel.grid(alpha=0.3)
    time.legend()
    # Both panels of members have the same lines.
    handles = by_members[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", fontsize="small", ncols=5)
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
    print(f"\nAccuracies and losses: {options.output}")


if __name__ == "__main__":
    main()
