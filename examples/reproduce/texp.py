"""ExpLR and TEXP: rates that grow exponentially, in the place of a weight decay."""

from reproduce import recipe

WEIGHT_DECAY, MOMENTUM, RATE = 5e-4, 0.9, 0.1
CONSTANT, STEP = "constant rate", "step decay"
DECAYED = {CONSTANT: "with weight decay", STEP: "with weight decay"}
PLAIN = {CONSTANT: "ExpLR", STEP: "TEXP"}


def add_options(parser):
    parser.add_argument("--depth", type=int, help="32, or another 6 n + 2")


def check(parser, options):
    if options.depth % 6 != 2 or options.depth < 8:
        parser.error(f"--depth must be 6 n + 2. Received: {options.depth}")


def make_schedules():
    """A constant rate, and a tenth of it after a half and three quarters."""
    from keras_lrs import Fraction, schedules

    drops = [Fraction(0.5), Fraction(0.75)]
    return {
        CONSTANT: schedules.Constant(RATE),
        STEP: schedules.MultiStepDecay(RATE, drops),
    }


def name_of(kind, form, seed):
    return f"{kind}, {form}, seed {seed}"


def trainings(options, found):
    return {
        name_of(kind, form[kind], seed): (
            lambda folder, schedule=schedule, plain=form is PLAIN, seed=seed: train(
                schedule, plain, seed, options, found, folder
            )
        )
        for kind, schedule in make_schedules().items()
        for form in (DECAYED, PLAIN)
        for seed in range(1, options.seeds + 1)
    }


def train(schedule, plain, seed, options, found, folder):
    """With weight decay in the gradient, or without and with the rates that replace it.

    All that is trained are kernels that feed a normalization: the normalizations have
    no scale and no center, and the last layer stays as it was made.
    """
    import keras
    import numpy as np

    from keras_lrs import schedules
    from reproduce import networks

    steps_per_epoch = recipe.steps_of(options, found.train)
    steps = steps_per_epoch * (1 if options.steps else options.epochs)
    schedule = schedule.bind(steps, steps_per_epoch)
    driven = {"learning_rate": schedule}
    if plain:
        driven["learning_rate"], driven["momentum"] = schedules.without_weight_decay(
            schedule, WEIGHT_DECAY, steps, MOMENTUM, form="l2"
        )
    widths = (4, 8, 16) if options.quick else (16, 32, 64)
    model = recipe.make(
        options, seed,
        lambda: networks.make_preresnet(
            options.depth, found.classes, found.shape, widths,
            0.0 if plain else WEIGHT_DECAY, frozen=True, trained_head=False,
        ),
        lambda: recipe.momentum_sgd(MOMENTUM),
    )  # fmt: skip
    rates = driven["learning_rate"].curve(steps)[steps_per_epoch - 1 :: steps_per_epoch]

    def measure(model):
        lengths = [
            np.linalg.norm(keras.ops.convert_to_numpy(variable).astype("float64"))
            for variable in model.trainable_variables
        ]
        return {"norm": np.linalg.norm(lengths)}

    chosen = [recipe.scheduled(**driven)]
    scores = recipe.fit(
        model, found, options, options.epochs, chosen, folder, seed, measure
    )
    return scores | {"rates": rates.tolist()}


def report(options, found):
    """Errors, how far the losses differ, and norm(w)**2 over the rate."""
    rows = []
    for kind in make_schedules():
        for form in (DECAYED, PLAIN):
            runs = [
                found[name_of(kind, form[kind], seed)]
                for seed in range(1, options.seeds + 1)
            ]
            first, last = runs[0]["curves"][0], runs[0]["curves"][-1]
            rates = runs[0]["rates"]
            rows.append(
                [
                    f"{kind}, {form[kind]}",
                    recipe.spread([each["error"] for each in runs]),
                    f"{last['cross_entropy']:.4f}",
                    f"{rates[-1] / rates[0]:.3g}",
                    f"{last['norm'] ** 2 / rates[-1]:.4g}",
                    f"{first['norm'] ** 2 / rates[0]:.4g}",
                ]
            )
    header = [
        "training", "error (%)", "training loss", "last rate / first",
        "norm(w)^2 / rate at last", "after an epoch",
    ]  # fmt: skip
    return header, rows


def draw(found, path):
    """Training loss, rate, and norm(w)**2 over the rate, by epochs."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14.0, 4.5), layout="constrained")
    panels = figure.subplots(1, 3)
    for number, (name, each) in enumerate(found.items()):
        if not name.endswith("seed 1"):
            continue
        epochs = np.arange(1, len(each["curves"]) + 1)
        loss = np.array([one["cross_entropy"] for one in each["curves"]])
        norm = np.array([one["norm"] for one in each["curves"]])
        rates = np.array(each["rates"])
        line = "-" if "with weight decay" in name else "--"
        values = (loss, rates, norm**2 / rates)
        for axes, value in zip(panels, values, strict=True):
            axes.plot(epochs, value, line, color=f"C{number}", label=name)
    labels = ("training loss", "learning rate", "norm(w)^2 / rate")
    for axes, label in zip(panels, labels, strict=True):
        axes.set(xlabel="epoch", ylabel=label, yscale="log")
        axes.grid(alpha=0.3)
    panels[1].legend(fontsize="small")
    figure.savefig(path)


RECIPE = recipe.Recipe(
    "texp",
    "Li and Arora, An Exponential Learning Rate Schedule for Deep Learning, 2019, "
    "arXiv:1910.07454. PreResNet-32 on CIFAR-10 with a fixed last layer and without "
    "scales and centers, SGD with momentum 0.9, weight decay 5e-4 as a term of the "
    "gradient; the same without it by ExpLR and TEXP, the tapered exponential.",
    {"data": "cifar10", "epochs": 160, "batch_size": 128, "seeds": 1, "depth": 32},
    {"epochs": 4, "batch_size": 16, "depth": 8},
    {"classes": 10, "shape": (32, 32, 3), "train": 2_000, "test": 1_000},
    {"classes": 4, "shape": (16, 16, 3), "train": 64, "test": 32},
    trainings,
    report,
    (
        ["the paper and its posts say"],
        [
            ["the same functions, so the same losses and errors"],
            ["a rate of 0.1 becomes 0.1 * 1.481^t, t in epochs of 391 steps"],
            ["norm(w)^2 / rate is constant, once it has settled"],
        ],
    ),
    add_options,
    check,
    draw,
)  # fmt: skip
