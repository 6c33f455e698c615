"""`PerVariable` is a value, and `layerwise_decay` the multipliers of BEiT and timm."""

import json

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs import PerVariable, layerwise_decay

S = lrs.schedules
RATES = {"(^|/)embed/": 0, r"block(\d+)/": S.LinearDecay(0.1), "x": S.Constant(2.0)}


class TestTheValue:
    def test_equal_ones_are_equal_and_have_one_hash(self):
        one, other = PerVariable(RATES), PerVariable(dict(RATES))
        assert one == other
        assert hash(one) == hash(other)
        assert one != PerVariable({**RATES, "x": S.Constant(3.0)})
        assert one != PerVariable(dict(reversed(RATES.items())))
        assert PerVariable(one) == one

    def test_it_is_printed_as_it_is_made(self):
        names = {name: getattr(S, name) for name in S.__all__}
        value = PerVariable(RATES)
        assert eval(repr(value), names) == value
        assert (
            repr(PerVariable({"a": 1, "b": 0.5})) == "PerVariable({'a': 1.0, 'b': 0.5})"
        )

    def test_it_survives_json_whose_keys_are_sorted(self):
        value = PerVariable({"z": 0.5, **RATES})
        config = json.loads(json.dumps(value.get_config(), sort_keys=True))
        assert PerVariable.from_config(config) == value
        config = keras.saving.serialize_keras_object(value)
        text = json.dumps(config, sort_keys=True)
        assert keras.saving.deserialize_keras_object(json.loads(text)) == value

    def test_schedules_of_keras_are_values_too(self):
        make = keras.optimizers.schedules.ExponentialDecay
        one, other = (PerVariable({"a": make(0.1, 10, 0.5)}) for _ in range(2))
        assert one == other
        assert PerVariable.from_config(one.get_config()) == one

    def test_it_does_not_change(self):
        value = PerVariable(RATES)
        with pytest.raises(AttributeError):
            value.values = ()

    def test_the_first_pattern_that_is_found_decides(self):
        value = PerVariable({"late/kernel": 0.1, "late": 0.2, "bias$": 0.3})
        assert value.patterns == ("late/kernel", "late", "bias$")
        assert value.pattern_of("net/late/kernel") == "late/kernel"
        assert value.pattern_of("net/late/bias") == "late"
        assert value.pattern_of("net/early/bias") == "bias$"
        assert value.pattern_of("net/early/bias_2") is None

    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            (0.1, TypeError, "`values` must map regular expressions to"),
            ({}, ValueError, "`values` must map regular expressions to"),
            ([("a", 1.0, 2.0)], TypeError, "`values` must map"),
            ([("a", 1.0), ("a", 2.0)], ValueError, "each pattern once"),
            (
                {1: 0.1},
                TypeError,
                "regular expressions as its keys. Received: values=1",
            ),
            ({"(": 0.1}, ValueError, r"regular expressions as its keys \(.+\). .*'\('"),
            ({"a": "b"}, TypeError, r"`values\['a'\]` must be a number"),
            ({"a": -0.1}, ValueError, r"`values\['a'\]` must be >= 0"),
            ({"a": float("nan")}, ValueError, r"`values\['a'\]` must be finite"),
            ({"a": None}, TypeError, r"`values\['a'\]` must be a number"),
        ],
    )
    def test_what_is_refused(self, given, error, message):
        with pytest.raises(error, match=message):
            PerVariable(given)


def transformer(blocks=3, head="head"):
    """A model in which each block is one layer; its numbers are not in their order."""

    class Block(keras.layers.Layer):
        def __init__(self, name):
            super().__init__(name=name)
            self.dense = keras.layers.Dense(2, name="dense")
            self.norm = keras.layers.LayerNormalization(name="norm")

        def build(self, shape):
            self.norm.build(shape)
            self.dense.build(shape)

        def call(self, inputs):
            return self.dense(self.norm(inputs))

    layers = [
        keras.layers.Dense(2, name="embed"),
        *(Block(name=f"block_{i}") for i in range(blocks)),
        keras.layers.LayerNormalization(name="norm"),
        keras.layers.Dense(1, name=head),
    ]
    return keras.Sequential([keras.Input((2,)), *layers], name="vit-b")


BLOCKS = ["(^|/)embed/", r"block_(\d+)/", "(^|/)(norm|head)/"]


def multipliers(model, found):
    """The multiplier of each variable, by the name of its layer."""
    given = dict(found)
    decided = PerVariable(found)
    return {
        variable.path.split("/", 1)[1]: given[decided.pattern_of(variable.path)]
        for variable in model.trainable_variables
    }


