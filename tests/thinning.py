"""Which tests, and which of their parameters, run on a backend."""

import hashlib

import pytest

BACKENDS = ("tensorflow", "jax", "torch")
# The cheapest backend runs every parameter.
WHOLE = "torch"

collected = pytest.StashKey[list]()


def function(item):
    """The name of a test without its parameters."""
    return item.nodeid.partition("[")[0]


def runs_on(item, backend):
    """Whether a test is one of this backend."""
    only = item.get_closest_marker("only")
    return only is None or only.args == (backend,)


def is_quick(item):
    """Whether a test is one for every change."""
    return not any(map(item.get_closest_marker, ("program", "slow")))


def one_of_each(items):
    """Keeps one set of parameters of each function, and all of `every_backend`.

    The choice is by a hash of the name, so it is the same in every run, and functions
    with the same parameters choose different ones.
    """

    def is_whole(item):
        return item.get_closest_marker("every_backend") is not None

    chosen = {}
    for item in sorted(items, key=_rank):
        chosen.setdefault(function(item), item)
    return [item for item in items if is_whole(item) or chosen[function(item)] is item]


def _rank(item):
    return hashlib.sha256(item.nodeid.encode()).digest()


def asks_for_all(config):
    """Whether files or tests are named."""
    named = any("::" in name or name.endswith(".py") for name in config.args)
    return named or bool(config.option.keyword)
