"""Shows a schedule in notebooks: the call, and a small picture of the curve."""

import html
from typing import Any

import numpy as np

_LAST = 2**31 - 2
# Late steps, to notice a rate that never settles.
_LATE = np.random.default_rng(0).integers(2**30, _LAST, 64)
_COARSE = np.unique(np.append(2.0 ** (np.arange(248) / 8) - 1.0, _LAST).astype(int))
_NEAR = 1e-12  # A fraction of the values' range that counts as equal.
_CYCLES = 4  # This many are drawn if they never end,
_LONGEST = 2**24  # unless they take longer than this.
_EPOCHS, _STEPS_PER_EPOCH = 100, 100  # The run that an open schedule is drawn in.
_WIDTH, _HEIGHT, _POINTS = 320, 64, 321


def markup(schedule: Any) -> str:
    """Returns the call in HTML, and the curve if it is not flat.

    An open schedule is drawn as in a run of 100 epochs of 100 steps.

    Args:
        schedule: A `Schedule`.

    Returns:
        Self-contained HTML: no script, no style sheet, no file.
    """
    call = f"<code>{html.escape(repr(schedule))}</code>"
    drawn, num_steps, length = _drawn(schedule)
    if num_steps < 2:
        return call
    steps = np.linspace(0, num_steps, _POINTS).astype(np.int64)
    values = drawn(steps)
    low, high = values.min(), values.max()
    if low == high:
        return call
    across = np.linspace(0.0, _WIDTH, _POINTS)
    down = _HEIGHT * (high - values) / (high - low)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
    title = f"from {low:.4g} to {high:.4g} in {length}"
    return (
        f"{call}<div>"
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="-2 -2 {_WIDTH + 4} '
        f'{_HEIGHT + 4}" role="img"><title>{title}</title><polyline points="{points}" '
        'fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
        f"<br><small>{title}</small></div>"
    )


def markup_of(title: str, schedules: dict[str, Any]) -> str:
    """Returns a title and some named schedules, as notebooks show them.

    Args:
        title: The name of the object that holds the schedules.
        schedules: Schedules, which may be foreign, or containers of schedules: a
            `PerVariable` or a dictionary.
    """
    rows = [
        f"<tr><td>{html.escape(n)}</td><td>{m}</td></tr>" for n, m in _rows(schedules)
    ]
    return f"<b>{html.escape(title)}</b><table>{''.join(rows)}</table>"


def _rows(schedules):
    """Pairs of a name and the markup of its schedule."""
    for name, value in schedules.items():
        if hasattr(value, "patterns"):  # A `PerVariable`.
            value = dict(value.values)
        if isinstance(value, dict):
            inside = {f"{name} of {key}": one for key, one in value.items()}
            yield from _rows(inside)
        elif hasattr(value, "_repr_html_"):
            yield name, value._repr_html_()
        else:
            yield name, f"<code>{html.escape(repr(value))}</code>"


def _drawn(schedule):
    """Returns the schedule to draw, the number of steps (0 for none), and its text."""
    if not _is_known(schedule):
        return schedule, 0, ""
    if schedule.is_bound:
        num_steps, ends = own_length(schedule)
        return schedule, num_steps, f"{'' if ends else 'the first '}{num_steps:,} steps"
    total = _EPOCHS * _STEPS_PER_EPOCH
    try:
        schedule = schedule.bind(total, _STEPS_PER_EPOCH)
    except ValueError:  # Its lengths do not fit into that run.
        return schedule, 0, ""
    num_steps = (_first_cycles(schedule, total) or [total])[-1]
    part = f"the first {num_steps / _STEPS_PER_EPOCH:g} of "
    run = f"{_EPOCHS} epochs of {_STEPS_PER_EPOCH} steps, for example"
    return schedule, num_steps, run if num_steps == total else part + run


def _is_known(schedule):
    """Whether it holds no foreign schedule, which may be slow or fail at late steps."""
    known = hasattr(schedule, "_inner") and not hasattr(schedule, "function")
    return known and all(_is_known(inside) for _, inside in schedule._inner())


def own_length(schedule: Any) -> tuple[int, bool]:
    """Returns how many steps show the shape, and whether it stays constant afterwards.

    These are the steps until the last value is held, or the first four of endless
    cycles, or 99.5 % of the way of an endless decay, or 75 % if it is slow, such as an
    inverse root.

    Args:
        schedule: A `Schedule` that is bound.

    Returns:
        The steps (0 if there is no such number), and False if values keep changing.
    """
    end, most = _settled(schedule, _NEAR), _settled(schedule, 0.005)
    if 0 < end <= 4 * most:
        return end, True
    if cycles := _first_cycles(schedule, _LONGEST):
        return cycles[-1], False
    if most > 4 * _settled(schedule, 0.1):
        most = _settled(schedule, 0.25)
    return most or _settled(schedule, 0.25), False


def _settled(schedule, share):
    """Returns the first step after which all values are near the last; 0 if none.

    The search narrows step by step. A value is near if it differs by less than a share
    of the range of all values.
    """
    values = schedule(_COARSE)
    held, near = values[-1], share * np.ptp(values)
    if not np.isfinite(values).all() or any(abs(schedule(_LATE) - held) > near):
        return 0
    steps, length, last = _COARSE, 0, -2
    while length - last > 1:
        apart = np.flatnonzero(abs(schedule(steps) - held) > near)
        if len(apart) == 0 or apart[-1] == len(steps) - 1:
            return length
        last, length = int(steps[apart[-1]]), int(steps[apart[-1] + 1])
        steps = np.unique(np.linspace(last, length, 65).astype(np.int64))
    return length


def _first_cycles(schedule, num_steps):
    """Returns the ends of the first four cycles; none if there are fewer."""
    until = 1
    ends: list[int] = []
    while len(ends) < _CYCLES and until < num_steps:
        # The range grows, because there may be very many.
        until = min(4 * until, num_steps)
        ends = schedule.cycle_ends(until)
    return ends[:_CYCLES] if len(ends) >= _CYCLES else []
