"""Runs the published claims that the library's examples reproduce, and judges them.

    python examples/claims
    python examples/claims --resume
    python examples/claims --rows speed-of-1cycle --data mnist1d
    python examples/claims --data path/to/data.npz --output /tmp/evidence.md
    python examples/claims --quick

The page says what was claimed, what was run, what came out, and the outcome:
yes, no, or cannot be told. None of it is typed: the verdicts are computed from the
runs, which are kept in folders beside the page (`docs/evidence`), one for each data
set, as are the figures.

The runs are jobs, which two processes share. Each job is kept when it is done (in
`runs/claims`); `--resume` runs only those that are missing. `--rows` runs what these
rows need, and takes the others from beside the page. `--data` names data sets, or files
with `x_train`, `y_train`, `x_test` and `y_test`, whose shapes and classes are read.
`--quick` has two seeds and few budgets, and writes a page of its own in `runs/claims`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # The other examples.

from claims.command import main

if __name__ == "__main__":
    main(description=__doc__)
