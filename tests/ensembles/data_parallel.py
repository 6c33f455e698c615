"""Snapshots on two host devices; in a process whose `XLA_FLAGS` make them."""

import keras

from tests.ensembles import mirrored


def main():
    import jax

    assert jax.device_count() == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    mirrored.check(mirrored.network())
