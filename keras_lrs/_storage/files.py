"""Writes files that are there whole or not at all, and checks them when reading."""

import concurrent.futures
import hashlib
import os
import pathlib
import secrets
from typing import Any


def write_atomically(path: str | os.PathLike, content: Any) -> str:
    """Writes a file so that a crash leaves either the old one or the new one.

    Args:
        path: The file; missing folders are created.
        content: Bytes, or a function that writes a new file at the path it is given.

    Returns:
        The sha256 of the file.

    Raises:
        OSError: If the file cannot be written; the old one is still there.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not from `tempfile`, whose files only their owner can read: the umask decides.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        if callable(content):
            content(temporary)
        else:
            with open(temporary, "xb") as file:
                file.write(content)
        digest = _synced(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return digest


def _synced(path):
    """Flushes a file to the disk and computes its hash meanwhile."""
    with open(path, "rb+") as file, concurrent.futures.ThreadPoolExecutor(1) as thread:
        synced = thread.submit(os.fsync, file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        synced.result()
    return digest


def read(path: pathlib.Path, sha256: str) -> bytes:
    """Reads a file whose hash is known from a manifest.

    Raises:
        ValueError: If the file is missing or altered.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"`{path}` cannot be read: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"`{path}` is damaged: its sha256 is {digest}, and {sha256} in the "
            "manifest."
        )
    return content


def remove(paths: list[pathlib.Path]) -> None:
    """Removes files of one folder, as far as they exist, and syncs the folder."""
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        _sync_folder(paths[0].parent)


def keep_only(folder: pathlib.Path, kept: list[pathlib.Path], *patterns: str) -> None:
    """Removes all other files whose names match, and what a crash left of them."""
    left = [p for pattern in patterns for p in sorted(folder.glob(pattern))]
    left = [path for path in left if path not in kept]
    for pattern in patterns:
        left += temporaries(folder, pattern)
    remove(left)


def temporaries(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Finds the temporary files that killed processes left behind."""
    return sorted(folder.glob(f".{pattern}.{'[0-9a-f]' * 8}"))


def _sync_folder(folder):
    # On POSIX a new name is on the disk once its folder is; Windows needs no such call.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
