"""Ensembles of the snapshots of one training."""

from keras_lrs.ensembles.ensemble import Ensemble, Member, load

__all__ = [
    "Ensemble",
    "Member",
    "load",
]
