"""Tests that the example of a GAN trains both networks and reports distances."""

import re

import keras
import numpy as np
import pytest

from tests.programs import load_program

pytestmark = [
    pytest.mark.only("torch"),
    pytest.mark.program,
    pytest.mark.skipif(
        keras.backend.backend() == "jax", reason="two optimizers are refused there"
    ),
]

gan = load_program("examples/gan")


def test_prints_the_distances_of_both(capsys):
    gan.main(["--epochs", "2", "--seeds", "2"])
    printed = capsys.readouterr().out
    rows = re.findall(r"^ *(last weights|average): [\d.]+ ± [\d.]+$", printed, re.M)
    assert rows == ["last weights", "average"]


def test_the_distance_is_that_of_normal_distributions():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 3))
    assert gan.distance(x, x) == pytest.approx(0.0, abs=1e-5)
    # A shift by (1, 2, 2), and three times the standard deviation.
    assert gan.distance(x, x + np.array([1.0, 2.0, 2.0])) == pytest.approx(
        9.0, abs=1e-5
    )
    variance = np.trace(np.cov(x.T))
    scaled = x.mean(0) + 3.0 * (x - x.mean(0))
    assert gan.distance(x, scaled) == pytest.approx(4.0 * variance, rel=1e-4)


def test_both_networks_train():
    model = gan.make_gan()
    before = [w.copy() for w in model.get_weights()]
    model.fit(gan.load_digits()[:128], batch_size=64, verbose=0)
    after = model.get_weights()
    assert all(np.any(a != b) for a, b in zip(after, before, strict=True))
