"""Files that are there whole or not at all."""

import concurrent.futures
import datetime
import hashlib
import json
import os
import pathlib
import secrets
from typing import Any

import keras


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


def write_manifest(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes JSON that holds its own hash, such that a crash leaves the old or new."""
    content = {**content, "sha256": _digest(content)}
    write_atomically(path, _serialized(content))


def read_manifest(path: pathlib.Path, format_: int) -> dict[str, Any]:
    """What `write_manifest` wrote.

    Raises:
        ValueError: If a byte of it is not what was written, or it has another format.
    """
    written = path.read_bytes()
    try:
        content = json.loads(written)
        digest = content.pop("sha256")
        whole = digest == _digest(content)
        # Not a byte more, and none that means the same.
        whole &= _serialized({**content, "sha256": digest}) == written
    except (ValueError, KeyError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"`{path}` is damaged: its sha256 is not the one in it.")
    if content["format"] != format_:
        raise ValueError(
            f"`{path}` has the format {content['format']}, written by keras_lrs "
            f"{content['keras_lrs']}. This version, {_version()}, reads format "
            f"{format_}."
        )
    return content


def origin(format_: int) -> dict[str, Any]:
    """What a manifest says of who wrote it, and when."""
    return {
        "format": format_,
        "keras_lrs": _version(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "written": datetime.datetime.now(datetime.UTC).isoformat(),
    }


def read(path: pathlib.Path, sha256: str) -> bytes:
    """The content of a file of which a manifest knows the hash.

    Raises:
        ValueError: If it is missing or altered.
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


def _serialized(content):
    return (json.dumps(content, indent=1) + "\n").encode()


def _digest(content):
    return hashlib.sha256(_serialized(content)).hexdigest()


def _version():
    import keras_lrs  # Not at the top: it imports this module.

    return keras_lrs.__version__


def remove(paths: list[pathlib.Path]) -> None:
    """Removes files of one folder, those that are there, for good."""
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        _sync_folder(paths[0].parent)


def keep_only(folder: pathlib.Path, kept: list[pathlib.Path], *patterns: str) -> None:
    """Removes all other files with such names: dropped, or left by a crash."""
    left = [p for pattern in patterns for p in sorted(folder.glob(pattern))]
    left = [path for path in left if path not in kept]
    for pattern in patterns:
        left += temporaries(folder, pattern)
    remove(left)


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
