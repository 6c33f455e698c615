"""What notebooks show of a schedule: the call, and a small picture of the curve."""

import html
from typing import Any

import numpy as np

_LAST = 2**31 - 2
# Steps at which a rate that goes on and on would be seen to.
_LATE = np.random.default_rng(0).integers(2**30, _LAST, 64)
_NEAR = 1e-12  # Of the range of the values: as good as the value that is held.
_WIDTH, _HEIGHT, _POINTS = 320, 64, 321


def markup(schedule: Any) -> str:
    """The call in HTML, and the curve of a schedule that is bound and comes to an end.

    Args:
        schedule: One of ours.

    Returns:
        HTML, all of it in the text: no script, no style sheet, no file.
    """
    call = f"<code>{html.escape(repr(schedule))}</code>"
    num_steps = own_length(schedule) if _is_ready(schedule) else 0
    if num_steps < 2:
        return call
    steps = np.linspace(0, num_steps, _POINTS).astype(np.int64)
    values = schedule(steps)
    low, high = values.min(), values.max()
    across = np.linspace(0.0, _WIDTH, _POINTS)
    down = _HEIGHT * (high - values) / (high - low)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
    title = f"from {low:.4g} to {high:.4g} in {num_steps:,} steps"
    return (
        f"{call}<div>"
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="-2 -2 {_WIDTH + 4} '
        f'{_HEIGHT + 4}" role="img"><title>{title}</title><polyline points="{points}" '
        'fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
        f"<br><small>{title}</small></div>"
    )


def _is_ready(schedule):
    """Whether it is bound, and contains only ours: others take vectors step by step."""
    inner = [inside for _, inside in schedule._inner()]
    ours = all(hasattr(inside, "_inner") and _is_ready(inside) for inside in inner)
    return ours and not schedule._unbound


def own_length(schedule: Any) -> int:
    """How many steps it takes until one value is held; 0 if that never happens.

    Found by looking closer and closer. A schedule that only comes near to its end, as
    an exponential one does, is taken to be there when it is very near.
    """
    steps = np.append(2 ** np.arange(31) - 1, _LAST)
    held, *later = schedule(np.append(_LAST, _LATE))
    if not np.isfinite(held) or any(value != held for value in later):
        return 0
    length, last = 0, -2
    while length - last > 1:
        values = schedule(steps)
        apart = np.flatnonzero(abs(values - held) > _NEAR * np.ptp(values))
        if len(apart) == 0 or apart[-1] == len(steps) - 1:
            return length
        last, length = int(steps[apart[-1]]), int(steps[apart[-1] + 1])
        steps = np.unique(np.linspace(last, length, 65).astype(np.int64))
    return length
