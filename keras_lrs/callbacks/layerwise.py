"""`layerwise_decay`: multipliers of the rate that fall from the head down."""

import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_lrs.schedules import fields
from keras_lrs.schedules.per_variable import PerVariable


def layerwise_decay(
    model: keras.Model, factor: float, blocks: Sequence[str] | None = None
) -> dict[str, float]:
    r"""Returns multipliers of the learning rate that fall from the head down.

    `multiplier = factor ** depth`

    The depth is 0 at the head, 1 in the block before it, and so on. Use it to fine-tune
    a pre-trained model. Layers near the input are the most general, and need to change
    the least.

    Args:
        model: A built model.
        factor: The factor of the rate from block to block, in (0, 1]. Values from 0.65
            to 0.9 suit transformers.
        blocks: Regular expressions that are searched for in the paths of variables, in
            the order from the input to the head. An expression with a group of digits,
            such as `r"block(\d+)/"`, stands for one block per number, in the numbers'
            order. A variable belongs to the first expression that matches. None makes
            each layer with weights a block, in the model's order, including the layers
            of nested models.

    Returns:
        A dictionary from patterns to numbers, for the argument `rate_multipliers` of
        `HyperparameterScheduler`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built or has no trainable weights, if an
            argument is out of range, if a variable is in no block or a block has no
            variable, if a group matches no number, or if variables with equal paths
            belong to different blocks.

    Example:
        >>> import keras
        >>> from keras_lrs import layerwise_decay
        >>> layers = [keras.layers.Dense(2, name=f"block{i}") for i in range(2)]
        >>> head = keras.layers.Dense(1, name="head")
        >>> model = keras.Sequential([keras.Input((3,)), *layers, head], name="net")
        >>> layerwise_decay(model, 0.5)
        {'^net/head/': 1.0, '^net/block1/': 0.5, '^net/block0/': 0.25}
        >>> layerwise_decay(model, 0.5, [r"block(\d+)/", "(^|/)head/"])
        {'block1/': 0.5, 'block0/': 0.25, '/head/': 1.0}

    Reference: `layer_decay` of BEiT (Bao et al., 2021, arXiv:2106.08254) and of timm;
    Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification",
    2018, arXiv:1801.06146, section 3.2.
    """
    fields.model("model", model)
    factor = fields.validate("factor", factor, fields.number(above=0.0, at_most=1.0))
    if not model.trainable_variables:
        fields.refuse("model", "have trainable weights", model)
    if blocks is None:
        found = _by_layers(model)
    else:
        found = _by_patterns(model, _checked(blocks))
    depths = {key: depth for depth, key in enumerate(sorted(found, reverse=True))}
    # Patterns are searched in this order, so `block10` must come before `block1`.
    order = sorted(found, key=lambda key: (key[0], -key[1]))
    result = {
        pattern: factor ** depths[key]
        for key in order
        for pattern in dict.fromkeys(pattern for _, pattern in found[key])
    }
    decided = PerVariable(tuple(result.items()))
    for key, block in found.items():
        for path, _ in block:
            other = decided.pattern_of(path)
            if other is None or result[other] != factor ** depths[key]:
                raise ValueError(
                    f"Argument `model`: the variable {path!r} cannot be distinguished "
                    f"from those of another block, which {other!r} also matches. Give "
                    "layers different names, or `blocks` that distinguish them, such "
                    "as '(^|/)head/'."
                )
    return result


def _checked(blocks):
    constraint = "be a list of regular expressions"
    patterns = fields.items("blocks", blocks, constraint)
    if not patterns:
        fields.refuse("blocks", constraint, blocks)
    for pattern in patterns:
        if not isinstance(pattern, str):
            fields.refuse("blocks", constraint, pattern, TypeError)
        try:
            re.compile(pattern)
        except re.error as error:
            fields.refuse("blocks", f"{constraint} ({error})", pattern)
    return patterns


# A block lists the paths of its variables, each with a pattern that matches it. Its key
# holds the index of the pattern in `blocks` and the number that it matched.
_Blocks = dict[tuple[int, int], list[tuple[str, str]]]


def _by_layers(model: Any) -> _Blocks:
    """Makes a block of each layer that has weights."""
    blocks: _Blocks = {}
    seen: set[int] = set()
    for layer in _leaves(model):
        new = [v for v in layer.trainable_variables if id(v) not in seen]
        seen.update(map(id, new))
        if new:
            folder = _folder([v.path for v in new])
            paths = [(v.path, f"^{re.escape(folder)}") for v in new]
            blocks[0, len(blocks)] = paths
    rest = [v for v in model.trainable_variables if id(v) not in seen]
    if rest:
        raise ValueError(
            "Argument `model` has variables outside of its layers, whose depth is not "
            "known. Give `blocks`. Received: "
            f"{', '.join(variable.path for variable in rest)}"
        )
    return blocks


def _leaves(model):
    """Yields the layers of a model, including those of nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _folder(paths):
    """Returns the longest common prefix of paths that ends with a slash."""
    folders = [path.split("/")[:-1] for path in paths]
    shared = []
    for names in zip(*folders, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return "".join(f"{name}/" for name in shared)


def _by_patterns(model: Any, patterns: tuple[str, ...]) -> _Blocks:
    """Makes blocks of the variables that the patterns match."""
    PerVariable(tuple((pattern, 1.0) for pattern in patterns)).check_paths(
        "blocks", [variable.path for variable in model.trainable_variables]
    )
    found: _Blocks = {}
    for variable in model.trainable_variables:
        path = variable.path
        matches = ((i, re.search(p, path)) for i, p in enumerate(patterns))
        index, match = next(((i, m) for i, m in matches if m), (0, None))
        if match is None:
            raise ValueError(
                "Argument `blocks` must have a pattern for every trainable variable. "
                f"None matches {path!r}. Received: blocks={list(patterns)!r}"
            )
        numbers = [int(text) for text in match.groups("") if text.isdecimal()]
        number = numbers[0] if numbers else -1
        begins = "" if match.start() else "^"
        block = found.setdefault((index, number), [])
        block.append((path, begins + re.escape(match.group())))
    for index, number in found:
        if number < 0 and any(i == index and n >= 0 for i, n in found):
            raise ValueError(
                f"Argument `blocks`: the group of {patterns[index]!r} must find a "
                f"number in every variable. Received: {found[index, number][0][0]!r}"
            )
    return found
