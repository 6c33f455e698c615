"""Files that are there whole or not at all."""

import concurrent.futures
import hashlib
import os
import pathlib
import secrets
from typing import Any


def write_atomically(path: str | os.PathLike, content: Any) -> str:
    """Writes a file such that a crash leaves the old one or the new one.

    Args:
        path: Where; folders that are missing are made.
        content: What: bytes, or a function that writes a new file, given its path.

    Returns:
        The sha256 of the file.

    Raises:
        OSError: If it cannot be written; the old file is still there.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unlike those of `tempfile`, it may be read by whom the user's mask allows to.
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
    """Sees to it that a file is on the disk; meanwhile computes its hash."""
    with open(path, "rb+") as file, concurrent.futures.ThreadPoolExecutor(1) as thread:
        synced = thread.submit(os.fsync, file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        synced.result()
    return digest


def remove(paths: list[pathlib.Path]) -> None:
    """Removes files of one folder, those that are there, for good."""
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        _sync_folder(paths[0].parent)


def temporaries(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """What killed processes left of writing files with such names."""
    return sorted(folder.glob(f".{pattern}.{'[0-9a-f]' * 8}"))


def _sync_folder(folder):
    # The new name is on the disk when the folder is; Windows cannot and need not.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
