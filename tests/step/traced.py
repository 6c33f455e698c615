"""What a step is compiled to: the names of all its operations."""

import keras
import numpy as np

FEATURES, CLASSES, BATCH = 5, 2, 4


def network(optimizer, layers):
    """Dense layers, of two variables each; without XLA, so that graphs are told."""
    hidden = [keras.layers.Dense(3, activation="relu") for _ in range(layers - 1)]
    model = keras.Sequential(
        [keras.Input((FEATURES,)), *hidden, keras.layers.Dense(CLASSES)]
    )
    options = {"jit_compile": False} if is_tensorflow() else {}
    model.compile(optimizer, "mse", **options)
    return model


def is_tensorflow():
    return keras.backend.backend() == "tensorflow"


class Spy(keras.callbacks.Callback):
    """Stands around the compiled function of a fit; is the last of its callbacks."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    def on_epoch_begin(self, epoch, logs=None):
        # Ours has the compiled one, which runs while its steps are installed.
        owner, name = self.model.train_function, "function"
        if type(owner).__module__.partition(".")[0] != "keras_lrs":
            owner, name = self.model, "train_function"
        function = getattr(owner, name)
        self.restore = owner, name, function
        setattr(owner, name, lambda *arguments: self.look(function, *arguments))

    def on_epoch_end(self, epoch, logs=None):
        setattr(*self.restore)


def train(model, callbacks, steps=2, epochs=1):
    """Trains on a few batches of random data."""
    size = steps * BATCH
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, FEATURES)).astype("float32")
    y = rng.normal(size=(size, CLASSES)).astype("float32")
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=callbacks)


def operations(model, callbacks=(), steps=2):
    """The names of the operations of a step: TensorFlow's nodes, or JAX's equations."""
    found = []

    def look(function, *arguments):
        *state, iterator = arguments
        batches = [next(iterator)]
        if is_tensorflow():
            graph = graph_of(lambda: function(batches))
            nodes = [graph.node, *(inner.node_def for inner in graph.library.function)]
            names = [node.op for some in nodes for node in some]
        else:
            jaxpr = jaxpr_of(lambda given: function(given, iter(batches)), *state)
            names = [equation.primitive.name for equation in equations(jaxpr)]
        result = function(*state, iter(batches))
        found.append(names)
        return result

    train(model, [*callbacks, Spy(look)], steps)
    assert found[0] == found[-1]  # Every step is the same one.
    return found[-1]


def graph_of(function):
    """The graph of a TensorFlow function, and those of the functions in it."""
    import tensorflow as tf

    traced = tf.function(function, autograph=False).get_concrete_function()
    return traced.graph.as_graph_def()


def jaxpr_of(function, *arguments):
    """The jaxpr of a JAX function."""
    import jax

    return jax.make_jaxpr(function)(*arguments).jaxpr


def equations(jaxpr):
    """All equations, those of inner jaxprs included."""
    from jax.extend.core import jaxprs_in_params

    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)
