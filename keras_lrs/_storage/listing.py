"""Lists folders, and does not take one that cannot be listed for an empty one."""

import fnmatch
import os

from keras_lrs._storage.remote import Path, RemotePath


def matching(folder: Path, pattern: str) -> list[Path]:
    """Returns the paths in a folder whose names match; none if there is no folder.

    Raises:
        OSError: If the folder cannot be listed. `pathlib`'s `glob` finds nothing then.
    """
    if isinstance(folder, RemotePath):
        return list(folder.glob(pattern))
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names) if fnmatch.fnmatch(name, pattern)]
