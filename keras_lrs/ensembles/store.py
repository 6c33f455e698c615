"""The folder of an ensemble: a file of weights for each member, and the manifest."""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_lrs._storage import manifest


@dataclasses.dataclass(frozen=True)
class Record(manifest.Record):
    """The manifest's entry of a member.

    Args:
        number: The number in the file's name, from 1.
        step: The optimizer's iterations: updates, or micro-batches.
        cycle: How many cycles of the schedule were over, including this one.
        complete: Whether the cycle was over; False if the end of the run cut it short.
        learning_rate: The rate of the last update.
        metrics: The metrics in the logs.
        sha256: The hash of the file.
    """

    pattern = manifest.KINDS[manifest.MEMBERS]
    digits = 4

    number: int
    step: int
    cycle: int
    complete: bool
    learning_rate: float
    metrics: dict[str, float]
    sha256: str = ""


class Store(manifest.Folder[Record]):
    """The members in a folder."""

    record = Record
    listed_as = manifest.MEMBERS
    noted = ("shapes",)

    @property
    def shapes(self) -> list[list[int]]:
        """The shapes of the model's variables."""
        return self.notes.get("shapes", [])

    @shapes.setter
    def shapes(self, shapes: list[list[int]]) -> None:
        self.lock()
        self.notes["shapes"] = shapes

    def begin(
        self,
        shapes: list[list[int]],
        keep: Callable[[Record], bool],
        continued: bool = False,
    ) -> None:
        """Keeps the members for which `keep(record)` is true, and removes all others.

        Args:
            shapes: The shapes of the model's variables.
            keep: A function of a record.
            continued: Whether the run that wrote them continues. Its members keep their
                numbers, even if none of the earlier members is kept.
        """
        self.lock()
        self._first = self.records[0].number if continued and self.records else 1
        self.records = [record for record in self.records if keep(record)]
        self.shapes = shapes
        self.write()
        self.clean()

    def set_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Replaces the metrics of the member that was written at a step."""
        self.lock()
        self.records = [
            dataclasses.replace(r, metrics=metrics) if r.step == step else r
            for r in self.records
        ]
        self.write()

    def _item(self, record: Any) -> dict[str, Any]:
        return {"file": record.file, **super()._item(record)}
