"""Files of averages, as they were at some moments of a training run."""

import io
import os
import pathlib

import numpy as np

from keras_lrs._storage import files, tree


def paths(directory: str | os.PathLike) -> dict[int, pathlib.Path]:
    """Finds the snapshots in a folder, by the number of updates before them."""
    found = sorted(pathlib.Path(directory).glob("averages-*.npz"))
    numbers = [path.stem.removeprefix("averages-") for path in found]
    return {
        int(number): path
        for number, path in zip(numbers, found, strict=True)
        if number.isdigit()
    }


def write(
    directory: str | os.PathLike, step: int, averages: dict[float, list[np.ndarray]]
) -> None:
    """Writes the averages of some widths after `step` updates, whole or not at all."""
    content = io.BytesIO()
    arrays = {
        f"{sigma_rel!r}/{index}": array
        for sigma_rel, weights in averages.items()
        for index, array in enumerate(weights)
    }
    np.savez(content, allow_pickle=False, **arrays)
    path = pathlib.Path(directory) / f"averages-{step:010d}.npz"
    files.write_atomically(path, content.getvalue())


def read(path: pathlib.Path) -> dict[float, list[np.ndarray]]:
    """Reads a snapshot, in float64.

    Raises:
        FileNotFoundError: If it has been removed.
        ValueError: If the file is damaged.
    """
    try:
        content = path.read_bytes()
        tree.check_unpacked(content)
        with np.load(io.BytesIO(content)) as stored:
            found: dict[float, list[np.ndarray]] = {}
            for key in sorted(stored, key=lambda key: int(key.split("/")[1])):
                sigma_rel = float(key.split("/")[0])
                found.setdefault(sigma_rel, []).append(stored[key].astype(np.float64))
            return found
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy raises anything for bytes that it did not write.
        raise ValueError(f"The snapshot {path} is damaged: {error}") from error
