"""Measures what schedules and averages add to a step of a full-size network.

    python benchmarks/device.py [--backends tensorflow jax torch] [--quick]
                                [--results results.json] [--output docs/performance.md]

A ResNet-20 for CIFAR-10 is trained on the device that Keras uses, a GPU if it finds
one: turn and turn about with a constant rate, once more with a constant rate, with a
schedule, with a scheduler of rate and momentum, and with an average of the weights.
Backends that are not installed are left out. Images are random: nothing is downloaded.

With `--results` what was measured is added to a file, and the table is of all that is
in it: of a GPU on one machine and a processor on another. A kind of device that nobody
measured is shown as such.
"""

import argparse
import dataclasses
import importlib.util
import json
import pathlib
import runpy
import statistics
import sys
import tempfile

import intervals
import steps
from report import add_outputs, publish, read_results, table, write_results
from steps import CONTROL, REFERENCE, Contender, Size

TITLE = "# A training step of a ResNet-20"
EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
CPU, GPU = "CPU", "GPU"
NOT_MEASURED = "not measured"
NETWORK = {"widths": (16, 32, 64), "blocks": 3}
SHAPE = (32, 32, 3)
# Images of a batch, and steps of an epoch.
LENGTHS = {CPU: (32, 4), GPU: (128, 96)}
SIZES = {False: Size(30.0, 9, 0), True: Size(0.0, 2, 0)}


def network(rate):
    """That of `examples/cifar10_resnet.py`, and its optimizer."""
    import keras

    make_resnet = runpy.run_path(str(EXAMPLES / "images.py"))["make_resnet"]
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    return make_resnet(**NETWORK, shape=SHAPE), optimizer


RESNET = "ResNet-20"
steps.WORKLOADS[RESNET] = network
CONTENDERS = [
    Contender(RESNET, REFERENCE),
    Contender(RESNET, CONTROL),
    Contender(
        RESNET,
        "`Warmup(CosineAnnealing)`",
        rate=steps.long_warmup_and_cosine,
    ),
    Contender(
        RESNET,
        "`OneCycleScheduler`: rate and momentum",
        callbacks=steps.one_cycle,
    ),
    Contender(RESNET, "`WeightAveraging`", callbacks=steps.averaged),
]


# --- Measuring ------------------------------------------------------------------------


def device():
    """The name of the GPU that Keras trains on, or None."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        found = jax.devices()[0]
        return None if found.platform == "cpu" else found.device_kind
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    if not found:
        return None
    return tf.config.experimental.get_device_details(found[0])["device_name"]


def configuration(gpu, backend):
    """As networks of this kind are trained: with XLA, but on a CPU and in PyTorch."""
    name = "TensorFlow XLA" if gpu and backend == "tensorflow" else BACKENDS[backend]
    _, length = LENGTHS[GPU if gpu else CPU]
    return dataclasses.replace(steps.CONFIGURATIONS[name], steps=length)


def measured(size, contenders=CONTENDERS):
    """The device, and seconds per step of every contender, one per round."""
    import keras

    gpu = device()
    batch_size, length = LENGTHS[GPU if gpu else CPU]
    with tempfile.TemporaryDirectory() as folder:
        found = steps.step_seconds(
            configuration(gpu, keras.backend.backend()),
            size,
            contenders,
            pathlib.Path(folder),
            steps.data(length, SHAPE, batch_size),
        )
    return {"device": gpu or CPU, "seconds": found[RESNET]}


# --- The table ------------------------------------------------------------------------


def markdown(results):
    """All that is said of it; results by backend and kind of device."""
    gpus = sorted({found["device"] for found in results.values()} - {CPU})
    batches = [f"{LENGTHS[kind][0]} on a {kind}" for kind in (CPU, GPU)]
    return "\n\n".join(
        [
            TITLE,
            "The table shows what `model.fit` takes per step for the network of "
            "`examples/cifar10_resnet.py`, as a ratio to that with a constant rate. "
            "Each cell is the median of the ratios within a round, with its 95 % "
            "interval, and the second row shows the noise. The optimizer is SGD with "
            f"momentum, batches are of {' and '.join(batches)}, and images are in "
            "memory. "
            + (f"The GPU: {', '.join(gpus)}." if gpus else "No GPU was at hand."),
            table(*columns(results)),
        ]
    )


def columns(results):
    """The header and the rows, with a column for what was not measured."""
    header, rows = [""], [[f"**{REFERENCE}**"]]
    rows += [[each.name] for each in CONTENDERS[1:]]
    for kind in (CPU, GPU):
        of_kind = {key: found for key, found in results.items() if kind_of(key) == kind}
        for key, found in of_kind.items():
            header.append(key)
            for row, cell in zip(rows, cells(found["seconds"]), strict=True):
                row.append(cell)
        if not of_kind:
            header.append(kind)
            for row in rows:
                row.append(NOT_MEASURED)
    return header, rows


def kind_of(key):
    return key.rpartition(", ")[2]


def cells(seconds):
    yield f"{1e3 * statistics.median(seconds[REFERENCE]):.3g} ms"
    found = intervals.ratios(seconds, REFERENCE)
    for each in CONTENDERS[1:]:
        yield found[each.name].cell()


# --- The program ----------------------------------------------------------------------


def main(arguments=None):
    arguments = parsed_arguments(arguments)
    if arguments.measure:
        print(json.dumps(measured(SIZES[arguments.quick])))
        return
    results = read_results(arguments.results)
    for backend in arguments.backends:
        if importlib.util.find_spec(backend) is None:
            print(f"{BACKENDS[backend]} is not installed.", file=sys.stderr)
            continue
        print(f"Measuring on {BACKENDS[backend]} ...", file=sys.stderr)
        quick = ["--quick"] * arguments.quick
        found = steps.run(__file__, backend, ["--measure", *quick], environment={})
        kind = CPU if found["device"] == CPU else GPU
        results[f"{BACKENDS[backend]}, {kind}"] = found
        write_results(arguments.results, results)
    ratios = {
        key: intervals.ratios(found["seconds"], REFERENCE)
        for key, found in results.items()
    }
    found = {"seconds": results, "ratios": ratios}
    publish(__file__, arguments, markdown(results), found)


def parsed_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backends", nargs="+", choices=list(BACKENDS), default=list(BACKENDS)
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--results", type=pathlib.Path, help="a file to add them to")
    add_outputs(parser)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
