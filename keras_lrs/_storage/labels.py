"""Labels at the ends of files, which describe the files without a manifest.

A label follows the content. Readers of `.npz` and HDF5 ignore anything behind their
content. A label consists of JSON, its length in eight digits, and a word that marks it.
The JSON holds a hash of the content and of itself.
"""

import hashlib
import json
from typing import Any

_MARK = b"keras_lrs"
_DIGITS = 8


def made(label: dict[str, Any], sha256: str) -> bytes:
    """Returns the bytes of a label for a content with this hash."""
    text = json.dumps({**label, "sha256": _hash(label, sha256)}).encode()
    return text + f"{len(text):0{_DIGITS}d}".encode() + _MARK


def parted(content: bytes) -> tuple[bytes, bytes | None]:
    """Returns a file's content without the label, and the JSON of the label."""
    end = len(content) - len(_MARK)
    begin = end - _DIGITS
    length = content[max(begin, 0) : end]
    if not content.endswith(_MARK) or not length.isdigit() or int(length) > begin:
        return content, None
    return content[: begin - int(length)], content[begin - int(length) : begin]


def read(content: bytes) -> dict[str, Any]:
    """Returns the label of a file.

    Raises:
        ValueError: If there is no label, or the content does not match it.
    """
    content, text = parted(content)
    if text is None:
        raise ValueError("it has no label: it is truncated, or from version 0.1.0")
    try:
        label = json.loads(text)
        sha256 = label.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError("its label is damaged") from error
    if sha256 != _hash(label, hashlib.sha256(content).hexdigest()):
        raise ValueError("it is damaged: its sha256 does not match its label")
    return label


def _hash(label, sha256):
    """The hash of a label and of the content that has this hash."""
    return hashlib.sha256(f"{sha256} {json.dumps(label)}".encode()).hexdigest()
