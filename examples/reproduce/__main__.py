"""Runs a recipe of one of the five sources at its full size, for a GPU.

    python examples/reproduce tutorial_vit
    python examples/reproduce rex --budgets 1 5
    python examples/reproduce one_cycle --mixed-precision bfloat16
    python examples/reproduce snapshots --data cifar100
    python examples/reproduce texp
    python examples/reproduce imagenet_steps --data path/to/imagenet
    python examples/reproduce rex --resume
    python examples/reproduce rex --quick

Architectures, batch sizes, schedules and lengths are those of the publications, which
`python examples/reproduce rex --help` names. At the end a table stands beside the
published numbers, in the folder `--directory` (`runs/reproduce/rex`) as `table.md`, and
all that was measured as `results.json`.

All state is in that folder, too: after an interruption the same call with `--resume`
skips what is finished and resumes the other run at its last completed epoch.
`--log-dir` writes the logs of TensorBoard. Images are moved, cropped and mirrored by
the model, on its device: what travels there are bytes.

`--quick` makes a small network and small data and runs everything in a minute without
a GPU. `--data made --steps 3` makes data of the full shape and takes three steps of
the full network. Neither shows anything but that it runs.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # The other examples.

from reproduce.command import main

if __name__ == "__main__":
    main(description=__doc__)
