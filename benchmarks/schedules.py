"""Measures the schedules beside those of Keras, optax and PyTorch, and prints tables.

    python benchmarks/schedules.py [--backends tensorflow jax torch] [--quick]
                                   [--output docs/performance.md]

Every backend is measured in a process of its own. The tables are Markdown.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys

import report

BACKENDS = ("tensorflow", "jax", "torch")
PACKAGES = ("keras", "tensorflow", "jax", "torch", "optax", "numpy")


def main():
    arguments = parsed_arguments()
    if arguments.measure:
        print(json.dumps(measured(arguments.measure, arguments.quick)))
        return
    results = {
        backend: measured_in_a_process(backend, arguments.quick)
        for backend in arguments.backends
    }
    text = report.markdown(results, measured_imports(arguments), environment())
    print(text)
    if arguments.output:
        report.write_part(arguments.output, text)


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--output", type=pathlib.Path, help="a file for the tables")
    parser.add_argument("--measure", choices=BACKENDS, help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(backend, quick):
    """What this process, which runs on `backend`, finds out."""
    import accuracy
    import sizes
    import timing

    return {
        "timings": timing.measure(backend, quick),
        "sizes": sizes.measure(backend),
        "accuracy": accuracy.measure(backend),
    }


def measured_in_a_process(backend, quick):
    print(f"Measuring on {backend} ...", file=sys.stderr)
    command = [sys.executable, __file__, "--measure", backend]
    done = subprocess.run(
        command + ["--quick"] * quick,
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measured_imports(arguments):
    """The import on the cheapest of the backends, JAX if it is among them."""
    import imports

    backend = "jax" if "jax" in arguments.backends else arguments.backends[-1]
    print(f"Measuring imports on {backend} ...", file=sys.stderr)
    return {"backend": backend, "seconds": imports.measure(backend, arguments.quick)}


def environment():
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return (
        f"Python {platform.python_version()}, {', '.join(versions)}; "
        f"{platform.machine()}, {os.cpu_count()} CPU cores."
    )


if __name__ == "__main__":
    main()
