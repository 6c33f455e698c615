"""Files of averages, as they were at some moments of a training."""

import io
import os
import pathlib

import numpy as np

from keras_lrs import files


def paths(directory: str | os.PathLike) -> dict[int, pathlib.Path]:
    """The snapshots in a folder, by the number of updates before them."""
    found = pathlib.Path(directory).glob("averages-*.npz")
    return {int(path.stem.split("-")[1]): path for path in sorted(found)}


def write(
    directory: str | os.PathLike, step: int, averages: dict[float, list[np.ndarray]]
) -> None:
    """Writes the averages of some widths after so many updates, whole or not at all."""
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
    """What `write` wrote, in float64; arrays are read when they are used."""
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            found: dict[float, list[np.ndarray]] = {}
            for key in sorted(stored, key=lambda key: int(key.split("/")[1])):
                sigma_rel = float(key.split("/")[0])
                found.setdefault(sigma_rel, []).append(stored[key].astype(np.float64))
            return found
    except Exception as error:  # Whatever NumPy makes of bytes that it did not write.
        raise ValueError(f"The snapshot {path} is damaged: {error}") from error
