"""ResNet-50 on ImageNet: a tenth of the rate every 30 of 90 epochs."""

from reproduce import recipe

STEPS, REX, COSINE, LINEAR = "steps at 30 and 60", "rex", "cosine", "linear"
SCHEDULES = (STEPS, COSINE, LINEAR, REX)


def make_schedule(name, rate):
    """Milestones are at 30 and 60 of 90 epochs, and at these shares of fewer."""
    from keras_lrs import Fraction, schedules

    return {
        STEPS: lambda: schedules.MultiStepDecay(
            rate, [Fraction(1 / 3), Fraction(2 / 3)]
        ),
        COSINE: lambda: schedules.CosineAnnealing(rate),
        LINEAR: lambda: schedules.LinearDecay(rate),
        REX: lambda: schedules.REXDecay(rate),
    }[name]()


def add_options(parser):
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, metavar="SCHEDULE")
    parser.add_argument("--rate", type=float, help="for batches of 256: it is scaled")


def check(parser, options):
    if options.data in ("cifar10", "cifar100"):
        parser.error("--data must be a folder with `train` and `val`, or made")


def name_of(schedule, seed):
    return f"{schedule}, seed {seed}"


def trainings(options, found):
    return {
        name_of(schedule, seed): (
            lambda folder, schedule=schedule, seed=seed: train(
                schedule, seed, options, found, folder
            )
        )
        for schedule in options.schedules
        for seed in range(1, options.seeds + 1)
    }


def train(schedule, seed, options, found, folder):
    from keras_lrs import tuning
    from reproduce import networks

    rate = tuning.scale_learning_rate(options.rate, options.batch_size, 256)
    small = {"size": 32, "width": 4, "blocks": (1, 1, 1, 1)} if options.quick else {}
    model = recipe.make(
        options, seed,
        lambda: networks.make_resnet50(found.classes, found.shape, **small),
        recipe.momentum_sgd,
    )  # fmt: skip
    chosen = [recipe.scheduled(learning_rate=make_schedule(schedule, rate))]
    return recipe.fit(model, found, options, options.epochs, chosen, folder, seed)


def report(options, found):
    rows = []
    for schedule in options.schedules:
        runs = [found[name_of(schedule, seed)] for seed in range(1, options.seeds + 1)]
        accuracies = [100.0 - each["error"] for each in runs]
        rows.append([schedule, f"{runs[0]['steps']:,}", recipe.spread(accuracies)])
    return ["schedule", "steps", "top-1 accuracy (%)"], rows


RECIPE = recipe.Recipe(
    "imagenet_steps",
    "Cutkosky's lecture notes, He et al., 2015, arXiv:1512.03385: ResNet-50 on "
    "ImageNet, 90 epochs from a rate of 0.1 for batches of 256, a tenth of it after 30 "
    "and after 60. Crops, sizes and mirror images are made on the device; threads read "
    "the files of a folder.",
    {
        "epochs": 90, "batch_size": 256, "seeds": 1, "rate": 0.1, "schedules": [STEPS],
        "data": "imagenet",
    },
    {"epochs": 3, "batch_size": 8},
    {"classes": 1_000, "shape": (256, 256, 3), "train": 64, "test": 32},
    {"classes": 4, "shape": (40, 40, 3), "train": 32, "test": 16},
    trainings,
    report,
    (
        ["schedule", "steps", "top-1 accuracy (%)"],
        [["steps at 30 and 60 (torchvision's weights V1)", "450,450", "76.13"]],
    ),
    add_options,
    check,
)  # fmt: skip
