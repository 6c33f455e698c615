"""One of two workers on this machine; in a process with a `TF_CONFIG`.

Keras 3 cannot `fit` under `MultiWorkerMirroredStrategy` (keras#20585): it fails before
any callback is asked. A training loop of one's own can, and our schedules and
`ScheduleFree` do in it what they do on one device.
"""

import keras
import numpy as np
import pytest

from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.optimizers import ScheduleFree
from tests.callbacks import references


def main():
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.num_replicas_in_sync == 2
    rate = S.Warmup(S.CosineAnnealing(0.1, 16), 4)

    def optimizers():
        return {
            "sgd": keras.optimizers.SGD(rate, momentum=0.9),
            "free": ScheduleFree(keras.optimizers.SGD(rate)),
        }

    with strategy.scope():
        models = {n: references.linear_model(o) for n, o in optimizers().items()}
    for name, optimizer in optimizers().items():
        alone = references.linear_model(optimizer)
        model = models[name]

        def update(model=model):
            (weights,) = model.trainable_variables
            model.optimizer.apply([weights - 1.0], [weights])

        step = tf.function(lambda update=update: strategy.run(update))
        for _ in range(20):
            # The strategy adds the gradients of the two workers.
            step()
            (weights,) = alone.trainable_variables
            optimizer.apply([2.0 * (weights - 1.0)], [weights])
        found = strategy.experimental_local_results(model.trainable_variables[0].value)
        expected = alone.get_weights()[0]
        np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="PerReplica"):
        models["sgd"].fit(references.X, references.Y, verbose=0, shuffle=False)
