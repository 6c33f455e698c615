"""Draws schedules, and imports matplotlib only when needed."""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from keras_lrs._storage import files
from keras_lrs.schedules import base, fields
from keras_lrs.schedules.fields import count, refuse
from keras_lrs.schedules.names import hinted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 10_000
"""The largest number of points to draw; a screen shows fewer."""

LINE_STYLES = ("-", "--", ":", "-.")


@hinted
def plot_schedules(
    schedules: LearningRateSchedule
    | Sequence[LearningRateSchedule]
    | Mapping[str, LearningRateSchedule],
    num_steps: int,
    path: str | os.PathLike | None = None,
    log_scale: bool = False,
    *,
    steps_per_epoch: int | None = None,
) -> "Figure":
    """Draws the first `num_steps` rates of one or more schedules.

    A schedule with open lengths is bound to a run of `num_steps` steps. Lengths in
    `Epochs` need `steps_per_epoch`.

    Args:
        schedules: A schedule, a list of schedules, or a dict from names to schedules;
            Keras's own and users' subclasses too. Schedules in a list are named by
            their classes and, if a class occurs twice, by the arguments that differ.
        num_steps: The number of steps to draw, > 0. If there are more than 10,000,
            evenly spaced steps are drawn, including the first and the last.
        path: The file for the picture, in the format of its suffix; None does not save
            it.
        log_scale: Whether the learning rate has a logarithmic axis, which leaves out
            rates that are not > 0.
        steps_per_epoch: The steps per epoch, > 0; needed only for `Epochs`.

    Returns:
        A `matplotlib.figure.Figure` with one `Axes`. A notebook shows it. It has no
        window and does not need to be closed.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a number is not > 0, if there is no schedule, if a schedule has
            lengths in `Epochs` and `steps_per_epoch` is not given, or if the suffix of
            `path` is not that of a picture.
        TypeError: If an argument has the wrong type.
        OSError: If the file cannot be written; the old version is kept.

    Example:
        >>> from keras_lrs.schedules import LinearDecay, REXDecay
        >>> drawn = [LinearDecay(0.1), REXDecay(0.1), REXDecay(0.1, beta=0.9)]
        >>> figure = plot_schedules(drawn, num_steps=100)
        >>> for text in figure.legends[0].get_texts():
        ...     print(text.get_text())
        LinearDecay
        REXDecay(beta=0.5)
        REXDecay(beta=0.9)
    """
    named = _named(schedules)
    num_steps = count("num_steps", num_steps, 1)
    if steps_per_epoch is not None:
        steps_per_epoch = count("steps_per_epoch", steps_per_epoch, 1)
    log_scale = fields.truth("log_scale", log_scale)
    names = [name for name, _ in named]
    columns = max(1, 90 // (max(map(len, names)) + 8))
    rows = -(-len(names) // columns)
    with drawn("plot_schedules", path, height=4.0 + 0.25 * rows) as figure:
        axes = figure.add_subplot()
        lines = []
        for index, (_, schedule) in enumerate(named):
            steps, values = _points(schedule, num_steps, steps_per_epoch)
            if log_scale:
                values = np.where(values > 0.0, values, np.nan)
            style = LINE_STYLES[index // 10 % len(LINE_STYLES)]
            lines += axes.plot(steps, values, color=f"C{index}", linestyle=style)
        if log_scale:
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel("learning rate")
        axes.grid(alpha=0.3)
        figure.legend(lines, names, loc="outside lower center", ncols=columns)
    return figure


@contextlib.contextmanager
def drawn(
    asked_by: str,
    path: str | os.PathLike | None,
    width: float = 8.0,
    height: float = 4.5,
) -> Iterator["Figure"]:
    """Yields a new figure to draw on, and saves it afterwards if there is a path.

    Args:
        asked_by: The name of the public function that draws.
        path: The file for the picture, in the format of its suffix; None does not save.
        width: The width in inches.
        height: The height in inches.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the suffix of `path` is not that of a picture.
        OSError: If the file cannot be written; the old version is kept.
    """
    path = _picture(path)
    figure = _empty_figure(asked_by, width, height)
    yield figure
    # Notebooks show only pyplot's figures by default.
    png = functools.partial(_content, figure, "png")
    figure._repr_png_ = png  # type: ignore[attr-defined]
    if path is not None:
        files.write_atomically(path, _content(figure, path.suffix[1:]))


def _picture(path: Any) -> pathlib.Path | None:
    """Returns the path of a picture, with a suffix, checked before the work is done."""
    if path is None:
        return None
    path = fields.path("path", path)
    suffix = path.suffix[1:].lower()
    with contextlib.suppress(ImportError):  # `_empty_figure` raises it.
        from matplotlib.backend_bases import FigureCanvasBase

        known = FigureCanvasBase.get_supported_filetypes()
        if suffix and suffix not in known:
            bound = f"have the suffix of a picture ({', '.join(sorted(known))}) or none"
            refuse("path", bound, path)
        if not suffix:
            default = FigureCanvasBase.get_default_filetype()
            path = path.with_name(f"{path.name.rstrip('.')}.{default}")
    files.check_writable(path, make_folders=False)
    return path


def _empty_figure(asked_by: str, width: float, height: float) -> "Figure":
    """Makes a figure of a size in inches; raises `ImportError` without matplotlib."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise ImportError(
            f"`{asked_by}` needs matplotlib, which is not installed. Install it "
            'with: pip install "keras-lrs[plot]"'
        ) from error
    # Not pyplot, which would choose a backend and keep the figure alive.
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def _content(figure, format) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format)
    return buffer.getvalue()


def _points(schedule, num_steps, steps_per_epoch):
    """Returns evenly spaced steps, from the first to the last, and their rates."""
    points = min(num_steps, MAX_POINTS)
    steps = np.linspace(0, num_steps - 1, points).round().astype(np.int64)
    bound = base.bind_to_steps("schedules", schedule, num_steps, steps_per_epoch)
    return steps, base.evaluate(bound, steps)


def _named(schedules) -> list[tuple[str, LearningRateSchedule]]:
    """Returns pairs of a name and a schedule, for any form of the argument."""
    if isinstance(schedules, LearningRateSchedule):
        schedules = [schedules]
    if isinstance(schedules, Mapping):
        names, found = list(map(str, schedules)), list(schedules.values())
    elif isinstance(schedules, Sequence) and not isinstance(schedules, str):
        names, found = None, list(schedules)
    else:
        names, found = None, [schedules]
    if not found:
        refuse("schedules", "hold at least one schedule", schedules)
    if not all(isinstance(schedule, LearningRateSchedule) for schedule in found):
        bound = "be a `LearningRateSchedule`, a list of them or a dict of them"
        refuse("schedules", bound, schedules, TypeError)
    return list(zip(names or _names(found), found, strict=True))


def _names(schedules: Sequence[LearningRateSchedule]) -> list[str]:
    """Returns class names, with the arguments that differ within a class."""
    classes = {type(schedule) for schedule in schedules}
    names = []
    for schedule in schedules:
        name = type(schedule).__name__
        if sum(cls.__name__ == name for cls in classes) > 1:
            name = f"{type(schedule).__module__.partition('.')[0]}.{name}"
        same_class = [other for other in schedules if type(other) is type(schedule)]
        arguments = _differing_arguments(schedule, same_class)
        names.append(f"{name}({arguments})" if arguments else name)
    return names


def _differing_arguments(schedule, schedules) -> str:
    """Returns the arguments of `schedule` that differ between `schedules`."""
    different = []
    for name, value in _arguments(schedule).items():
        values = [_arguments(other).get(name) for other in schedules]
        if len(set(map(repr, values))) == 1:
            continue
        if all(isinstance(value, LearningRateSchedule) for value in values):
            different.append(f"{name}={_names(values)[schedules.index(schedule)]}")
        else:
            different.append(f"{name}={value!r}")
    return ", ".join(different)


def _arguments(schedule) -> dict[str, Any]:
    if dataclasses.is_dataclass(schedule):
        fields = dataclasses.fields(schedule)
        return {field.name: getattr(schedule, field.name) for field in fields}
    try:
        return schedule.get_config()
    except NotImplementedError:  # A user's schedule that is never saved.
        return {}
