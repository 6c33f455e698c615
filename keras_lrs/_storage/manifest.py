"""A folder of files and the manifest that lists them.

A file is written first, and then the manifest that lists it is replaced as a whole. So
the manifest always lists files that exist and are complete. It holds the hash of each
file, and its own.

Each file also carries a label with its entry and the hash of its content. A lost
manifest is rebuilt from these labels.
"""

import dataclasses
import hashlib
import os
import pathlib
import warnings
from typing import Any, ClassVar, Generic, TypeVar

from keras_lrs._storage import files, labels, leases, listing, temporaries
from keras_lrs._storage.manifest_file import FORMAT, DamagedError, origin, read, write
from keras_lrs._storage.remote import Path, RemotePath

NAME = "manifest.json"
MEMBERS, GENERATIONS = "members", "generations"
KINDS = {MEMBERS: "snapshot-*.weights.h5", GENERATIONS: "generation-*.npz"}
"""The lists of our callbacks, and the names of their files.

They may share a folder, and only one has `NAME`.
"""


class Record:
    """A manifest's entry of a file. Subclasses are frozen dataclasses.

    Args:
        number: The number in the file's name, from 1.
        sha256: The hash of the file.
    """

    pattern: ClassVar[str]  # Of the file names; the asterisk is the number,
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

    Methods that write first lock the folder, and keep the lock until `close`.

    Args:
        directory: The folder, local or in an object store; it need not exist.
        repairs: Whether a missing or damaged manifest lists nothing until `relist`.

    Raises:
        ValueError: If the manifest is damaged or was written by a later version, or if
            it is missing and cannot be rebuilt from the files.
    """

    record: type[R]
    listed_as: str  # The key of the records in the manifest.
    newest_first = False  # The order of the records in the manifest.
    noted: tuple[str, ...] = ()  # Further keys of the manifest.
    LOCK: str  # The name of the file that is locked.
    optional: tuple[str, ...] = ()  # Keys that it may lack, and labels always lack.

    def __init_subclass__(cls, **keywords: Any):
        super().__init_subclass__(**keywords)
        cls.LOCK = f".{cls.listed_as}.lock"

    def __init__(
        self, directory: str | os.PathLike | RemotePath, repairs: bool = False
    ):
        self.directory: Any = directory
        if not isinstance(directory, RemotePath):
            self.directory = pathlib.Path(directory)
        self.records: list[R] = []
        self.notes: dict[str, Any] = {}
        self._lock = leases.lock(self.directory / self.LOCK)
        self.extras: dict[str, Any] = {}
        self._was_rebuilt = False
        self._first = 1  # The least number of the next file.
        self._repairs = repairs
        self._load()

    @property
    def manifest(self) -> Path:
        """The path of the manifest; another callback's may have the usual name."""
        own = self.directory / f"manifest-{self.listed_as}.json"
        shared = self.directory / NAME
        if not own.exists() and shared.exists():
            content = self._content(shared)
            others = set(KINDS) - {self.listed_as}
            if self.listed_as in content or not others & content.keys():
                return shared
        return own if own.exists() or shared.exists() else shared

    def _content(self, path):
        """Returns what a manifest holds; nothing if it is damaged and repaired."""
        try:
            return read(path, self._has_files)
        except DamagedError:
            if not self._repairs:
                raise
            return {}

    def _has_files(self):
        """Whether there are files of any kind that a manifest lists."""
        patterns = (self.record.pattern, *KINDS.values())
        return any(listing.matching(self.directory, each) for each in patterns)

    def _load(self):
        """Reads the manifest of the folder."""
        manifest = self.manifest
        content = self._content(manifest) if manifest.exists() else {}
        if not content and self._repairs:
            self.records, self.notes, self.extras = [], {}, {}
            return
        if not content:
            self._rebuild(manifest)
            return
        if not {self.listed_as, *self.noted} <= content.keys():
            raise ValueError(
                f"`{manifest}` lists no {self.listed_as}: it is the manifest of "
                "another callback. Give each its own directory."
            )
        if not isinstance(content[self.listed_as], list):
            raise ValueError(f"`{manifest}` has {self.listed_as} of another kind.")
        self.notes = {name: content[name] for name in self.noted}
        self.extras = {k: content[k] for k in self.optional if k in content}
        self.records = [self._record(manifest, i) for i in content[self.listed_as]]
        self.records.sort(key=lambda record: record.number)

    def _rebuild(self, manifest):
        """Rebuilds the list from the labels of the files when there is no manifest."""
        found = []
        for path in self._files():
            try:
                found.append(self._labelled(path))
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"`{manifest}` is missing, and cannot be rebuilt: `{path}` cannot "
                    f"be listed ({error}). Restore the manifest, or remove this file."
                ) from error
        self.records, self.notes = [record for record, _ in found], {}
        if not found:
            return
        self.notes = found[-1][1]
        if not self._was_rebuilt:
            self._was_rebuilt = True
            warnings.warn(
                f"`{manifest}` is missing. It is rebuilt from the {len(found)} files "
                "that it should list.",
                stacklevel=5,
            )

    def _labelled(self, path):
        """Returns the record and the notes in the label of a file."""
        written = files.bytes_of(path)
        label = labels.read(written)
        digest = hashlib.sha256(written).hexdigest()
        try:
            record = self._record(path, {**label["entry"], "sha256": digest})
            if record.file != path.name:
                raise ValueError(f"it was written as `{record.file}`")
            return record, {name: label[name] for name in self.noted}
        except (KeyError, TypeError) as error:
            raise ValueError(f"its label is of another kind: {error!r}") from error

    def relist(self) -> None:
        """Lists all files; `rewrite` then writes the manifest.

        A file that the manifest lists keeps its entry, which may hold more than the
        label, such as the metrics of a whole epoch.

        Raises:
            ValueError: If a file is damaged.
        """
        self.lock()
        listed = {record.file: record for record in self.records}
        records = []
        for path in self._files():
            try:
                record, notes = self._labelled(path)
            except ValueError as error:
                record = listed.get(path.name)
                if record is None:
                    raise ValueError(
                        f"`{path}` cannot be listed: {error}. Remove this file."
                    ) from error
                self.read(record)  # Version 0.1.0 wrote no labels.
            else:
                self.notes = self.notes or notes
                known = listed.get(path.name)
                same = known is not None and known.sha256 == record.sha256
                record = known if same else record
            records.append(record)
        self.records = records

    def rewrite(self) -> None:
        """Writes the manifest after `relist`, and keeps a damaged one as a copy."""
        path = self.manifest
        exists = path.exists()
        damaged = exists and not self._content(path)
        if damaged:
            copy = self.directory / f"{path.name}.damaged"
            files.write_atomically(copy, files.bytes_of(path))
        if self.records or (exists and not damaged):
            self.write()
        elif damaged:
            files.remove([path])
        files.remove(self.temporaries())

    def lock(self) -> None:
        """Keeps others from writing to the folder, and reads its manifest again.

        Raises:
            ValueError: If another process is writing to it, or has taken it over.
            OSError: If it is not writable.
        """
        was_held = self._lock.is_held
        if self._lock.acquire() and was_held:  # Someone had removed the lock.
            found = type(self)(self.directory).records
            if not {r.sha256 for r in found} <= {r.sha256 for r in self.records}:
                raise self._lock.lost("another run, which has ended")
            self._keep_existing()
        elif not was_held:
            try:
                self._load()
            except BaseException:
                self.close()  # The error may be kept, and this with it.
                raise

    def _keep_existing(self):
        """Lists no files that were removed with the lock; their numbers stay used."""
        if self.records:
            self._first = max(self._first, self.records[-1].number + 1)
        self.records = [r for r in self.records if self.path(r).exists()]

    def close(self) -> None:
        """Unlocks the folder."""
        self._lock.release()

    def path(self, record: R) -> Path:
        """Returns the path of a record's file."""
        return self.directory / record.file

    def add(self, record: Any, content: Any, keep_last: int | None = None) -> None:
        """Writes a file, then the manifest that lists it, then removes dropped files.

        Args:
            record: The record, whose number and hash are filled in.
            content: The bytes of the file, or a list of their pieces.
            keep_last: How many of the last files to keep; None keeps all.
        """
        self.lock()
        if not self.manifest.exists():
            self.write()  # So a missing manifest always means a lost one.
        following = self.records[-1].number + 1 if self.records else 1
        number = max(following, self._first)
        record = dataclasses.replace(record, number=number)
        entry = {k: v for k, v in self._item(record).items() if k != "sha256"}
        # Without the time, so that a repeated run writes the same bytes.
        label = {"format": FORMAT, **self.notes, "entry": entry}
        digest = files.write_atomically(
            self.path(record), content, lambda sha256: labels.made(label, sha256)
        )
        record = dataclasses.replace(record, sha256=digest)
        records = [*self.records, record]
        self.records = records if keep_last is None else records[-keep_last:]
        self.write()
        self.clean()

    def read(self, record: R) -> bytes:
        """Reads the content of a record's file.

        Raises:
            ValueError: If the file is missing or altered.
        """
        content = files.read(self.path(record), record.sha256)
        return labels.parted(content)[0]

    def write(self) -> None:
        """Replaces the manifest."""
        self.lock()
        records = reversed(self.records) if self.newest_first else self.records
        items = [self._item(record) for record in records]
        others = {**self.notes, **self.extras}
        write(self.manifest, {**origin(), **others, self.listed_as: items})

    def clean(self) -> None:
        """Removes the files that the manifest does not list."""
        files.remove(self.unlisted() + self.temporaries())

    def temporaries(self) -> list[Path]:
        """Returns the temporary files that killed processes left behind."""
        patterns = (self.record.pattern, f"{self.manifest.name}*")
        return [
            path
            for pattern in patterns
            for path in temporaries.found(self.directory, pattern)
        ]

    def unlisted(self) -> list[Path]:
        """Returns the files that the manifest does not list."""
        kept = list(map(self.path, self.records))
        return [path for path in self._files() if path not in kept]

    def _files(self):
        """Returns the files in the folder that have names of records, in order."""
        before, after = self.record.pattern.split("*")
        found = []
        for path in listing.matching(self.directory, self.record.pattern):
            number = path.name[len(before) : -len(after)]
            if files.is_number(number):
                found.append((int(number), path))
        # Numbers with more than the usual digits are not in the order of their names.
        return [path for _, path in sorted(found)]

    def remove(self) -> None:
        """Removes all files.

        The manifest, which then lists no files, is removed last. Otherwise, after an
        interruption, it would be rebuilt from the files that are left.
        """
        self.lock()
        self.records = []
        if self.manifest.exists():
            self.write()
            self.clean()
            files.remove([self.manifest])

    def _item(self, record: Any) -> dict[str, Any]:
        """Returns the entry of a record in the manifest."""
        return dataclasses.asdict(record)

    def _record(self, path, item):
        """Returns the record of an entry in the manifest or in the label of a file."""
        try:
            record = self.record(**{k: v for k, v in item.items() if k != "file"})
            # JSON may hold a value of any type anywhere.
            valid = item == self._item(record) and all(
                type(getattr(record, field.name)) in _TYPES.get(field.type, (dict,))
                for field in dataclasses.fields(self.record)  # type: ignore[arg-type]
            )
        except (TypeError, AttributeError):  # It has other fields, or is not an entry.
            valid = False
        if not valid or record.number < 1:
            raise ValueError(f"`{path}` has an entry of another kind: {item}")
        return record


# The types in JSON of fields with these types; all others are dictionaries.
_TYPES: dict[Any, tuple] = {
    int: (int,),
    bool: (bool,),
    str: (str,),
    float: (int, float),
}
