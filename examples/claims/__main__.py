"""Runs the published claims that the library's examples reproduce, and judges them.

    python examples/claims
    python examples/claims --rows speed-of-1cycle --seeds 20
    python examples/claims --resume
    python examples/claims --quick --output /tmp/evidence.md

The page says what was claimed, what was run, what came out, and whether the claim holds
here. None of it is typed: the verdicts are computed from the runs, which are kept in a
folder beside the page (`docs/evidence`), as is a figure for each experiment.

Every experiment writes its results when it is done. `--resume` goes on where a killed
run stopped: it leaves out what has results of the same size; with all of them it only
writes the page again. `--rows` runs the experiments of these rows, and takes the others
from the folder.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # The other examples.

from claims.page import main

if __name__ == "__main__":
    main(description=__doc__)
