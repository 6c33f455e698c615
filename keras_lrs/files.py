"""Files that are there whole or not at all."""

import os
import pathlib
import secrets
from typing import Any


def write_atomically(path: str | os.PathLike, content: Any) -> None:
    """Writes a file such that a crash leaves the old one or the new one.

    Args:
        path: Where; folders that are missing are made.
        content: What: bytes, or a view of some.

    Raises:
        OSError: If it cannot be written; the old file is still there.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # Unlike those of `tempfile`, it may be read by whom the user's mask allows to.
    file = open(temporary, "xb")  # noqa: SIM115 Closed before it is renamed.
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(path.parent)


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
