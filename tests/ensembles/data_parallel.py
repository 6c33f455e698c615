"""Snapshots on two host devices; run as a program, with `XLA_FLAGS` that make them."""

import keras

from tests.ensembles import mirrored


def main():
    import jax

    assert jax.device_count() == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    mirrored.check(mirrored.network())


if __name__ == "__main__":
    main()
