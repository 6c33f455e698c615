"""Paths in object stores such as S3, which are accessed through `fsspec`.

An object store shows an object to all readers once it is complete. So temporary names
and renaming are not needed. There are no folders: the name of an object begins with the
names of the folders that it would be in.
"""

import contextlib
import errno
import fnmatch
import importlib
import os
import pathlib
import posixpath
import secrets
from collections.abc import Iterator
from typing import Any

PACKAGES = {
    "gcs": "gcsfs",
    "gs": "gcsfs",
    "memory": "fsspec",
    "s3": "s3fs",
    "s3a": "s3fs",
}
"""The packages for each storage, by the protocol in the URL.

It has only storages that can create an object unless it exists, which leases need.
"""


def missing(protocol: str) -> str | None:
    """Returns the package that a protocol needs and that is not installed, or None."""
    for name in ("fsspec", PACKAGES[protocol]):
        try:
            importlib.import_module(name)
        except ImportError:
            return name
    return None


class RemotePath:
    """A path in an object store, with the methods of `pathlib.Path` that we use.

    It is not an `os.PathLike`, so that functions that open local files reject it.

    Args:
        protocol: A key of `PACKAGES`.
        name: The bucket, and the name in it.

    Raises:
        OSError: From all methods that access the storage, if it cannot be reached.
    """

    def __init__(self, protocol: str, name: str):
        self.protocol = protocol
        self._name = posixpath.normpath(name.strip("/"))

    def __str__(self):
        return f"{self.protocol}://{self._name}"

    def __repr__(self):
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other):
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __lt__(self, other):
        return str(self) < str(other)

    def __hash__(self):
        return hash(str(self))

    # --- Names ---

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self.protocol, f"{self._name}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self._name)

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return posixpath.splitext(self.name)[0]

    @property
    def parent(self) -> "RemotePath":
        """The path without its last part."""
        return RemotePath(self.protocol, posixpath.dirname(self._name))

    def resolve(self) -> "RemotePath":
        """Returns the path itself."""
        return self

    # --- Reading ---

    def exists(self) -> bool:
        """Whether there is an object with this name, or within it."""
        # Not fsspec's `exists`, which returns False if the network is down.
        with self._reached() as storage, contextlib.suppress(FileNotFoundError):
            storage.info(self._name)
            return True
        return False

    def is_dir(self) -> bool:
        """Whether there are objects within it."""
        with self._reached() as storage, contextlib.suppress(FileNotFoundError):
            return storage.info(self._name)["type"] == "directory"
        return False

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yields the paths within it whose last part matches a pattern."""
        found = []
        with self._reached() as storage, contextlib.suppress(FileNotFoundError):
            found = storage.ls(self._name, detail=False)
        names = {posixpath.basename(name.rstrip("/")) for name in found}
        return (self / name for name in sorted(names) if fnmatch.fnmatch(name, pattern))

    def read_bytes(self) -> bytes:
        """Returns the content of the object."""
        with self._reached() as storage:
            return storage.cat_file(self._name)

    def size(self) -> int:
        """Returns the size of the object in bytes."""
        with self._reached() as storage:
            return storage.info(self._name)["size"]

    # --- Writing ---

    def put(self, content: bytes, new: bool = False) -> None:
        """Writes the object.

        Args:
            content: The complete content.
            new: Whether to raise `FileExistsError` if the object exists, instead of
                replacing it.
        """
        with self._reached() as storage:
            mode = "create" if new else "overwrite"
            storage.pipe_file(self._name, content, mode=mode)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        try:
            with self._reached() as storage:
                storage.rm_file(self._name)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmdir(self) -> None:
        """Does nothing, because there are no folders."""

    def check_writable(self) -> None:
        """Raises `OSError` if no object can be written next to this one."""
        probe = self.parent / f".{self.name}.{secrets.token_hex(4)}"
        probe.put(b"")
        probe.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[Any]:
        """Yields the storage; turns all its errors into `OSError`s with this path."""
        try:
            import fsspec

            # Without a cache of listings, which would be out of date. fsspec caches the
            # storages themselves, one for each thread, even after a fork.
            yield fsspec.filesystem(self.protocol, use_listings_cache=False)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                errno.ENOENT, _cause(error, errno.ENOENT), str(self)
            ) from error
        except FileExistsError as error:
            raise FileExistsError(
                errno.EEXIST, os.strerror(errno.EEXIST), str(self)
            ) from error
        except Exception as error:  # From the network, credentials, or any package.
            number = getattr(error, "errno", None)
            number = number if isinstance(number, int) else errno.EIO
            raise OSError(number, _cause(error, None), str(self)) from error


def _cause(error, number):
    text = str(error)
    if number is not None and " " not in text:  # Then it is only the path.
        return os.strerror(number)
    return text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"


Path = pathlib.Path | RemotePath
"""The path of a folder or a file, local or remote."""


def resolved(path: Path) -> Path:
    """Returns a path without symbolic links; those that form a loop stay in it."""
    if isinstance(path, RemotePath):
        return path
    # `Path.resolve` raises a `RuntimeError` for a loop.
    return pathlib.Path(os.path.realpath(path))
