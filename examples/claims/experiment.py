"""What an experiment is: jobs, the claims they are judged by, tables and a figure."""

import dataclasses
import importlib
import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from claims.judging import Statement

NOTES = "Cutkosky, Lecture Notes 5: tuning and learning rate schedules"
OVERVIEW = "Wolfe, The Best Learning Rate Schedules"
TUTORIAL = "The tutorial on learning rate scheduling"
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
class Job:
    """A call that a process can make: of a function with a harness and arguments.

    Equal jobs of several experiments are run once. The result can be written as JSON.
    """

    module: str
    function: str
    arguments: tuple[tuple[str, Any], ...]

    @property
    def key(self):
        """What its result is kept by."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments)
        return f"{self.module}.{self.function}({arguments})"

    @property
    def length(self):
        """Longer ones are begun first."""
        arguments = dict(self.arguments)
        return arguments.get("epochs", 100) * arguments.get("seeds", 1)

    def run(self, harness):
        """Calls it."""
        function = getattr(importlib.import_module(self.module), self.function)
        return function(harness, **dict(self.arguments))


def wrap(text):
    """Lines of a paragraph, for tables whose captions are computed."""
    return textwrap.wrap(text, 88, break_on_hyphens=False, break_long_words=False)


def job(function, **arguments):
    """The call of a function in a module of this package."""
    return Job(function.__module__, function.__name__, tuple(arguments.items()))


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
        setting: As of the experiment, where its rows have different ones.
    """

    title: str
    source: str
    claim: str
    criterion: str
    judge: Callable[[Any], Iterable[Statement]]
    tables: Callable[[Any], Iterable[str]]
    reference: str = ""
    setting: Callable[[Any, Any], str] | None = None

    @property
    def name(self):
        """The anchor of its heading, and what `--rows` calls it."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Runs that one or more rows are judged by.

    Args:
        name: Of the files of its results.
        rows: What it is judged by.
        jobs: A function from the size to jobs, by any names.
        collect: A function from the results of the jobs, by the same names, and the
            size to the results. They can be written as JSON; all that the page says
            comes from them.
        setting: A function from the results and the data to model, lengths and seeds
            in words; None if each row has its own.
        draw: Draws the results to a path.
        swaps: Whether it runs on any data; others have their own.
    """

    name: str
    rows: tuple[Row, ...]
    jobs: Callable[[Size], dict[Any, Job]]
    collect: Callable[[dict[Any, Any], Size], Any]
    setting: Callable[[Any, Any], str] | None
    draw: Callable[[Any, Path], None]
    swaps: bool = True

    def settings(self, results, data):
        """The setting of each row, by the row's name."""
        return {
            row.name: (row.setting or self.setting)(results, data) for row in self.rows
        }
