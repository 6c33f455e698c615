"""Pictures: their path is checked first, and they are saved when they are drawn."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from keras_lrs import plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextlib.contextmanager
def drawn(
    asked_by: str,
    path: str | os.PathLike | None,
    width: float = 8.0,
    height: float = 4.5,
) -> Iterator["Figure"]:
    """Gives a new figure to draw on, which is saved afterwards if there is a path.

    Args:
        asked_by: The name of the public function that draws.
        path: The file for the picture, in the format of its suffix; None does not save.
        width: In inches.
        height: In inches.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the suffix of `path` is not that of a picture.
    """
    path = plotting.picture(path)
    figure = plotting.empty_figure(asked_by, width, height)
    yield figure
    plotting.finished(figure, path)
