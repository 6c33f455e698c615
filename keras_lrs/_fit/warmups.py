"""Warmups that outlast the run, or are not over yet."""

import warnings
from typing import Any

from keras_lrs.schedules.combinators import warmup_steps


def warn_of_schedule(progress: Any, schedule: Any, done: int = 0) -> None:
    """Warns of a schedule whose warmup is longer than a run.

    `done` is the number of the schedule's steps before the run.
    """
    warmup, total = warmup_steps(schedule), progress.total
    if total is not None and warmup > total + done:
        warnings.warn(
            f"The warmup of {warmup} steps is longer than this run of {total}: the "
            "value does not reach its peak. Shorten it "
            "(`keras_lrs.schedules.Fraction(0.05)` is a length that fits every run). "
            f"Received: {schedule!r}",
            stacklevel=2,
        )


def warn_of_looks(progress: Any, warmup: int) -> None:
    """Warns of a plateau that never looks at its metric during the run."""
    total = progress.total
    if total is not None and warmup >= total:
        warnings.warn(
            f"`ReduceOnPlateau` never looks at its metric: its `warmup` of {warmup} "
            f"steps is not shorter than this run of {total}.",
            stacklevel=2,
        )


def lasts(run: Any, optimizers: list, steps: int | None) -> bool:
    """Whether the warmup of at least one optimizer is not over yet.

    Args:
        run: The run.
        optimizers: The optimizers.
        steps: The length of the warmup; None takes it from their schedules.
    """
    if steps is not None:
        return 0 < steps >= max(map(run.progress.step, optimizers))
    # A schedule of the optimizer's own counts all its iterations.
    return any(
        0 < run.progress.iterations(one) - start <= warmup_steps(schedule)
        for one in optimizers
        for start, schedule in run.rate_schedules(one)
    )
