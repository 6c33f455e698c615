"""What the rows of docs/migration mean: their left sides, evaluated.

Composer, fastai and TensorFlow Addons do not install beside Keras 3: here are their
published formulas, in float64 and exact where they divide time.
"""

import fractions
import math

import keras
import numpy as np

from tests.parity.curves import driven, sgd

STEPS_PER_EPOCH = 40


@keras.saving.register_keras_serializable(package="keras_lrs_tests")
def factor(step):
    """What a user may have in a `LambdaLR`."""
    return 1.0 / (1.0 + 0.1 * step)


# What the names in the tables stand for: a training of 6 epochs.
NAMES = {
    "lr": 0.3,
    "end": 0.01,
    "alpha": 0.1,
    "gamma": 0.9,
    "power": 2.0,
    "n": 240,
    "w": 40,
    "k": 30,
    "e": 6,
    "factor": factor,
}
RATE, TOTAL = NAMES["lr"], NAMES["n"]


def stepped(code, num_steps, peers, **arguments):
    """The rates of a scheduler that changes the optimizer of torch."""
    # `eval` must see the names in lambdas, too.
    scheduler = eval(code, {**peers, **NAMES, "optimizer": sgd(RATE)})
    return driven(scheduler, num_steps, **arguments)


# --- Composer -------------------------------------------------------------------------


def batches(time):
    """A time string of Composer: batches, epochs, samples, tokens, or a share.

    A batch has 8 samples of 8 tokens.
    """
    units = {"dur": TOTAL, "ep": STEPS_PER_EPOCH, "ba": 1, "sp": 1 / 8, "tok": 1 / 64}
    for unit, size in units.items():
        if time.endswith(unit):
            return int(float(time.removesuffix(unit)) * size)
    raise ValueError(time)


def _cosine(progress, low):
    return low + (1.0 - low) * (1.0 + math.cos(math.pi * min(progress, 1.0))) / 2.0


def _warm(warmup, after):
    """`after` is asked for the step, and the length of the warmup."""
    warmup = batches(warmup)
    return lambda step: step / warmup if step < warmup else after(step, warmup)


def _linear_factor(alpha_i=1.0, alpha_f=0.0, t_max="1dur"):
    length = batches(t_max)
    return lambda step: alpha_i + min(1.0, step / length) * (alpha_f - alpha_i)


def _warm_restarts(t_0, t_mult=1.0, alpha_f=0.0):
    def at(step):
        start, length = 0, batches(t_0)
        while start + length <= step:
            start, length = start + length, int(t_mult * length)
        return _cosine((step - start) / length, alpha_f)

    return at


def _milestones(milestones, gamma=0.1):
    ends = [batches(time) for time in milestones]
    return lambda step: gamma ** sum(step >= end for end in ends)


def _polynomial(power, t_max="1dur", alpha_f=0.0):
    length = batches(t_max)
    return lambda step: alpha_f + (1.0 - step / length) ** power * (1.0 - alpha_f)


