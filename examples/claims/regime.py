"""The regime of the runs, fixed and committed before the first of them was made.

Data, network, optimizers, lengths, grids and margins; and how wide the intervals are
expected to be, from a trial with another generator seed. The page prints all of it.
"""

SGD, ADAM = "SGD with momentum 0.9 and weight decay 0.0005", "Adam"
MOMENTUM, WEIGHT_DECAY = 0.9, 0.0005

GENERATOR_SEED = 1729  # Of MNIST-1D: neither the trial's nor the published one.
TRAINING, HELD_OUT, TEST = 4_000, 4_000, 16_000
SEEDS, TUNING_SEEDS = 20, 5
CHANNELS = 16  # Of the convolutional network with batch normalization.
HIDDEN = 64  # Units of each of the two layers of the network for tables.
BATCH_SIZE, SMALL_BATCH_SIZE = 100, 32
SMALL = 2_000  # Fewer images than these are trained with in small batches.
EPOCHS = 40  # 1,600 steps on MNIST-1D.
AVERAGED_EPOCHS = 20  # Of the study of averages.
BUDGETS = (2.5, 5, 10, 25, 50, 100)  # Percent of the epochs.
FIRST_RATES = {SGD: 0.1, ADAM: 0.01}
FACTOR = 2.0  # From one rate of a grid to the next.
EXTENSIONS = 8  # How often a grid is extended at most.
# Half of the 95 % interval of a difference of two methods, by budget, with 20 seeds.
EXPECTED_HALF_WIDTHS = {5: 2.1, 10: 1.45, 25: 0.66, 50: 0.35, 100: 0.24}


def paragraphs(margin, loss_margin):
    """The regime in words."""
    grids = ", ".join(f"{rate:g} ({name})" for name, rate in FIRST_RATES.items())
    budgets = ", ".join(f"{budget:g}" for budget in BUDGETS)
    steps = EPOCHS * TRAINING // BATCH_SIZE
    yield (
        "**Data.** MNIST-1D (Greydanus and Kobak, Scaling Down Deep Learning), made by "
        f"`mnist1d` with the generator seed {GENERATOR_SEED} in one call: a training "
        f"set of {TRAINING:,} for each of {SEEDS} seeds and of {TUNING_SEEDS} other "
        f"seeds that rates are chosen with, {HELD_OUT:,} held out to choose them by, "
        f"{TEST:,} to test. No augmentation. Other data are run in the same way by "
        "`--data`, with the training set that they have."
    )
    yield (
        f"**Runs.** A convolutional network of the published shape with {CHANNELS} "
        "channels and batch normalization (momentum 0.9; recalibrated for averages); "
        f"batches of {BATCH_SIZE}; {SGD}, and {ADAM}. A whole run has {EPOCHS} epochs "
        f"({steps:,} steps), in the study of averages {AVERAGED_EPOCHS}; budgets are "
        f"{budgets} % of it."
    )
    yield (
        "**Comparisons.** With SGD all profiles at all sampling rates, a constant "
        "rate, step decay at 50 and 75 % and at 75 %, and 1cycle; with Adam the same "
        "without the rarer sampling rates. Five cycles, or three that double in "
        "length; phases of 1, 2 and 4 sevenths. Batches of a quarter of the usual "
        "size, of that size and of four times it, over 20 epochs."
    )
    yield (
        "**Rates.** Every method has, at every budget, the rate with the least mean "
        f"error on the data held out, over the {TUNING_SEEDS} other seeds, of a grid "
        f"around {grids} with a factor of {FACTOR:g}, which is extended until the best "
        "rate lies inside."
    )
    widths = ", ".join(f"{h:g} at {b} %" for b, h in EXPECTED_HALF_WIDTHS.items())
    yield (
        f"**Margins.** {margin:g} points of accuracy, {loss_margin:g} of loss; "
        "several times as fast is at least twice; proportional is an exponent within "
        "0.25 of 1. Holm's correction within a claim. A difference of two methods is "
        f"expected to have an interval of ± {widths} of the whole run."
    )
