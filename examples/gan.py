"""Trains a GAN on handwritten digits: two optimizers, schedules and an average.

The model holds an optimizer for each of its networks, and is compiled with none. Both
rates fall to 0 within `fit`, and the weights of the generator alone are averaged in the
compiled step. The program prints how far the means and covariances of generated digits
are from those of real ones (Fréchet distance of the pixels): for the last weights and
for the average.

    python examples/gan.py --epochs 100

Needs scikit-learn and SciPy, and TensorFlow or PyTorch: on JAX, Keras's `fit` trains
with one optimizer.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import program

LATENT = 16


def load_digits():
    """1,797 images of 8 by 8, as vectors from -1 to 1."""
    from sklearn import datasets

    return (datasets.load_digits().data / 8.0 - 1.0).astype("float32")


def make_gan():
    """The model, with both networks and their optimizers built."""
    import keras
    from keras import ops

    def network(width, outputs, activation):
        return keras.Sequential(
            [
                keras.Input((width,)),
                keras.layers.Dense(128),
                keras.layers.LeakyReLU(),
                keras.layers.Dense(128),
                keras.layers.LeakyReLU(),
                keras.layers.Dense(outputs, activation=activation),
            ]
        )

    class GAN(keras.Model):
        def __init__(self):
            super().__init__()
            self.generator = network(LATENT, 64, "tanh")
            self.discriminator = network(64, 1, None)
            self.noise = keras.random.SeedGenerator(0)

        def call(self, latent):
            return self.discriminator(self.generator(latent))

        def train_step(self, real):
            def discriminator_loss(latent):
                fake = self.discriminator(self.generator(latent))
                return ops.mean(
                    ops.softplus(fake) + ops.softplus(-self.discriminator(real))
                )

            def generator_loss(latent):
                return ops.mean(ops.softplus(-self(latent)))

            found = {}
            for name, loss_of in (
                ("discriminator", discriminator_loss),
                ("generator", generator_loss),
            ):
                latent = keras.random.normal(
                    (ops.shape(real)[0], LATENT), seed=self.noise
                )
                variables = getattr(self, name).trainable_variables
                loss, gradients = value_and_gradients(self, loss_of, latent, variables)
                optimizer = getattr(self, f"{name}_optimizer")
                optimizer.apply(gradients, variables)
                found[name] = loss
            return found

    gan = GAN()
    gan(ops.zeros((1, LATENT)))
    gan.compile(optimizer=None)
    for name in ("discriminator", "generator"):
        optimizer = keras.optimizers.Adam(2e-4, beta_1=0.5)
        optimizer.build(getattr(gan, name).trainable_variables)
        setattr(gan, f"{name}_optimizer", optimizer)
    return gan


def value_and_gradients(model, loss_of, latent, variables):
    """The loss and its gradients, on TensorFlow or PyTorch."""
    import keras

    if keras.backend.backend() == "torch":
        model.zero_grad()
        loss = loss_of(latent)
        loss.backward()
        return loss.detach(), [variable.value.grad for variable in variables]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = loss_of(latent)
    return loss, tape.gradient(loss, variables)


def distance(real, generated):
    """The squared Fréchet distance of two normal distributions with these moments."""
    import numpy as np
    from scipy import linalg

    (mean, cov), (other_mean, other_cov) = (
        (x.mean(0), np.cov(x.T) + 1e-6 * np.eye(x.shape[1])) for x in (real, generated)
    )
    root = np.real(linalg.sqrtm(cov @ other_cov))
    return float(
        np.sum((mean - other_mean) ** 2) + np.trace(cov + other_cov - 2.0 * root)
    )


def train(epochs, seed=0):
    """The distances after training, of the last weights and of the average."""
    import keras
    import numpy as np

    from keras_lrs import averages
    from keras_lrs import schedules as S  # noqa: N812
    from keras_lrs.callbacks import (
        HyperparameterLogger,
        HyperparameterScheduler,
        WeightAveraging,
    )

    keras.utils.set_random_seed(seed)
    real, gan = load_digits(), make_gan()
    rates = {
        "discriminator_optimizer": S.LinearDecay(1e-3),
        "generator_optimizer": S.LinearDecay(5e-4),
    }
    average = WeightAveraging(
        averages.ExponentialAverage(0.995),
        at_end="raw",
        optimizers="generator_optimizer",
    )
    gan.fit(
        real,
        batch_size=64,
        epochs=epochs,
        verbose=0,
        callbacks=[
            HyperparameterScheduler(learning_rate=rates),
            HyperparameterLogger(),
            average,
        ],
    )
    latent = np.random.default_rng(seed).normal(size=(len(real), LATENT))

    def measure():
        return distance(real, gan.generator.predict(latent, verbose=0))

    last = measure()
    average.swap_in()
    averaged = measure()
    average.swap_out()
    return last, averaged


def main(arguments=None):
    """Trains with several seeds and prints the distances."""
    parser = program.base_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3, help="runs of everything")
    options = program.parse(parser, arguments)
    found = [train(options.epochs, seed) for seed in range(options.seeds)]
    print(f"Fréchet distance of the pixels after {options.epochs} epochs:")
    last, averaged = zip(*found, strict=True)
    for name, runs in (("last weights", last), ("average", averaged)):
        print(f"{name:>12}: {program.spread(runs)}")


if __name__ == "__main__":
    main()