COMPOSER = {
    "ConstantScheduler": lambda: lambda step: 1.0,
    "StepScheduler": lambda size, gamma: lambda step: gamma ** (step // batches(size)),
    "MultiStepScheduler": _milestones,
    "ExponentialScheduler": lambda gamma, decay_period="1ep": (
        lambda step: gamma ** (step / batches(decay_period))
    ),
    "LinearScheduler": _linear_factor,
    "CosineAnnealingScheduler": lambda t_max="1dur", alpha_f=0.0: (
        lambda step: _cosine(step / batches(t_max), alpha_f)
    ),
    "CosineAnnealingWarmRestartsScheduler": _warm_restarts,
    "PolynomialScheduler": _polynomial,
    "MultiStepWithWarmupScheduler": lambda t_warmup, milestones, gamma=0.1: _warm(
        t_warmup, lambda step, warmup: _milestones(milestones, gamma)(step)
    ),
    "LinearWithWarmupScheduler": lambda t_warmup: _warm(
        t_warmup, lambda step, warmup: 1.0 - (step - warmup) / (TOTAL - warmup)
    ),
    "CosineAnnealingWithWarmupScheduler": lambda t_warmup, alpha_f=0.0: _warm(
        t_warmup,
        lambda step, warmup: _cosine((step - warmup) / (TOTAL - warmup), alpha_f),
    ),
}


def composer(code, num_steps):
    """Composer's schedulers multiply the optimizer's rate."""
    scheduler = eval(code, {**COMPOSER, **NAMES})
    return np.array([RATE * scheduler(step) for step in range(num_steps)])


# --- fastai ---------------------------------------------------------------------------


def _between(shape):
    """A schedule of fastai: from `start` to `end` over positions from 0 to 1."""
    return lambda start, end, *more: lambda pos: shape(start, end, pos, *more)


SchedLin = _between(lambda start, end, pos: start + pos * (end - start))
SchedCos = _between(
    lambda start, end, pos: (
        start + (1.0 + math.cos(math.pi * (1.0 - pos))) * (end - start) / 2.0
    )
)


def combine_scheds(shares, schedules):
    """Schedules one after the other, each over its share of the positions."""
    shares = [fractions.Fraction(share).limit_denominator(10**6) for share in shares]
    assert sum(shares) == 1

    def at(pos):
        start = fractions.Fraction(0)
        for share, schedule in zip(shares, schedules, strict=True):
            if pos < start + share:
                return schedule(float((pos - start) / share))
            start += share
        return schedules[-1](1.0)

    return at


def combined_cos(share, start, middle, end):
    """Two halves of cosines."""
    halves = [SchedCos(start, middle), SchedCos(middle, end)]
    return combine_scheds([share, 1.0 - share], halves)


class Learner:
    """fastai's `Learner`, as far as it schedules: (epochs, schedules by name)."""

    def fit_one_cycle(self, epochs, rate, div=25.0, div_final=1e5, pct_start=0.25):
        """The rate up and down, the momentum down and up."""
        return epochs, {
            "lr": combined_cos(pct_start, rate / div, rate, rate / div_final),
            "mom": combined_cos(pct_start, 0.95, 0.85, 0.95),
        }

    def fit_flat_cos(self, epochs, rate, div_final=1e5, pct_start=0.75):
        """A constant rate, then half a cosine."""
        return epochs, {"lr": combined_cos(pct_start, rate, rate, rate / div_final)}

    def fit_sgdr(self, cycles, length, rate, factor=2):
        """Half cosines of growing length, in epochs."""
        epochs = length * (factor**cycles - 1) // (factor - 1)
        shares = [length * factor**cycle / epochs for cycle in range(cycles)]
        return epochs, {"lr": combine_scheds(shares, [SchedCos(rate, 0.0)] * cycles)}


FASTAI = {
    "learn": Learner(),
    "SchedNo": _between(lambda start, end, pos: start),
    "SchedLin": SchedLin,
    "SchedCos": SchedCos,
    "SchedExp": _between(lambda start, end, pos: start * (end / start) ** pos),
    "SchedPoly": lambda start, end, power: (
        lambda pos: start + (end - start) * pos**power
    ),
    "combine_scheds": combine_scheds,
    "combined_cos": combined_cos,
}


def fastai(code):
    """What fastai uses in each batch, by name: the position 1 is never reached."""
    found = eval(code, {**FASTAI, **NAMES})
    epochs, schedules = (
        found if isinstance(found, tuple) else (NAMES["e"], {"lr": found})
    )
    total = epochs * STEPS_PER_EPOCH
    positions = [fractions.Fraction(step, total) for step in range(total)]
    return {
        name: np.array([float(schedule(position)) for position in positions])
        for name, schedule in schedules.items()
    }


# --- TensorFlow Addons ----------------------------------------------------------------


def cyclical(low, high, step_size, scale, scale_mode="cycle"):
    """`tfa.optimizers.CyclicalLearningRate`, as a function of an array of steps."""

    def at(step):
        cycle = np.floor(1.0 + step / (2.0 * step_size))
        x = np.abs(step / step_size - 2.0 * cycle + 1.0)
        scaled = scale(cycle if scale_mode == "cycle" else step)
        return low + (high - low) * np.maximum(0.0, 1.0 - x) * scaled

    return at


TF_ADDONS = {
    "CyclicalLearningRate": cyclical,
    "TriangularCyclicalLearningRate": lambda low, high, step_size: cyclical(
        low, high, step_size, lambda x: 1.0
    ),
    "Triangular2CyclicalLearningRate": lambda low, high, step_size: cyclical(
        low, high, step_size, lambda x: 1.0 / 2.0 ** (x - 1.0)
    ),
    "ExponentialCyclicalLearningRate": (
        lambda low, high, step_size, scale_mode="cycle", gamma=1.0: cyclical(
            low, high, step_size, lambda x: gamma**x, scale_mode
        )
    ),
}


def tf_addons(code, num_steps):
    """The rates of the first steps."""
    peer = eval(code, {**TF_ADDONS, **NAMES})
    return peer(np.arange(num_steps, dtype=np.float64))
