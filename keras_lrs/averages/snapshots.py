"""Files of averages at several points of a training run."""

import dataclasses
import io

import numpy as np

from keras_lrs._storage import files, labels, listing, tree
from keras_lrs._storage.remote import Path

PATTERN = "averages-*.npz"
LOCK = ".averages.lock"
"""The name of the lock on a folder of averages."""

_END = 22  # The bytes of the last record of an archive.


def paths(directory: Path) -> dict[int, Path]:
    """Finds the snapshots in a folder, by the number of updates before them."""
    found: list[Path] = listing.matching(directory, PATTERN)
    numbers = [path.stem.removeprefix("averages-") for path in found]
    pairs = zip(numbers, found, strict=True)
    # Numbers with more than the usual digits are not in the order of their names.
    return dict(sorted((int(n), path) for n, path in pairs if files.is_number(n)))


def write(
    directory: Path, step: int, averages: dict[float, list[np.ndarray]], run: str
) -> None:
    """Writes the averages of some widths after `step` updates, whole or not at all.

    Args:
        directory: The folder.
        step: The number of updates.
        averages: The averages of all weights, by width.
        run: What identifies the run.
    """
    content = io.BytesIO()
    arrays = {
        f"{sigma_rel!r}/{index}": array
        for sigma_rel, weights in averages.items()
        for index, array in enumerate(weights)
    }
    np.savez(content, allow_pickle=False, **arrays)
    path = _path(directory, step)
    label = {"entry": {"step": step, "run": run}}
    files.write_atomically(
        path, content.getvalue(), lambda sha256: labels.made(label, sha256)
    )


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A snapshot that was read.

    Args:
        averages: For each width, the averages of all weights, in float64.
        run: What identifies the run; None if version 0.1.0 wrote it.
    """

    averages: dict[float, list[np.ndarray]]
    run: str | None


def read(path: Path) -> Snapshot:
    """Reads a snapshot.

    Raises:
        FileNotFoundError: If it has been removed.
        OSError: If the storage that it is in cannot be reached.
        ValueError: If the file is damaged, or has the name of another snapshot.
    """
    written = files.bytes_of(path)
    try:
        content, entry = _parted(written)
        if entry.keys() and _path(path.parent, entry["step"]).name != path.name:
            raise ValueError(f"it is the snapshot after {entry['step']} updates")
        tree.check_unpacked(content)
        with np.load(io.BytesIO(content)) as stored:
            found: dict[float, list[np.ndarray]] = {}
            for key in sorted(stored, key=lambda key: int(key.split("/")[1])):
                sigma_rel = float(key.split("/")[0])
                found.setdefault(sigma_rel, []).append(stored[key].astype(np.float64))
            return Snapshot(found, entry.get("run"))
    except Exception as error:  # NumPy raises many errors for bytes of others.
        raise ValueError(f"The snapshot {path} is damaged: {error}") from error


def run_of(path: Path) -> str | None:
    """Returns what identifies the run of a snapshot; None if that is not known."""
    try:
        _, entry = _parted(files.bytes_of(path))
    except ValueError:
        return None
    return entry.get("run")


def _path(directory, step):
    return directory / f"averages-{step:010d}.npz"


def _parted(written):
    """Returns the content before the label, and the label's entry, both verified."""
    content, label = labels.parted(written)
    if label is not None:
        entry = labels.read(written).get("entry")
        types = {"step": int, "run": str}
        # JSON may hold a value of any type anywhere.
        if not isinstance(entry, dict) or any(
            type(entry.get(name)) is not kind for name, kind in types.items()
        ):
            raise ValueError(f"its label has an entry of another kind: {entry}")
        return content, entry
    # Version 0.1.0 wrote no label, and nothing follows the end of its archive.
    if written[-_END:][:4] != b"PK\x05\x06":
        raise ValueError("it is truncated, or its label is damaged")
    return content, {}
