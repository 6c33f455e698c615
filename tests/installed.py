"""Checks a wheel: its size, or that what is installed trains. Needs no test package.

python tests/installed.py --size dist/keras_lrs-0.2.0-py3-none-any.whl
cd elsewhere; KERAS_BACKEND=jax python .../tests/installed.py
"""

import argparse
import pathlib
import sys
import zipfile

LIMIT = 400_000


def check_size(path):
    """Exits if the wheel is large, or holds what is not the package."""
    size = path.stat().st_size
    if size > LIMIT:
        sys.exit(f"{path.name} has {size} bytes, more than {LIMIT}.")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
    strays = [n for n in names if not n.startswith(("keras_lrs/", "keras_lrs-"))]
    if strays or "keras_lrs/py.typed" not in names:
        sys.exit(f"{path.name} lacks py.typed, or holds {strays}.")
    print(f"{path.name}: {size} bytes, {len(names)} files")


def train():
    """Trains for two epochs with a schedule, and loads what was saved."""
    # A program's folder comes first on the path; the package must not be beside it.
    sys.path.pop(0)
    import keras
    import numpy as np

    import keras_lrs as lrs

    if pathlib.Path(lrs.__file__).parents[1] == pathlib.Path(__file__).parents[1]:
        sys.exit("This is the package of the repository, not an installed one.")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    schedule = lrs.schedules.Warmup(lrs.schedules.LinearDecay(0.1), lrs.Epochs(1))
    callbacks = [
        lrs.callbacks.HyperparameterScheduler(schedule),
        lrs.callbacks.HyperparameterLogger(),
    ]
    x, y = np.ones((16, 2), "float32"), np.ones((16, 1), "float32")
    history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
    # Four steps of warmup from 0 to 0.1, then four of the decay.
    np.testing.assert_allclose(
        history.history["learning_rate"], [0.075, 0.025], rtol=1e-6
    )
    print(f"keras_lrs {lrs.__version__} trains on {keras.backend.backend()}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=pathlib.Path, metavar="WHEEL")
    arguments = parser.parse_args()
    if arguments.size:
        check_size(arguments.size)
    else:
        train()
