"""Paths in storages of objects, such as S3, which are reached through `fsspec`.

Such a storage shows an object when all of it has arrived, and then to everybody. So
neither temporary names nor renaming are needed there, and there are no folders: a name
begins with the names of those that it would be in.
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
"""The packages that reach a storage, by the protocol in the URL.

Only storages that can create an object unless it exists: leases depend on that.
"""


def missing(protocol: str) -> str | None:
    """The package that a protocol needs and that is not installed; None if it is."""
    for name in ("fsspec", PACKAGES[protocol]):
        try:
            importlib.import_module(name)
        except ImportError:
            return name
    return None


class RemotePath:
    """A path in a storage of objects, with those methods of `pathlib.Path` that we use.

    It is no `os.PathLike`: nothing that opens files of this machine takes it.

    Args:
        protocol: A key of `PACKAGES`.
        name: The bucket, and the name in it.

    Raises:
        OSError: By all methods that reach the storage, if it cannot be reached.
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
        """The last part."""
        return posixpath.basename(self._name)

    @property
    def stem(self) -> str:
        """The last part, without what follows its last dot."""
        return posixpath.splitext(self.name)[0]

    @property
    def parent(self) -> "RemotePath":
        """What the last part is in."""
        return RemotePath(self.protocol, posixpath.dirname(self._name))

    def absolute(self) -> "RemotePath":
        """Itself."""
        return self

    resolve = absolute

    # --- What there is ---

    def exists(self) -> bool:
        """Whether there is an object of this name, or one that is in it."""
        # Not `exists` of fsspec, to which everything is missing while the network is.
        with self._reached() as storage, contextlib.suppress(FileNotFoundError):
            storage.info(self._name)
            return True
        return False

    def is_dir(self) -> bool:
        """Whether there are objects in it."""
        with self._reached() as storage, contextlib.suppress(FileNotFoundError):
            return storage.info(self._name)["type"] == "directory"
        return False

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """The paths in it whose last part matches a pattern."""
        found = []
        with self._reached() as storage, contextlib.suppress(FileNotFoundError):
            found = storage.ls(self._name, detail=False)
        names = {posixpath.basename(name.rstrip("/")) for name in found}
        return (self / name for name in sorted(names) if fnmatch.fnmatch(name, pattern))

    def read_bytes(self) -> bytes:
        """The content of the object."""
        with self._reached() as storage:
            return storage.cat_file(self._name)

    def size(self) -> int:
        """How many bytes are in the object."""
        with self._reached() as storage:
            return storage.info(self._name)["size"]

    # --- Changing it ---

    def put(self, content: bytes, new: bool = False) -> None:
        """Writes the object.

        Args:
            content: All of it.
            new: Whether to raise `FileExistsError` if it is there already, instead of
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
        """Does nothing: there are no folders."""

    def check_writable(self) -> None:
        """Raises `OSError` if no object can be written beside this one."""
        probe = self.parent / f".{self.name}.{secrets.token_hex(4)}"
        probe.put(b"")
        probe.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[Any]:
        """The storage; whatever it raises is an `OSError` that names this path."""
        try:
            import fsspec

            # Without a cache of listings, in which a folder stays as it once was. What
            # fsspec caches are the storages: one for each thread, also after a fork.
            yield fsspec.filesystem(self.protocol, use_listings_cache=False)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                errno.ENOENT, _cause(error, errno.ENOENT), str(self)
            ) from error
        except FileExistsError as error:
            raise FileExistsError(
                errno.EEXIST, os.strerror(errno.EEXIST), str(self)
            ) from error
        except Exception as error:  # Of the network, of credentials, of any package.
            number = getattr(error, "errno", None)
            number = number if isinstance(number, int) else errno.EIO
            raise OSError(number, _cause(error, None), str(self)) from error


def _cause(error, number):
    text = str(error)
    if number is not None and " " not in text:  # Then it is the path alone.
        return os.strerror(number)
    return text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"


Path = pathlib.Path | RemotePath
"""Of a folder or a file that is kept, here or elsewhere."""
