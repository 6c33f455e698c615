"""Which tests, and which of their parameters, run on a backend."""

import collections
import hashlib
import math

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


def thinned(items):
    """Keeps one set of parameters of each function that another backend runs whole.

    None is kept of programs and of what is slow. `every_backend` keeps all of them,
    `every_backend(3)` three, and `only` all, which no other backend runs. The choice is
    by a hash of the name, so it is the same in every run, and functions with the same
    parameters choose different ones.
    """
    counts = collections.Counter()
    kept = set()
    for item in sorted(items, key=_rank):
        counts[function(item)] += 1
        if counts[function(item)] <= _most(item):
            kept.add(item)
    return [item for item in items if item in kept]


def ordered(items):
    """Files with slow tests first: at the end, other workers would wait for them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    return sorted(items, key=lambda item: item.path not in slow)


def _most(item):
    """How many sets of parameters a backend runs of a test that another runs whole."""
    if item.get_closest_marker("only") is not None:
        return math.inf
    marker = item.get_closest_marker("every_backend")
    if marker is None:
        return 1 if is_quick(item) else 0
    return marker.args[0] if marker.args else math.inf


def _rank(item):
    return hashlib.sha256(item.nodeid.encode()).digest()


def asks_for_all(config):
    """Whether files or tests are named."""
    named = any("::" in name or name.endswith(".py") for name in config.args)
    return named or bool(config.option.keyword)
