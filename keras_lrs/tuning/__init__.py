"""Ways to choose the learning rate."""

from keras_lrs.tuning.batch_size import scale_learning_rate

__all__ = ["scale_learning_rate"]
