"""Looks after the folders that callbacks write to."""

from keras_lrs.checkpoints.folder import File, files, prune, rebuild, verify

__all__ = ["File", "files", "prune", "rebuild", "verify"]
