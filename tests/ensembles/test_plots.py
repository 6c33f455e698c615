"""The pictures show what NumPy computes."""

import sys

import numpy as np
import pytest

from keras_lrs import ensembles
from tests.ensembles.test_ensemble import data, ensemble_of, mlp


def test_disagreement_is_the_share_of_different_classes():
    rng = np.random.default_rng(0)
    outputs = rng.uniform(size=(4, 50, 3))
    found = ensembles.disagreement(outputs)
    for i in range(4):
        for j in range(4):
            share = np.mean(outputs[i].argmax(1) != outputs[j].argmax(1))
            assert found[i, j] == pytest.approx(share)


def test_disagreement_of_numbers_is_their_distance():
    outputs = np.array([[[1.0], [2.0]], [[4.0], [6.0]]])
    distance = np.sqrt((3.0**2 + 4.0**2) / 2)
    expected = [[0.0, distance], [distance, 0.0]]
    np.testing.assert_allclose(ensembles.disagreement(outputs), expected)


def test_sizes_are_of_the_last_members(tmp_path):
    ensemble, x = ensemble_of(mlp(), 4), data("mlp")
    y = np.random.default_rng(0).integers(0, 3, len(x))
    path = tmp_path / "sizes.png"
    figure = ensembles.plot_sizes(ensemble, x, y, path=path, verbose=0)
    together, alone = figure.axes[0].lines
    outputs = ensemble.predict_members(x, verbose=0)
    for m in range(1, 5):
        accuracy = np.mean(outputs[-m:].mean(0).argmax(1) == y)
        assert together.get_ydata()[m - 1] == pytest.approx(accuracy)
        single = np.mean(outputs[-m].argmax(1) == y)
        assert alone.get_ydata()[m - 1] == pytest.approx(single)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_matrix_of_disagreement():
    ensemble, x = ensemble_of(mlp()), data("mlp")
    figure = ensembles.plot_disagreement(ensemble, x, verbose=0)
    expected = ensembles.disagreement(ensemble.predict_members(x, verbose=0))
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), expected)
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["10", "20", "30"]


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="`plot_disagreement` needs matplotlib"):
        ensembles.plot_disagreement(ensemble_of(mlp()), data("mlp"))
