"""Writes files completely or not at all, and checks them when reading."""

import contextlib
import errno
import hashlib
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keras_lrs._storage import temporaries, threads
from keras_lrs._storage.remote import Path, RemotePath


def write_atomically(
    path: str | os.PathLike | RemotePath,
    content: Any,
    trailer: Callable[[str], bytes] | None = None,
) -> str:
    """Writes a file so that a crash leaves either the old or the new version.

    Args:
        path: The file, local or in an object store; missing folders are created.
        content: The bytes to write, or a list of pieces that follow each other.
        trailer: A function from the sha256 of the content to bytes that are appended.

    Returns:
        The sha256 of the file.

    Raises:
        OSError: If the file cannot be written; the old version is kept.
    """
    if isinstance(path, RemotePath):
        return _put(path, content, trailer)
    path = pathlib.Path(path)
    # Not from `tempfile`, whose files ignore the umask: only their owner can read them.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporaries.held(temporary):
                digest = _written(temporary, content, trailer)
                os.replace(temporary, path)
        except BaseException:
            # A disk that failed to write may also fail to remove.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    return digest


def check_writable(path: Path, make_folders: bool = True) -> None:
    """Raises `OSError` if a file cannot be written; creates its folders."""
    if isinstance(path, RemotePath):
        path.check_writable()
        return
    with naming(path):
        if make_folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Test by writing, because permissions do not tell what a disk or `/proc`
        # accepts.
        probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with open(probe, "xb"):
            pass
        probe.unlink()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes an `OSError` within the block name the path, not a temporary file."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        raise OSError(error.errno, cause, str(path)) from error


def _written(path, content, trailer):
    """Writes a new file to the disk while computing its hash."""
    pieces = _pieces(content)
    with open(path, "wb") as file, threads.Worker("files") as thread:
        writing = thread.submit(_write, file, pieces)
        try:
            digest = _hash(pieces)
        finally:
            writing.result()
        if trailer is not None:
            end = trailer(digest.hexdigest())
            _write(file, [end])
            digest.update(end)
    return digest.hexdigest()


def _put(path, content, trailer):
    """Writes an object, which replaces its old version once it is complete."""
    pieces = _pieces(content)
    digest = _hash(pieces)
    if trailer is not None:
        end = trailer(digest.hexdigest())
        digest.update(end)
        pieces = [*pieces, end]
    path.put(b"".join(pieces))
    return digest.hexdigest()


def _pieces(content):
    return content if isinstance(content, list) else [content]


def _hash(pieces):
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest


def _write(file, pieces):
    for piece in pieces:
        file.write(piece)
    file.flush()
    os.fsync(file.fileno())


def read(path: Path, sha256: str) -> bytes:
    """Reads a file whose hash is known from a manifest.

    Raises:
        ValueError: If the file is missing or altered.
        OSError: If its storage cannot be reached.
    """
    try:
        written = bytes_of(path)
    except FileNotFoundError as error:
        raise ValueError(f"`{path}` cannot be read: {error}") from error
    digest = hashlib.sha256(written).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"`{path}` is damaged: its sha256 is {digest}, and {sha256} in the "
            "manifest."
        )
    return written


def bytes_of(path: Path) -> bytes:
    """Returns the content of a file.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it cannot be read.
        OSError: If its storage cannot be reached, so that it may be undamaged.
    """
    try:
        if not isinstance(path, RemotePath) and path.exists() and not path.is_file():
            # A pipe, for one, would be waited for without end.
            raise ValueError(f"`{path}` cannot be read: it is not a regular file.")
        return path.read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError) or isinstance(path, RemotePath):
            raise
        raise ValueError(f"`{path}` cannot be read: {error}") from error


def size(path: Path) -> int:
    """Returns the size of a file in bytes."""
    return path.size() if isinstance(path, RemotePath) else path.stat().st_size


def remove(paths: Sequence[Path]) -> None:
    """Removes those files of one folder that exist, and syncs the folder."""
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        _sync_folder(paths[0].parent)


def is_number(text: str) -> bool:
    """Whether a part of a file's name is a number, in the digits that we write."""
    return text.isascii() and text.isdigit()


def _sync_folder(folder):
    if isinstance(folder, RemotePath):
        return
    # On POSIX, syncing the folder puts a new name on disk; Windows does not need this.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
