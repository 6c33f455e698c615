"""What is compared: each schedule as keras_lrs, Keras, optax and PyTorch write it.

Every contender is a function of the module that holds the schedules, so that reading
this table imports none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RATE = 0.1
TOTAL_STEPS = 1_000_000
WARMUP_STEPS = 10_000
CYCLE_STEPS = 1_000
NUM_CYCLES = 10  # Which reach TOTAL_STEPS with t_mul=2.
NUM_DROPS = 30
DROPS_TO = RATE / 1_000

OURS, KERAS, OPTAX, TORCH = "keras_lrs", "Keras", "optax", "PyTorch"


@dataclass(frozen=True)
class Row:
    """One schedule and its contenders.

    Attributes:
        name: What the tables call it.
        ours: The schedule, given `keras_lrs.schedules`.
        keras: The same, given `keras.optimizers.schedules`; None if Keras has none.
        optax: The same, given `optax`.
        torch: The same, given `torch.optim.lr_scheduler` and an optimizer.
        is_table: Whether the targets are those of lookups, not those of formulas.
        too_large: Whether the peers spend an operation per boundary, so that their
            compiled programs take minutes to build, if they can be built at all.
    """

    name: str
    ours: Callable[[Any], Any]
    keras: Callable[[Any], Any] | None = None
    optax: Callable[[Any], Any] | None = None
    torch: Callable[[Any, Any], Any] | None = None
    is_table: bool = False
    too_large: bool = False


def warmup_and_cosine(scheduler, optimizer):
    warmup = scheduler.LinearLR(optimizer, 1e-8, total_iters=WARMUP_STEPS)
    cosine = scheduler.CosineAnnealingLR(optimizer, TOTAL_STEPS)
    return scheduler.SequentialLR(optimizer, [warmup, cosine], [WARMUP_STEPS])


def cosine_cycles(first_steps, t_mul, num_cycles):
    """The arguments of optax's cycles, which it takes one by one."""
    lengths = [int(first_steps * t_mul**cycle) for cycle in range(num_cycles)]
    return [
        {
            "init_value": RATE,
            "peak_value": RATE,
            "warmup_steps": 0,
            "decay_steps": length,
        }
        for length in lengths
    ]


