"""A folder of files and the manifest that lists them.

A file is written first, and the manifest that lists it is replaced afterwards, as a
whole. So at every moment the manifest lists files that are there and complete. It holds
the hash of each file, and its own.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
from typing import Any, ClassVar, Generic, TypeVar

import keras

from keras_lrs._storage import files

FORMAT = 1
NAME = "manifest.json"


class Record:
    """What a manifest says about a file. Subclasses are frozen dataclasses.

    Args:
        number: The number in the file's name, from 1.
        sha256: The hash of the file.
    """

    pattern: ClassVar[str]  # Of the names of the files; the asterisk is the number,
    digits: ClassVar[int]  # padded with zeros to so many digits.

    number: int
    sha256: str

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.pattern.replace("*", f"{self.number:0{self.digits}d}")


R = TypeVar("R", bound=Record)


class Folder(Generic[R]):
    """The files that the manifest of a folder lists, the oldest first.

    Args:
        directory: The folder; it need not exist.

    Raises:
        ValueError: If the manifest is damaged, or was written by a later version.
    """

    record: type[R]
    listed_as: str  # The key of the records in the manifest.
    newest_first = False  # The order of the records in the manifest.
    noted: tuple[str, ...] = ()  # Further keys of the manifest.

    def __init__(self, directory: str | os.PathLike):
        self.directory = pathlib.Path(directory)
        self.manifest = self.directory / NAME
        self.records: list[R] = []
        self.notes: dict[str, Any] = {}
        if self.manifest.exists():
            content = read(self.manifest)
            if not {self.listed_as, *self.noted} <= content.keys():
                raise ValueError(
                    f"`{self.manifest}` lists no {self.listed_as}: it is the manifest "
                    "of another callback. Give each a directory of its own."
                )
            self.notes = {name: content[name] for name in self.noted}
            self.records = [self._record(item) for item in content[self.listed_as]]
            self.records.sort(key=lambda record: record.number)

    def path(self, record: R) -> pathlib.Path:
        """The path of a record's file."""
        return self.directory / record.file

    def add(self, record: Any, content: Any, keep_last: int | None = None) -> None:
        """Writes a file, then the manifest that lists it, then removes dropped files.

        Args:
            record: The record; its number and hash are filled in.
            content: As for `files.write_atomically`.
            keep_last: How many of the last files to keep; None keeps all.
        """
        number = self.records[-1].number + 1 if self.records else 1
        record = dataclasses.replace(record, number=number)
        digest = files.write_atomically(self.path(record), content)
        record = dataclasses.replace(record, sha256=digest)
        records = [*self.records, record]
        self.records = records if keep_last is None else records[-keep_last:]
        self.write()
        self.clean()

    def read(self, record: R) -> bytes:
        """Reads the file of a record.

        Raises:
            ValueError: If the file is missing or altered.
        """
        return files.read(self.path(record), record.sha256)

    def write(self) -> None:
        """Replaces the manifest."""
        records = reversed(self.records) if self.newest_first else self.records
        items = [self._item(record) for record in records]
        write(self.manifest, {**origin(), **self.notes, self.listed_as: items})

    def clean(self) -> None:
        """Removes the files that the manifest does not list."""
        kept = [self.manifest, *map(self.path, self.records)]
        files.keep_only(self.directory, kept, NAME, self.record.pattern)

    def remove(self) -> None:
        """Removes all files, the manifest first."""
        self.records = []
        files.remove([self.manifest] if self.manifest.exists() else [])
        self.clean()

    def _item(self, record: Any) -> dict[str, Any]:
        """The entry of a record in the manifest."""
        return dataclasses.asdict(record)

    def _record(self, item):
        """The record of an entry in the manifest."""
        try:
            record = self.record(**{k: v for k, v in item.items() if k != "file"})
            valid = item == self._item(record) and type(record.number) is int
        except TypeError:  # It has other fields.
            valid = False
        if not valid:
            raise ValueError(f"`{self.manifest}` has an entry of another kind: {item}")
        return record


def write(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes JSON that holds its own hash; a crash leaves the old file or the new."""
    content = {**content, "sha256": _digest(content)}
    files.write_atomically(path, _serialized(content))


def read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a manifest.

    Raises:
        ValueError: If a single byte differs from what was written, or the manifest has
            another format.
    """
    written = path.read_bytes()
    try:
        content = json.loads(written)
        digest = content.pop("sha256")
        whole = digest == _digest(content)
        # Other bytes may mean the same JSON.
        whole &= _serialized({**content, "sha256": digest}) == written
    except (ValueError, KeyError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"`{path}` is damaged: its sha256 is not the one in it.")
    if content["format"] != FORMAT:
        raise ValueError(
            f"`{path}` has the format {content['format']}, written by keras_lrs "
            f"{content['keras_lrs']}. This version, {_version()}, reads format "
            f"{FORMAT}."
        )
    return content


def origin() -> dict[str, Any]:
    """What a manifest says about who wrote it, and when."""
    return {
        "format": FORMAT,
        "keras_lrs": _version(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "written": datetime.datetime.now(datetime.UTC).isoformat(),
    }


def _serialized(content):
    return (json.dumps(content, indent=1) + "\n").encode()


def _digest(content):
    return hashlib.sha256(_serialized(content)).hexdigest()


def _version():
    import keras_lrs  # Not at the top: the package imports this module.

    return keras_lrs.__version__
