"""Functions that list, verify, rebuild and prune the folders of callbacks."""

from keras_lrs.checkpoints.folder import File, files, prune, rebuild, verify

__all__ = ["File", "files", "prune", "rebuild", "verify"]
