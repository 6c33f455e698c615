"""Super-convergence: 1cycle against step decay at an eighth of the iterations."""

from reproduce import recipe

STEP, CYCLE = "step decay", "1cycle"
LOW, HIGH, STEP_RATE = 0.1, 3.0, 0.35


def add_options(parser):
    parser.add_argument("--depth", type=int, help="56, or another 6 n + 2")
    parser.add_argument("--iterations", type=int, nargs="+", help="of 1cycle")
    parser.add_argument("--baseline", type=int, help="iterations of step decay")
    parser.add_argument(
        "--annihilation", type=float, default=0.1,
        help="share of the iterations after the cycle, below its minimum",
    )  # fmt: skip


def check(parser, options):
    if options.depth % 6 != 2 or options.depth < 8:
        parser.error(f"--depth must be 6 n + 2. Received: {options.depth}")
    if not 0.0 < options.annihilation < 1.0:
        parser.error("--annihilation must be between 0 and 1")


def make_callbacks(method, annihilation):
    """The published rates: 0.1 to 3 and back, or 0.35 with two drops."""
    from keras_lrs import Fraction, callbacks, schedules

    if method == STEP:
        milestones = [Fraction(0.5), Fraction(0.75)]
        schedule = schedules.MultiStepDecay(STEP_RATE, milestones)
        return [recipe.scheduled(learning_rate=schedule)]
    return [
        callbacks.OneCycleScheduler(
            HIGH,
            base_momentum=0.85,
            max_momentum=0.95,
            warmup_fraction=(1.0 - annihilation) / 2.0,
            div_factor=HIGH / LOW,
            # Annihilation: the last rate is a hundredth of the cycle's minimum.
            final_div_factor=100.0,
            shape="linear",
            three_phase=True,
        )
    ]


def name_of(method, iterations, seed):
    return f"{method}, {iterations} iterations, seed {seed}"


def settings(options):
    return [
        (STEP, options.baseline),
        *((CYCLE, number) for number in sorted(options.iterations)),
    ]


def trainings(options, found):
    return {
        name_of(method, iterations, seed): (
            lambda folder, method=method, iterations=iterations, seed=seed: train(
                method, iterations, seed, options, found, folder
            )
        )
        for method, iterations in settings(options)
        for seed in range(1, options.seeds + 1)
    }


def train(method, iterations, seed, options, found, folder):
    from reproduce import networks

    widths = (4, 8, 16) if options.quick else (16, 32, 64)
    model = recipe.make(
        options, seed,
        lambda: networks.make_resnet(
            options.depth, found.classes, found.shape, widths, decay=1e-4
        ),
        recipe.momentum_sgd,
    )  # fmt: skip
    epochs = max(round(iterations / recipe.steps_of(options, found.train)), 1)
    chosen = make_callbacks(method, options.annihilation)
    return recipe.fit(model, found, options, epochs, chosen, folder, seed)


def report(options, found):
    rows = []
    for method, iterations in settings(options):
        runs = [
            found[name_of(method, iterations, seed)]
            for seed in range(1, options.seeds + 1)
        ]
        accuracies = [100.0 - each["error"] for each in runs]
        rows.append([method, f"{runs[0]['steps']:,}", recipe.spread(accuracies)])
    return ["method", "iterations", "accuracy (%)"], rows


RECIPE = recipe.Recipe(
    "one_cycle",
    "Smith and Topin, Super-Convergence, 2017, arXiv:1708.07120. ResNet-56 on "
    "CIFAR-10, batches of 1,000: one cycle from 0.1 to 3 and back, then annihilation, "
    "the momentum from 0.95 to 0.85 and back, against step decay from 0.35.",
    {
        "data": "cifar10", "batch_size": 1_000, "seeds": 1, "depth": 56,
        "iterations": [2_000, 6_000, 10_000, 20_000], "baseline": 80_000,
    },
    {
        "batch_size": 16, "depth": 8, "iterations": [4, 8], "baseline": 12,
    },
    {"classes": 10, "shape": (32, 32, 3), "train": 3_000, "test": 1_000},
    {"classes": 4, "shape": (16, 16, 3), "train": 64, "test": 32},
    trainings,
    report,
    (
        ["method", "iterations", "accuracy (%)"],
        [
            [STEP, "80,000", "91.2"],
            [CYCLE, "2,000", "89.7"],
            [CYCLE, "6,000", "92.1"],
            [CYCLE, "10,000", "92.4"],
            [CYCLE, "20,000", "92.7"],
        ],
    ),
    add_options,
    check,
)  # fmt: skip
