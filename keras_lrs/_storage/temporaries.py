"""Temporary files, and which of them killed processes left behind."""

import contextlib
import glob
import os
import pathlib
from collections.abc import Iterator

from keras_lrs._storage import listing
from keras_lrs._storage.remote import Path, RemotePath

try:
    import fcntl
except ImportError:  # On Windows nothing tells whether a file is being written.
    fcntl = None  # type: ignore[assignment]


def found(folder: Path, pattern: str) -> list[Path]:
    """Finds the temporary files of files with such names.

    The caller must hold the lock of the folder, so that no process is writing them.
    """
    return sorted(listing.matching(folder, f".{pattern}.{'[0-9a-f]' * 8}"))


def abandoned(path: Path) -> list[Path]:
    """Finds the temporary files of a file that killed processes left behind.

    Unlike for `found`, other processes may be writing the file.
    """
    left = found(path.parent, glob.escape(path.name))
    return [temporary for temporary in left if _is_abandoned(temporary)]


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[None]:
    """Creates a temporary file, which is not abandoned until the block ends.

    The system releases the lock on the file however the process ends.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        if fcntl is None:  # Windows cannot rename an open file.
            os.close(handle)
        else:
            with contextlib.suppress(OSError):  # The filesystem may have no locks.
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if fcntl is not None:
            os.close(handle)


def _is_abandoned(path):
    """Whether nobody holds a file; False where this is not known."""
    if fcntl is None or isinstance(path, RemotePath):
        return False
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
