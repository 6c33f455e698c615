"""Ensembles of the snapshots of one training run."""

from keras_lrs.ensembles.ensemble import Ensemble, Member
from keras_lrs.ensembles.loading import load
from keras_lrs.ensembles.plots import disagreement, plot_disagreement, plot_sizes

__all__ = [
    "Ensemble",
    "Member",
    "disagreement",
    "load",
    "plot_disagreement",
    "plot_sizes",
]
