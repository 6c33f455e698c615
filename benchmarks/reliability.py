"""Kills trainings at random moments, and looks whether they end the same.

    python benchmarks/reliability.py [--kills 30] [--backends tensorflow jax torch]
                                     [--signals SIGKILL SIGTERM]
                                     [--trainings restarts combined]
                                     [--output docs/reliability.md]

What is trained, and what is compared, is in `benchmarks/interrupted.py`.
"""

import argparse
import collections
import concurrent.futures
import itertools
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

import keras
from interrupted import EPOCHS, MODES, SIGNALS, STEPS, TRAININGS
from report import table, write_part

TITLE = "# Killed and resumed"
NAMES = {
    "epoch": "`ResumableTraining`",
    "steps": "`ResumableTraining(every=5)`",
    "backup": "`BackupAndRestore`",
}
TEXT = """\
A training of {epochs} epochs of {steps} steps, with `WeightAveraging`,
`SnapshotEnsemble`, `ReduceOnPlateau`, `EarlyStopping`, `ModelCheckpoint` and batch
normalization, gets a signal again and again, SIGKILL or SIGTERM, and is resumed by the
same call. In *restarts* there are schedules of the rate and of momentum. *combined* is
1cycle in mixed precision, with steps that the loss scale skips, and gradients that are
accumulated over 5 batches, which does not divide an epoch. Half of the signals are sent
at random times, half in the middle of random operations on files. In the end its
weights, averages, statistics, optimizer, plateau state and snapshots (files and
manifest) are compared with those of a training that was not interrupted, bit for bit;
with `ResumableTraining` also the history of all
epochs, under dropout and shuffled data. A training that differs counts none of its
kills as survived."""
PROGRAM = pathlib.Path(__file__).with_name("interrupted.py")


def main(arguments=None):
    """Prints the table, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="of each, per backend")
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=SIGNALS)
    parser.add_argument("--trainings", nargs="+", choices=TRAININGS, default=TRAININGS)
    backends = ["tensorflow", "jax", "torch"]
    parser.add_argument("--backends", nargs="+", choices=backends, default=backends)
    parser.add_argument("--output", help="the report to write into")
    options = parser.parse_args(arguments)
    cases = list(
        itertools.product(MODES, options.signals, options.trainings, options.backends)
    )
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        reports = pool.map(lambda case: measured(*case, options.kills), cases)
        found = dict(zip(cases, reports, strict=True))
    text = report(found)
    print(text)
    if options.output is not None:
        write_part(pathlib.Path(options.output), text)


def measured(mode, sent, training, backend, kills):
    """What `interrupted.py` reports."""
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [sys.executable, PROGRAM, mode, folder, str(kills), "0", sent, training],
            env={
                **os.environ,
                "KERAS_BACKEND": backend,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "PYTHONWARNINGS": "ignore",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(result.stdout.split("REPORT")[1])


def report(found):
    """The page's part, in Markdown."""
    rows = []
    for (mode, sent, training, backend), one in found.items():
        hits = ", ".join(f"{count} in {where}" for where, count in one["hits"].items())
        survived = f"{one['survived']} of {one['kills']}"
        row = [NAMES[mode], sent, training, backend, survived]
        rows.append([*row, str(one["trainings"]), hits])
    differences = [
        f"- {NAMES[mode]}, {sent}, {training}, {backend}, {count} x: {text}"
        for (mode, sent, training, backend), one in found.items()
        for text, count in collections.Counter(one["differences"]).items()
    ]
    return "\n".join(
        [
            TITLE,
            "",
            TEXT.format(epochs=EPOCHS, steps=STEPS),
            "",
            f"Keras {keras.__version__}, Python {platform.python_version()}, "
            f"{platform.system()}. Written by `benchmarks/reliability.py`.",
            "",
            table(
                [
                    *("resumes with", "signal", "training", "backend", "survived"),
                    *("begun", "where they hit"),
                ],
                rows,
            ),
            "",
            *(
                ["What differed:", "", *differences]
                if differences
                else ["Nothing differed."]
            ),
        ]
    )


if __name__ == "__main__":
    main()
