"""The progress bar of `fit`."""

from collections.abc import Iterable
from typing import Any

import keras


def show_last(names: Iterable[str], callbacks: list[Any]) -> None:
    """Makes progress bars show the last value of an epoch's batches, not the mean.

    Args:
        names: The keys of the values in the logs.
        callbacks: All callbacks of the run.
    """
    for one in callbacks:
        if isinstance(one, keras.callbacks.ProgbarLogger):
            # Keras makes the bar of each epoch. Newer ones have no such set, because
            # they show all values as they are.
            stateful = getattr(one.progbar, "stateful_metrics", None)
            if stateful is not None:
                stateful.update(names)
