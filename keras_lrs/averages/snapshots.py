"""Files of averages at several points of a training run."""

import io

import numpy as np

from keras_lrs._storage import files, labels, tree
from keras_lrs._storage.remote import Path

PATTERN = "averages-*.npz"
LOCK = ".averages.lock"
"""The name of the lock on a folder of averages."""


def paths(directory: Path) -> dict[int, Path]:
    """Finds the snapshots in a folder, by the number of updates before them."""
    found: list[Path] = sorted(directory.glob(PATTERN), key=str)
    numbers = [path.stem.removeprefix("averages-") for path in found]
    return {
        int(number): path
        for number, path in zip(numbers, found, strict=True)
        if number.isdigit()
    }


def write(directory: Path, step: int, averages: dict[float, list[np.ndarray]]) -> None:
    """Writes the averages of some widths after `step` updates, whole or not at all."""
    content = io.BytesIO()
    arrays = {
        f"{sigma_rel!r}/{index}": array
        for sigma_rel, weights in averages.items()
        for index, array in enumerate(weights)
    }
    np.savez(content, allow_pickle=False, **arrays)
    path = directory / f"averages-{step:010d}.npz"
    label = {"entry": {"step": step}}
    files.write_atomically(
        path, content.getvalue(), lambda sha256: labels.made(label, sha256)
    )


def read(path: Path) -> dict[float, list[np.ndarray]]:
    """Reads a snapshot, in float64.

    Raises:
        FileNotFoundError: If it has been removed.
        OSError: If the storage that it is in cannot be reached.
        ValueError: If the file is damaged.
    """
    written = files.bytes_of(path)
    try:
        content = _unlabelled(written)
        tree.check_unpacked(content)
        with np.load(io.BytesIO(content)) as stored:
            found: dict[float, list[np.ndarray]] = {}
            for key in sorted(stored, key=lambda key: int(key.split("/")[1])):
                sigma_rel = float(key.split("/")[0])
                found.setdefault(sigma_rel, []).append(stored[key].astype(np.float64))
            return found
    except Exception as error:  # NumPy raises many errors for bytes of others.
        raise ValueError(f"The snapshot {path} is damaged: {error}") from error


def _unlabelled(written):
    """Returns the content before the label, which verifies it."""
    content, label = labels.parted(written)
    if label is not None:  # Version 0.1.0 wrote none.
        labels.read(written)
    return content
