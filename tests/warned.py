"""Warnings of ours among those of backends."""

import contextlib
import re
import warnings


@contextlib.contextmanager
def warns(match):
    """As `pytest.warns`, which raises what the filters ignore of backends."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    ours = [str(w.message) for w in caught if w.category is UserWarning]
    assert any(re.search(match, message) for message in ours), ours
