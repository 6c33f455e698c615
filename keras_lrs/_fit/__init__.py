"""A run of `model.fit`, as the callbacks of this package share it."""
