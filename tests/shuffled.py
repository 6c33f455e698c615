"""A plugin that runs modules, and the tests of each, in another order every time.

`make test ARGS="-p tests.shuffled"` prints a number; with `SHUFFLE=number` before it,
it runs the same order again.
"""

import os
import random

# In the environment, so that the workers of pytest-xdist have the same.
SEED = os.environ.setdefault("SHUFFLE", str(random.randrange(1_000_000)))


def pytest_terminal_summary(terminalreporter):
    """Says how to repeat the order, also with `-q`."""
    terminalreporter.write_line(f"shuffled: SHUFFLE={SEED}")


def pytest_collection_modifyitems(items):
    """Shuffles them."""
    draw, modules = random.Random(SEED), {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    order = list(modules.values())
    draw.shuffle(order)
    for tests in order:
        draw.shuffle(tests)
    items[:] = [item for tests in order for item in tests]
