"""The file of a manifest: JSON that says who wrote it, and holds its own hash."""

import datetime
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import keras

from keras_lrs._storage import files
from keras_lrs._storage.remote import Path

FORMAT = 1

_BEGINNING = f'{{\n "format": {FORMAT},\n "keras_lrs": "'.encode()
# The keys of `origin` in their order. A damaged byte leaves one of the two.
_MARKS = (
    rb'\s*\{\s*"format":\s*\d+,\s*"keras_lrs":\s*"',
    rb'(?s:.){,200}"keras":\s*"[^"]*",\s*"backend":\s*"[^"]*",\s*"written":\s*"',
)


class DamagedError(ValueError):
    """Raised if a manifest has been altered."""

    def __init__(self, path: Path):
        super().__init__(
            f"`{path}` is damaged: its sha256 does not match. "
            "`keras_lrs.checkpoints.rebuild` rebuilds it from the files that it lists."
        )


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON with its own hash; a crash leaves the old or the new file."""
    content = {**content, "sha256": _digest(content)}
    files.write_atomically(path, _serialized(content))


def read(path: Path, beside_ours: Callable[[], bool]) -> dict[str, Any]:
    """Reads a manifest.

    Args:
        path: The path of the manifest.
        beside_ours: A function that tells whether its folder has files that our
            manifest would list.

    Raises:
        DamagedError: If a single byte differs from what was written.
        ValueError: If it cannot be read, is from another program, or has another
            format.
    """
    try:
        written = files.bytes_of(path)
    except FileNotFoundError as error:
        raise ValueError(f"`{path}` cannot be read: {error}") from error
    try:
        content = json.loads(written)
        digest = content.pop("sha256")
        whole = digest == _digest(content)
        # Different bytes may be the same JSON.
        whole &= _serialized({**content, "sha256": digest}) == written
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        whole = False
    if not whole and _is_ours(written, beside_ours):
        raise DamagedError(path)
    if not whole:
        raise ValueError(
            f"`{path}` was not written by keras_lrs, or is damaged beyond recognition. "
            + (
                "Move it elsewhere, and the manifest is rebuilt from the files."
                if beside_ours()
                else "Choose another directory."
            )
        )
    if content.get("format") != FORMAT:
        raise ValueError(
            f"`{path}` has format {content.get('format')}, written by keras_lrs "
            f"{content.get('keras_lrs')}. This version, {_version()}, reads format "
            f"{FORMAT}."
        )
    return content


def _is_ours(written, beside_ours):
    """Whether a file that is not whole was a manifest, and not of another program.

    A crash may leave so little of a manifest, nothing or zeros, that only the files
    beside it tell.
    """
    if any(re.match(mark, written) for mark in _MARKS):
        return True
    return _BEGINNING.startswith(written.rstrip(b"\0")) and beside_ours()


def origin() -> dict[str, Any]:
    """Returns what a manifest records about its writer, and the time."""
    return {
        "format": FORMAT,
        "keras_lrs": _version(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "written": datetime.datetime.now(datetime.UTC).isoformat(),
    }


def _serialized(content):
    return (json.dumps(content, indent=1) + "\n").encode()


def _digest(content):
    return hashlib.sha256(_serialized(content)).hexdigest()


def _version():
    import keras_lrs  # Not at the top: the package imports this module.

    return keras_lrs.__version__