def boundaries(number):
    return list(range(5, TOTAL_STEPS, TOTAL_STEPS // number))


def values(number):
    return [RATE * (1.0 + index % 7) for index in range(number + 1)]


def piecewise(number):
    return Row(
        f"piecewise, {number:,} boundaries",
        ours=lambda lrs: lrs.PiecewiseConstant(boundaries(number), values(number)),
        keras=lambda keras: keras.PiecewiseConstantDecay(
            boundaries(number), values(number)
        ),
        optax=lambda optax: optax.piecewise_constant_schedule(
            RATE, dict.fromkeys(boundaries(number), 0.97)
        ),
        torch=lambda scheduler, optimizer: scheduler.MultiStepLR(
            optimizer, boundaries(number), 0.97
        ),
        is_table=True,
        too_large=number > 100,
    )


COSINE = Row(
    "cosine",
    ours=lambda lrs: lrs.CosineAnnealing(RATE, TOTAL_STEPS),
    keras=lambda keras: keras.CosineDecay(RATE, TOTAL_STEPS),
    optax=lambda optax: optax.cosine_decay_schedule(RATE, TOTAL_STEPS),
    torch=lambda scheduler, optimizer: scheduler.CosineAnnealingLR(
        optimizer, TOTAL_STEPS
    ),
)

RESTARTS = Row(
    "restarts, t_mul=2",
    ours=lambda lrs: lrs.CosineRestarts(RATE, CYCLE_STEPS, t_mul=2.0),
    keras=lambda keras: keras.CosineDecayRestarts(RATE, CYCLE_STEPS, t_mul=2.0),
    optax=lambda optax: optax.sgdr_schedule(cosine_cycles(CYCLE_STEPS, 2, NUM_CYCLES)),
    torch=lambda scheduler, optimizer: scheduler.CosineAnnealingWarmRestarts(
        optimizer, CYCLE_STEPS, T_mult=2
    ),
)

ROWS = [
    Row(
        "constant",
        ours=lambda lrs: lrs.Constant(RATE),
        optax=lambda optax: optax.constant_schedule(RATE),
        torch=lambda scheduler, optimizer: scheduler.ConstantLR(optimizer, 1.0),
    ),
    COSINE,
    Row(
        "cosine with warmup",
        ours=lambda lrs: lrs.Warmup(
            lrs.CosineAnnealing(RATE, TOTAL_STEPS), WARMUP_STEPS
        ),
        keras=lambda keras: keras.CosineDecay(
            0.0, TOTAL_STEPS, warmup_target=RATE, warmup_steps=WARMUP_STEPS
        ),
        optax=lambda optax: optax.warmup_cosine_decay_schedule(
            0.0, RATE, WARMUP_STEPS, WARMUP_STEPS + TOTAL_STEPS
        ),
        torch=warmup_and_cosine,
    ),
    RESTARTS,
    Row(
        "1cycle",
        ours=lambda lrs: lrs.OneCycle(RATE, TOTAL_STEPS),
        optax=lambda optax: optax.cosine_onecycle_schedule(TOTAL_STEPS, RATE),
        torch=lambda scheduler, optimizer: scheduler.OneCycleLR(
            optimizer, RATE, TOTAL_STEPS, cycle_momentum=False
        ),
    ),
    Row("REX", ours=lambda lrs: lrs.REXDecay(RATE, TOTAL_STEPS)),
    Row(
        "warmup-stable-decay",
        ours=lambda lrs: lrs.WarmupStableDecay(
            RATE, WARMUP_STEPS, TOTAL_STEPS // 5, TOTAL_STEPS
        ),
    ),
    Row(
        "exponential",
        ours=lambda lrs: lrs.ExponentialDecay(RATE, CYCLE_STEPS, 0.99),
        keras=lambda keras: keras.ExponentialDecay(RATE, CYCLE_STEPS, 0.99),
        optax=lambda optax: optax.exponential_decay(RATE, CYCLE_STEPS, 0.99),
        torch=lambda scheduler, optimizer: scheduler.ExponentialLR(
            optimizer, 0.99 ** (1 / CYCLE_STEPS)
        ),
    ),
    Row(
        "bounded step decay",
        ours=lambda lrs: lrs.BoundedExponentialDecay(
            RATE, TOTAL_STEPS, DROPS_TO, updates=NUM_DROPS
        ),
        keras=lambda keras: keras.ExponentialDecay(
            RATE,
            TOTAL_STEPS // NUM_DROPS,
            (DROPS_TO / RATE) ** (1 / NUM_DROPS),
            staircase=True,
        ),
        optax=lambda optax: optax.exponential_decay(
            RATE,
            TOTAL_STEPS // NUM_DROPS,
            (DROPS_TO / RATE) ** (1 / NUM_DROPS),
            staircase=True,
        ),
        torch=lambda scheduler, optimizer: scheduler.StepLR(
            optimizer, TOTAL_STEPS // NUM_DROPS, (DROPS_TO / RATE) ** (1 / NUM_DROPS)
        ),
    ),
    piecewise(10),
    piecewise(100),
    piecewise(10_000),
    piecewise(100_000),
    Row(
        "CyclicalLearningRate, triangular2",
        ours=lambda lrs: lrs.CyclicalLearningRate(
            RATE / 10, RATE, CYCLE_STEPS, mode="triangular2"
        ),
        torch=lambda scheduler, optimizer: scheduler.CyclicLR(
            optimizer,
            RATE / 10,
            RATE,
            CYCLE_STEPS,
            mode="triangular2",
            cycle_momentum=False,
        ),
    ),
]


def schedules(row, backend):
    """Pairs of a contender's name and its schedule, for those that take a step."""
    import keras

    import keras_lrs

    yield OURS, row.ours(keras_lrs.schedules)
    if row.keras is not None and not row.too_large:
        yield KERAS, row.keras(keras.optimizers.schedules)
    if backend == "jax" and row.optax is not None and not row.too_large:
        import optax

        yield OPTAX, row.optax(optax)
