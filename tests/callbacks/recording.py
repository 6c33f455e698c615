"""What a training does, step by step."""

import keras
import numpy as np


class Record(keras.callbacks.Callback):
    """All weights after each step."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append([np.array(w) for w in self.model.get_weights()])
