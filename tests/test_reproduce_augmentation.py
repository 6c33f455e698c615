"""The recipes' augmentation: on every backend, and exact."""

import importlib

import keras
import numpy as np
import pytest
from keras import ops

from tests.programs import load_program

pytestmark = [pytest.mark.every_backend, pytest.mark.program]

load_program("examples/reproduce.command")
augmentation = importlib.import_module("reproduce.augmentation")


def test_images_are_moved_and_mirrored_on_the_device():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (64, 8, 8, 3)).astype("float32")
    layer = augmentation.RandomShift(2, seed=1)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), x)
    moved = ops.convert_to_numpy(layer(x, training=True))
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for number, image in enumerate(moved):
        every = [
            (down, right, step)
            for down in range(5)
            for right in range(5)
            for step in (1, -1)
            if np.array_equal(
                padded[number, down : down + 8, right : right + 8][:, ::step], image
            )
        ]
        assert len(every) == 1
        seen.update(every)
    assert (
        {down for down, _, _ in seen} == {right for _, right, _ in seen} == {*range(5)}
    )
    assert {step for _, _, step in seen} == {1, -1}


def test_windows_are_resized_linearly():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 9, 1)).astype("float32")
    starts, sizes = (
        np.array([[1.0, 2.5], [0.0, 3.0]]),
        np.array([[6.0, 5.0], [9.0, 4.5]]),
    )
    mirrored = np.array([0.0, 1.0])
    given = (
        ops.convert_to_tensor(each, "float32") for each in (x, starts, sizes, mirrored)
    )
    found = augmentation.windows(*given, 4, outside=False)

    def at(image, row, column):
        """Linear between the four pixels around; the border is repeated."""
        row, column = np.clip(row, 0, 8), np.clip(column, 0, 8)
        up, left = min(int(row), 7), min(int(column), 7)
        down, right = row - up, column - left
        return (
            image[up, left] * (1 - down) * (1 - right)
            + image[up + 1, left] * down * (1 - right)
            + image[up, left + 1] * (1 - down) * right
            + image[up + 1, left + 1] * down * right
        )

    for number in range(2):
        for i in range(4):
            for j in range(4):
                place = 3 - j if mirrored[number] else j
                row, column = (
                    starts[axis, number] + (index + 0.5) * sizes[axis, number] / 4 - 0.5
                    for axis, index in ((0, i), (1, place))
                )
                expected = at(x[number, :, :, 0], row, column)
                assert float(found[number, i, j, 0]) == pytest.approx(
                    expected, abs=1e-5
                )


def test_crops_have_the_published_areas_and_evaluation_the_middle():
    layer = augmentation.RandomResizedCrop(4, seed=0)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(x)), x[:, 2:6, 2:6], atol=1e-6
    )
    assert layer(x, training=True).shape == (2, 4, 4, 3)
    assert layer.scale == (0.08, 1.0)
    assert layer.ratio == (3 / 4, 4 / 3)


@pytest.mark.parametrize(
    "layer",
    [augmentation.RandomShift(2), augmentation.RandomResizedCrop(6)],
    ids=lambda layer: layer.name,
)
def test_it_runs_in_the_compiled_step(layer):
    pooled = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((8, 8, 3)), layer, *pooled])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(12, 8, 8, 3)).astype("float32")
    # The last batch is a smaller one.
    history = model.fit(x, x[:, 0, 0, :2], batch_size=8, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert model.predict(x, verbose=0).shape == (12, 2)
