"""Measures what schedules and averages add to a step of a full-size network.

    python benchmarks/device.py [--backends tensorflow jax torch] [--quick]
                                [--output docs/performance.md]

A ResNet-20 for CIFAR-10 is trained on the processor: turn and turn about with a
constant rate, once more with a constant rate, with a schedule, with a scheduler of rate
and momentum, and with an average of the weights. Backends that are not installed are
left out. Images are random: nothing is downloaded.

`benchmarks/gpu.py` trains this network on a GPU, and a small vision transformer.
"""

import argparse
import dataclasses
import importlib.util
import json
import pathlib
import runpy
import sys
import tempfile

import intervals
import steps
from report import add_outputs, milliseconds, publish, table
from steps import CONTROL, REFERENCE, Contender, Size

TITLE = "# A training step of a ResNet-20"
EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
CPU, GPU = "CPU", "GPU"
# So that no backend finds a GPU.
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
NETWORK = {"widths": (16, 32, 64), "blocks": 3}
TRANSFORMER = {"patch": 4, "width": 128, "depth": 6, "heads": 4, "dropout": 0.1}
SHAPE = (32, 32, 3)
# Images of a batch, and steps of an epoch.
LENGTHS = {CPU: (32, 4), GPU: (128, 16)}
SIZES = {False: Size(30.0, 9, 0), True: Size(0.0, 2, 0)}


def example(name):
    """A function of `examples/images.py`."""
    return runpy.run_path(str(EXAMPLES / "images.py"))[name]


def resnet(rate, **options):
    """That of `examples/cifar10_resnet.py`, and its optimizer."""
    import keras

    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, **options)
    return example("make_resnet")(**NETWORK, shape=SHAPE), optimizer


def transformer(rate, **options):
    """That of `examples/cifar10_tinyvit.py`, and its optimizer."""
    import keras

    optimizer = keras.optimizers.Adam(rate, **options)
    return example("make_vit")(SHAPE, **TRANSFORMER), optimizer


RESNET, TINY_VIT = "ResNet-20", "tiny ViT"
NETWORKS = {RESNET: resnet, TINY_VIT: transformer}
steps.WORKLOADS.update(NETWORKS)


def contenders(workload):
    return [
        Contender(workload, REFERENCE),
        Contender(workload, CONTROL),
        Contender(
            workload,
            "`Warmup(CosineAnnealing)`",
            rate=steps.long_warmup_and_cosine,
        ),
        Contender(
            workload,
            "`OneCycleScheduler`: rate and momentum",
            callbacks=steps.one_cycle,
        ),
        Contender(workload, "`WeightAveraging`", callbacks=steps.averaged),
    ]


CONTENDERS = contenders(RESNET)


# --- Measuring ------------------------------------------------------------------------


def measured(size, contenders=CONTENDERS):
    """Seconds per step of every contender, one per round."""
    import keras

    batch_size, length = LENGTHS[CPU]
    name = BACKENDS[keras.backend.backend()]
    with tempfile.TemporaryDirectory() as folder:
        found = steps.step_seconds(
            dataclasses.replace(steps.CONFIGURATIONS[name], steps=length),
            size,
            contenders,
            pathlib.Path(folder),
            steps.data(length, SHAPE, batch_size),
        )
    return found[RESNET]


# --- The table ------------------------------------------------------------------------


def markdown(results):
    """All that is said of it; results by backend."""
    ratios = by_backend(results)
    constant = (milliseconds(found[REFERENCE]) for found in results.values())
    rows = [[f"**{REFERENCE}**", *constant]]
    rows += [
        [each.name, *(found[each.name].cell() for found in ratios.values())]
        for each in CONTENDERS[1:]
    ]
    return "\n\n".join(
        [
            TITLE,
            "The table shows how long a step of `model.fit` takes for the network of "
            "`examples/cifar10_resnet.py` on the CPU, as a ratio to that with a "
            "constant rate. Each cell is the median of the ratios within a round, with "
            "its 95 % interval, and the second row shows the noise. The optimizer is "
            f"SGD with momentum. Batches of {LENGTHS[CPU][0]} images are in memory.",
            table(["", *results], rows),
        ]
    )


def by_backend(results):
    """Estimates of all ratios: by backend and name."""
    return {key: intervals.ratios(found, REFERENCE) for key, found in results.items()}


# --- The program ----------------------------------------------------------------------


def main(arguments=None):
    arguments = parsed_arguments(arguments)
    if arguments.measure:
        print(json.dumps(measured(SIZES[arguments.quick])))
        return
    results = {}
    for backend in installed(arguments.backends):
        print(f"Measuring on {BACKENDS[backend]} ...", file=sys.stderr)
        quick = ["--quick"] * arguments.quick
        results[BACKENDS[backend]] = steps.run(
            __file__, backend, ["--measure", *quick], environment=ON_CPU
        )
    found = {"seconds": results, "ratios": by_backend(results)}
    publish(__file__, arguments, markdown(results), found)


def installed(backends):
    """Those of some backends that are installed."""
    for backend in backends:
        if importlib.util.find_spec(backend) is None:
            print(f"{BACKENDS[backend]} is not installed.", file=sys.stderr)
        else:
            yield backend


def parsed_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backends", nargs="+", choices=list(BACKENDS), default=list(BACKENDS)
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    add_outputs(parser)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
