"""Kills runs at random moments, and checks that they end with the same result.

    python benchmarks/reliability.py [--kills 30] [--backends tensorflow jax torch]
                                     [--modes epoch steps backup]
                                     [--signals SIGKILL SIGTERM]
                                     [--kinds restarts combined]
                                     [--resume] [--publish] [--workers 2]
                                     [--output docs/reliability.md]

What is trained, and what is compared, is in `benchmarks/interrupted.py`. The kills of a
case come in parts of ten, each of which is kept when it is finished, in
`benchmarks/results/reliability.jsonl`: `--resume` runs only those that are missing, and
`--publish` runs nothing, but writes the page again.
"""

import argparse
import functools
import itertools
import pathlib
import tempfile

import kept
import reliability_page
from interrupted import KINDS, MODES, SIGNALS

PROGRAM = pathlib.Path(__file__).with_name("interrupted.py")
PART = 10


def main(arguments=None):
    """Runs what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="of each, per backend")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=SIGNALS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    backends = ["tensorflow", "jax", "torch"]
    parser.add_argument("--backends", nargs="+", choices=backends, default=backends)
    kept.add_options(parser, __file__)
    options = parser.parse_args(arguments)
    if not options.publish:
        store = kept.Kept(options.work, [PROGRAM], options.resume)
        jobs = [
            functools.partial(store.measure, case, functools.partial(measured, **case))
            for case in cases(options)
        ]
        kept.run_all(jobs, options.workers)
    reliability_page.publish(options, reliability_page.kills, kept.read(options.work))


def cases(options):
    """What is measured, in parts of ten kills."""
    names = ("backend", "mode", "signal", "kind", "seed")
    seeds = range(-(-options.kills // PART))
    chosen = (options.backends, options.modes, options.signals, options.kinds)
    return [
        {
            **dict(zip(names, values, strict=True)),
            "kills": min(PART, options.kills - PART * values[-1]),
        }
        for values in itertools.product(*chosen, seeds)
    ]


def measured(mode, signal, kind, backend, kills, seed):
    """What `interrupted.py` reports."""
    with tempfile.TemporaryDirectory() as folder:
        return kept.in_a_process(
            [PROGRAM, mode, folder, kills, seed, signal, kind], backend
        )


if __name__ == "__main__":
    main()