class TestLayerwiseDecay:
    def test_multipliers_are_powers_of_the_depth(self):
        model = transformer(12)
        found = multipliers(model, layerwise_decay(model, 0.75, BLOCKS))
        for path, multiplier in found.items():
            layer = path.split("/")[0]
            # BEiT: 0 for the embedding, 1 + number for a block, the rest at the top.
            beit = {"embed": 0, "norm": 13, "head": 13}
            layer_id = beit.get(layer) if layer in beit else int(layer[6:]) + 1
            assert multiplier == pytest.approx(0.75 ** (13 - layer_id)), path

    def test_blocks_above_the_ninth_are_in_the_order_of_numbers(self):
        model = transformer(12)
        found = layerwise_decay(model, 0.5, BLOCKS)
        assert list(found) == [
            "/embed/",
            *(rf"block_{i}/" for i in reversed(range(12))),
            "/norm/",
            "/head/",
        ]

    def test_a_pattern_that_is_found_in_the_text_of_others(self):
        model = transformer(12)
        # Without a slash, "block_1" is in "block_10" as well.
        blocks = ["embed", r"block_(\d+)", "norm|head"]
        found = multipliers(model, layerwise_decay(model, 0.75, blocks))
        assert found == multipliers(model, layerwise_decay(model, 0.75, BLOCKS))

    def test_without_blocks_each_layer_is_one(self):
        model = transformer(2)
        found = layerwise_decay(model, 0.5)
        assert list(found.values()) == [0.5**i for i in range(5)]
        assert next(iter(found)) == r"^vit\-b/head/"
        of_layers = multipliers(model, found)
        assert (
            of_layers["block_1/dense/kernel"] == of_layers["block_1/norm/beta"] == 0.25
        )

    def test_models_in_models_are_entered(self):
        inputs = keras.Input((2,))
        inner = keras.Sequential(
            [keras.Input((2,)), *(keras.layers.Dense(2, name=n) for n in "ab")],
            name="inner",
        )
        outputs = keras.layers.Dense(1, name="head")(inner(inputs))
        model = keras.Model(inputs, outputs)
        found = {"^head/": 1.0, "^inner/b/": 0.5, "^inner/a/": 0.25}
        assert layerwise_decay(model, 0.5) == found

    def test_layers_without_weights_are_not_counted(self):
        layers = [keras.layers.Dense(2), keras.layers.ReLU(), keras.layers.Dense(1)]
        layers[1].trainable = False
        model = keras.Sequential([keras.Input((2,)), *layers])
        assert list(layerwise_decay(model, 0.5).values()) == [1.0, 0.5]

    def test_it_trains(self):
        model = transformer(1)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        found = layerwise_decay(model, 0.5, BLOCKS)
        callback = lrs.callbacks.HyperparameterScheduler(rate_multipliers=found)
        x = np.ones((4, 2), "float32")
        model.fit(x, x[:, :1], verbose=0, callbacks=[callback])
        patterns = callback.bound["rate_multipliers"].patterns
        assert patterns == tuple(found)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"factor": 0.0}, ValueError, "`factor` must be > 0"),
            ({"factor": 1.5}, ValueError, "`factor` must be <= 1"),
            ({"factor": "0.5"}, TypeError, "`factor` must be a number"),
            ({"blocks": "block"}, TypeError, "`blocks` must be a list of regular"),
            ({"blocks": []}, ValueError, "`blocks` must be a list of regular"),
            ({"blocks": [1]}, TypeError, "`blocks` must be a list of regular"),
            ({"blocks": ["("]}, ValueError, "`blocks` must be a list of regular"),
            ({"blocks": ["block"]}, ValueError, r"None matches 'vit-b/embed"),
            (
                {"blocks": [r"/(?:block_(\d+)|[a-z])"]},
                ValueError,
                "must find a number in every",
            ),
            ({"blocks": [*BLOCKS, "nose"]}, ValueError, "'nose' matches no trainable"),
            ({"blocks": [*BLOCKS, "head"]}, ValueError, "first match decides"),
            ({"model": 1}, TypeError, "`model` must be a `keras.Model`"),
            ({"model": keras.Sequential([])}, ValueError, "built `keras.Model`"),
        ],
    )
    def test_what_is_refused(self, arguments, error, message):
        given = {"model": transformer(1), "factor": 0.5, **arguments}
        with pytest.raises(error, match=message):
            layerwise_decay(**given)

    def test_variables_that_cannot_be_told_apart(self):
        inputs = keras.Input((2,))
        inner = keras.layers.Dense(2, name="dense")(inputs)
        inner = keras.Model(inputs, inner, name="inner")
        outputs = keras.layers.Dense(1, name="dense")(inner(inputs))
        model = keras.Model(inputs, outputs)
        with pytest.raises(ValueError, match="'dense/kernel' cannot be distinguished"):
            layerwise_decay(model, 0.5)

    def test_a_model_without_weights(self):
        model = keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])
        with pytest.raises(ValueError, match="have trainable weights"):
            layerwise_decay(model, 0.5)

    def test_a_digit_that_is_no_number_is_text(self):
        """`"²".isdigit()` is true, and `int("²")` raises an error."""
        layers = [keras.layers.Dense(1, name=name) for name in ("stage²", "head")]
        model = keras.Sequential([keras.Input((2,)), *layers])
        found = layerwise_decay(model, 0.5, ["stage(.)", "head"])
        assert list(multipliers(model, found).values()) == [0.5, 0.5, 1.0, 1.0]
