"""The regime of the runs, fixed and committed before the first of them was made.

Data, network, optimizers, lengths, grids and margins; and how wide the intervals are
expected to be, from a trial with another generator seed. The page prints all of it.
"""

SGD, ADAM = "SGD with momentum 0.9 and weight decay 0.0005", "Adam"
MOMENTUM, WEIGHT_DECAY = 0.9, 0.0005

GENERATOR_SEED = 1729  # Of MNIST-1D: neither the trial's nor the published one.
TRAINING, HELD_OUT, TEST = 4_000, 4_000, 16_000
TABLE_TRAINING = 1_280  # Of the diamonds, which are too few for more.
SEEDS, TUNING_SEEDS = 20, 5
CHANNELS = 16  # Of the convolutional network with batch normalization.
HIDDEN = 64  # Units of each of the two layers of the network for tables.
BATCH_SIZE, SMALL_BATCH_SIZE = 100, 32
SMALL = 2_000  # Fewer images than these are trained with in small batches.
EPOCHS = 40  # 1,600 steps on MNIST-1D, and of the diamonds.
AVERAGED_EPOCHS = 20  # Of the study of averages.
BUDGETS = (2.5, 5, 10, 25, 50, 100)  # Percent of the epochs.
FIRST_RATES = {SGD: 0.1, ADAM: 0.01}
FACTOR = 2.0  # From one rate of a grid to the next.
GRID = (-1, 0, 1)  # Exponents of the factor: of the rates that are tried in any case.
# On the digits and the diamonds errors have several minima, and a search from the rates
# above ended in one or another. That was seen in a first run, which was then repeated
# with these rates for every method.
WIDE_GRID = (-5, -4, -3, -2, -1, 0, 1, 2)
EXTENSIONS = 8  # How often a grid is extended at most.
# Half of the 95 % interval of a difference of two methods, by budget, with 20 seeds.
EXPECTED_HALF_WIDTHS = {5: 2.1, 10: 1.45, 25: 0.66, 50: 0.35, 100: 0.24}


def paragraphs(margin, loss_margin):
    """The regime in words."""
    grids = " or ".join(f"{rate:g} ({name})" for name, rate in FIRST_RATES.items())
    budgets = ", ".join(f"{budget:g}" for budget in BUDGETS)
    steps = EPOCHS * TRAINING // BATCH_SIZE
    yield (
        "**Data.** MNIST-1D (Greydanus and Kobak, Scaling Down Deep Learning), made by "
        f"`mnist1d` in one call with the generator seed {GENERATOR_SEED}. Each of the "
        f"{SEEDS} seeds has its own {TRAINING:,} training examples. So does each of "
        f"{TUNING_SEEDS} other seeds, which are only used to choose rates, on "
        f"{HELD_OUT:,} held-out examples. {TEST:,} examples are for testing. Nothing "
        "is augmented. The diamonds are used in the same way, with training sets of "
        f"{TABLE_TRAINING:,}. All seeds share one training set of the handwritten "
        "digits (8 x 8), and of data given by `--data`. A tenth of the digits' "
        "training labels are drawn at random. Otherwise, we expected, a network would "
        "memorize so few images, its gradients would have little noise, and decay "
        "could do little; this was not tried. What this page says of decay on the "
        "digits holds for noisy labels. Claims with programs of their own use the "
        "labels as they are, and say which digits they use."
    )
    yield (
        "**Runs.** The network is convolutional, of the published shape, with "
        f"{CHANNELS} channels and batch normalization (momentum 0.9; for averages of "
        "weights, its statistics are measured again). For a table and for the digits "
        f"it has two hidden layers of {HIDDEN} units, and no normalization. The batch "
        f"size is {BATCH_SIZE}, or {SMALL_BATCH_SIZE} where there are fewer than "
        f"{SMALL:,} examples. The optimizers are {SGD}, and {ADAM}. A whole run has "
        f"{EPOCHS} epochs ({steps:,} steps on MNIST-1D and on the diamonds), or "
        f"{AVERAGED_EPOCHS} in the claims on averages. Budgets are {budgets} % of a "
        "whole run. Where a claim names another length or number of seeds, it has "
        "these."
    )
    yield (
        "**Comparisons.** With SGD we compare all profiles at all sampling rates, a "
        "constant rate, step decay at 50 and 75 % and at 75 % only, and 1cycle at a "
        "constant momentum. With Adam we compare the same methods, except for the "
        "rarer sampling rates. Restarts have five equal cycles, or three that double "
        "in length; phases take 1, 2 and 4 sevenths of the run. Batch sizes are a "
        "quarter of the usual one, the usual one, and four times that, over 20 epochs."
    )
    yield (
        "**Rates.** Unless a claim names its rates, every method uses, at every "
        "budget, the rate with the lowest mean error on the held-out data over the "
        f"{TUNING_SEEDS} other seeds. On MNIST-1D the rates are a grid of {len(GRID)} "
        f"around {grids}, each {FACTOR:g} times the one before, which is extended "
        "until the best rate lies inside. This search ends at a local minimum: a "
        "better rate may lie beyond a worse one. On the digits and the diamonds it "
        "ended in different minima for different methods. The runs on them were "
        f"therefore repeated with a grid of {len(WIDE_GRID)} rates for every method, "
        f"from {FACTOR ** WIDE_GRID[0]:g} to {FACTOR ** WIDE_GRID[-1]:g} times these, "
        "extended in the same way. No interval accounts for the choice of a rate."
    )
    widths = ", ".join(f"{h:g} at {b} %" for b, h in EXPECTED_HALF_WIDTHS.items())
    yield (
        f"**Margins.** The margins are {margin:g} points of accuracy and "
        f'{loss_margin:g} of loss. "Several times as fast" means at least twice as '
        'fast, and "proportional" means an exponent within 0.25 of 1. On MNIST-1D, we '
        "expected the interval of the difference between two methods to be, in points: "
        f"± {widths} of the whole run."
    )
