"""What an experiment is: runs, the claims they are judged by, tables and a figure."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from claims.judging import Statement

NOTES = "Cutkosky, Lecture Notes 5: tuning and learning rate schedules"
OVERVIEW = "Wolfe, The Best Learning Rate Schedules"
TUTORIAL = (
    "The tutorial on learning rate scheduling (tiny vision transformer, CIFAR-10)"
)
EXPONENTIAL = "Exponential learning rate schedules"
STEPS = "Reverse engineering a step decay"
SOURCES = (NOTES, OVERVIEW, TUTORIAL, EXPONENTIAL, STEPS)


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is run: `quick` is as little as exercises all of the code."""

    seeds: int
    quick: bool = False

    def pick(self, full, quick):
        """What is run in full, or instead of it."""
        return quick if self.quick else full


@dataclasses.dataclass(frozen=True)
class Row:
    """A claim of a source.

    Args:
        title: Its heading in the page.
        source: One of `SOURCES`.
        claim: In the source's words, as nearly as one sentence can be.
        criterion: How it is judged, besides what is common to all.
        judge: A function from the results to the statements.
        tables: A function from the results to lines of Markdown.
        reference: The publication that the source refers to.
    """

    title: str
    source: str
    claim: str
    criterion: str
    judge: Callable[[Any], Iterable[Statement]]
    tables: Callable[[Any], Iterable[str]]
    reference: str = ""

    @property
    def name(self):
        """The anchor of its heading, and what `--rows` calls it."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Runs that one or more rows are judged by.

    The results of `run` can be written as JSON; all that the page says comes from them.
    """

    name: str
    rows: tuple[Row, ...]
    run: Callable[[Size], Any]
    setting: Callable[[Any], str]  # Model, data, budget, seeds, in words.
    draw: Callable[[Any, Path], None]
