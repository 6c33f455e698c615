"""The schedules that are compared, by name: functions from the rate to the schedule."""

REX, LINEAR, COSINE = "REX", "linear", "cosine"
EXPONENTIAL, ONE_MINUS_SQRT = "exponential", "1 - sqrt"
PROFILES = (REX, LINEAR, COSINE, EXPONENTIAL, ONE_MINUS_SQRT)
EVERY_STEP = "every step"
CONSTANT, STEP, LATE_STEP = "constant", "step decay", "step decay at 75 %"
# The rates of 1cycle at the momentum that all methods have, and 1cycle itself.
ONE_CYCLE, FULL_ONE_CYCLE = "1cycle at momentum 0.9", "1cycle with its momentum"
OURS = f"{REX}, {EVERY_STEP}"
SHORT_COSINE = f"{COSINE}, {EVERY_STEP}"
TRIANGULAR, CYCLES, GROWING = "triangular cycles", "equal cycles", "growing cycles"
THIRDS, ROOT, PHASED = "step decay, thirds", "1/sqrt(t)", "cosine in phases"
FLOORED = "cosine to a hundredth"

NUM_CYCLES = 5
PHASES = (1, 2, 4)  # Their lengths, and how much lower the rate of each begins.


def named(method):
    """The name of a method where step decays with other milestones stand beside it."""
    return f"{STEP} at 50 and 75 %" if method == STEP else method


def profiles():
    """Decays over the whole run."""
    from keras_lrs import schedules

    return {
        REX: schedules.REXDecay,
        LINEAR: schedules.LinearDecay,
        COSINE: schedules.CosineAnnealing,
        # To a hundredth of the rate: it never reaches 0.
        EXPONENTIAL: lambda rate: schedules.BoundedExponentialDecay(
            rate, end_learning_rate=rate / 100.0
        ),
        ONE_MINUS_SQRT: schedules.OneMinusSqrtDecay,
    }


PROFILE_WORDS = (
    "A profile is how the rate falls over a run, where s is the share of its steps "
    "that are done: REX (1 - s) / (1 - s / 2), linear 1 - s, cosine (1 + cos(pi s)) / "
    "2, exponential 0.01^s, and 1 - sqrt(s). A sampling rate is how often the profile "
    "is evaluated: at every step, after every tenth of the run (10 %), or only at the "
    "shares named, with a constant rate in between."
)


def samplings():
    """When the rarer sampling rates look at the profile."""
    from keras_lrs import Fraction

    def at(*percent):
        return {"at": tuple(Fraction(each / 100) for each in percent)}

    return {
        "10 %": {"every": Fraction(0.1)},
        "50 and 75 %": at(50, 75),
        "33 and 66 %": at(33, 66),
        "25, 50 and 75 %": at(25, 50, 75),
    }


def sampled():
    """All profiles at all sampling rates."""
    from keras_lrs import schedules

    found = {}
    for name, profile in profiles().items():
        found[f"{name}, {EVERY_STEP}"] = profile
        for sampling, when in samplings().items():
            found[f"{name}, {sampling}"] = lambda rate, profile=profile, when=when: (
                schedules.Sampled(profile(rate), **when)
            )
    return found


def steps_at(*fractions, factor=0.1):
    """Step decay at fractions of the run."""
    from keras_lrs import Fraction, schedules

    milestones = [Fraction(each) for each in fractions]
    return lambda rate: schedules.MultiStepDecay(rate, milestones, decay_rate=factor)


def phased(rate):
    """Phases whose lengths are as 1 to 2 to 4; the rate of each has its own range."""
    from keras_lrs import Fraction, schedules

    return schedules.PhasedCosine(
        [Fraction(length / sum(PHASES)) for length in PHASES],
        [rate / length for length in PHASES],
        [rate / 100.0] * len(PHASES),
    )


def make_methods():
    """All that there are. `fit` fills in the lengths."""
    from keras_lrs import Epochs, Fraction, schedules

    return {
        **sampled(),
        CONSTANT: schedules.Constant,
        STEP: steps_at(0.5, 0.75),
        LATE_STEP: steps_at(0.75),
        ONE_CYCLE: schedules.OneCycle,
        FULL_ONE_CYCLE: schedules.OneCycle,  # `make_callback` adds the momentum.
        TRIANGULAR: lambda rate: schedules.CyclicalLearningRate(
            rate / 10.0, rate, Fraction(0.5 / NUM_CYCLES)
        ),
        CYCLES: lambda rate: schedules.CosineRestarts(
            rate, t_mul=1.0, num_cycles=NUM_CYCLES
        ),
        # Of 1, 2 and 4 sevenths of the run.
        GROWING: lambda rate: schedules.CosineRestarts(rate, t_mul=2.0, num_cycles=3),
        THIRDS: steps_at(1 / 3, 2 / 3),
        ROOT: lambda rate: schedules.InverseSqrtDecay(rate, timescale=Epochs(1)),
        FLOORED: lambda rate: schedules.CosineAnnealing(
            rate, end_learning_rate=rate / 100.0
        ),
        PHASED: phased,
    }


def make_callback(method, rate):
    """What drives the optimizer by the method of that name."""
    from keras_lrs import callbacks

    if method == FULL_ONE_CYCLE:  # The momentum goes from 0.95 to 0.85 and back.
        return callbacks.OneCycleScheduler(rate)
    schedule = make_methods()[method](rate)
    return callbacks.HyperparameterScheduler(learning_rate=schedule)
