"""The folder of an ensemble: a weights file per member, and the manifest.

The manifest is written last and replaced whole, so at every moment it names files that
are there and complete. It holds the hash of every file, and its own.
"""

import dataclasses
import os
import pathlib
from typing import Any

from keras_lrs import files

FORMAT = 1
MANIFEST = "manifest.json"
_FILES = "snapshot-*.weights.h5"


@dataclasses.dataclass(frozen=True)
class Record:
    """What the manifest says of a member.

    Args:
        number: That of its file, from 1.
        step: The optimizer's iterations: updates, or micro-batches.
        cycle: How many cycles of the schedule were over, this one included.
        complete: Whether the cycle was; False for one that the training cut short.
        learning_rate: That of the last update.
        metrics: From the logs.
        sha256: Of the file.
    """

    number: int
    step: int
    cycle: int
    complete: bool
    learning_rate: float
    metrics: dict[str, float]
    sha256: str = ""

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"snapshot-{self.number:04d}.weights.h5"


class Store:
    """The members in a folder, as its manifest names them.

    Args:
        directory: The folder; it need not be there.

    Raises:
        ValueError: If its manifest is damaged, or of a later version.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = pathlib.Path(directory)
        self.records: list[Record] = []
        self.shapes: list[list[int]] = []
        if (self.directory / MANIFEST).exists():
            content = files.read_manifest(self.directory / MANIFEST, FORMAT)
            self.shapes = content["shapes"]
            self.records = [_record(self.directory, m) for m in content["members"]]

    def path(self, record: Record) -> pathlib.Path:
        """Where the file of a member is."""
        return self.directory / record.file

    def begin(self, shapes: list[list[int]], keep: Any) -> None:
        """Keeps the members for which `keep(record)` is true, and no other files.

        Args:
            shapes: Those of the model's variables.
            keep: A function of a record.
        """
        self.records = [record for record in self.records if keep(record)]
        self.shapes = shapes
        self._write()
        self._clean()

    def add(self, record: Record, content: Any, keep_last: int | None = None) -> None:
        """Writes the file of a new member, and then the manifest.

        Args:
            record: The member; its number and hash are filled in.
            content: As for `files.write_atomically`.
            keep_last: How many of the members are kept; None keeps all.
        """
        number = max((record.number for record in self.records), default=0) + 1
        record = dataclasses.replace(record, number=number)
        digest = files.write_atomically(self.path(record), content)
        record = dataclasses.replace(record, sha256=digest)
        records = [*self.records, record]
        self.records = records if keep_last is None else records[-keep_last:]
        self._write()
        if len(self.records) < len(records):
            self._clean()

    def set_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Replaces what the manifest says of the member that was written at a step."""
        self.records = [
            dataclasses.replace(r, metrics=metrics) if r.step == step else r
            for r in self.records
        ]
        self._write()

    def read(self, record: Record) -> bytes:
        """The content of a member's file.

        Raises:
            ValueError: If it is missing or altered.
        """
        return files.read(self.path(record), record.sha256)

    def _write(self):
        content = {
            **files.origin(FORMAT),
            "shapes": self.shapes,
            "members": [
                {"file": record.file, **dataclasses.asdict(record)}
                for record in self.records
            ],
        }
        files.write_manifest(self.directory / MANIFEST, content)

    def _clean(self):
        """Removes what the manifest does not name."""
        manifest = self.directory / MANIFEST
        kept = [manifest, *map(self.path, self.records)]
        files.keep_only(self.directory, kept, MANIFEST, _FILES)


def _record(directory, member):
    fields = [field.name for field in dataclasses.fields(Record)]
    record = Record(**{name: member[name] for name in fields})
    if member["file"] != record.file:
        raise ValueError(f"`{directory / MANIFEST}` names `{member['file']}`.")
    return record
