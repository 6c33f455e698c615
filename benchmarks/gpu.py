"""Measures what schedules and averages add to a training step on a GPU.

    python benchmarks/gpu.py [--backends tensorflow jax torch] [--seconds 420] [--quick]
                             [--device cpu] [--output docs/performance.md]

`make gpu` runs it where there is no network. On each backend that is installed, it
trains the networks of `benchmarks/device.py` and the models of `benchmarks/steps.py`,
turn and turn about, on a batch that was made on the device, and then those of
`benchmarks/averaging.py`. The time is divided among the backends, and by each among
these parts. What has been measured counts, also if a later part fails.

The tables replace those of `docs/performance.md`. `--device cpu` tries it without a
GPU. Then it writes only the files that other options name.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback

import averaging
import device
import steps
from device import CPU, GPU, RESNET, TINY_VIT
from report import add_outputs, environment, publish
from steps import ADAM, ADAMW, Size

TITLE = "# A training step on a GPU"
ROOT = pathlib.Path(__file__).parents[1]
OUTPUTS = {
    "output": ROOT / "docs" / "performance.md",
    "aims": ROOT / "benchmarks" / "aims.md",
    "summaries": ROOT / "benchmarks" / "results",
}
SECONDS = 420.0
# Of all seconds; PyTorch compiles nothing.
WEIGHTS = {"tensorflow": 2, "jax": 2, "torch": 1}
# Of the time of a backend, setting up included.
SHARES = {
    RESNET: 3,
    TINY_VIT: 3,
    ADAM: 2,
    ADAMW: 3,
    **dict.fromkeys(averaging.WORKLOADS, 1),
}
MODELS = (RESNET, TINY_VIT, ADAM, ADAMW)
# A step cannot be interrupted, nor a compilation.
GRACE = 1.1
SIZES = {False: Size(0.0, 5, 0), True: Size(0.0, 2, 0)}
# As networks are compiled for a GPU, and for a processor.
CONFIGURATIONS = {
    GPU: {"tensorflow": "TensorFlow XLA", "jax": "JAX", "torch": "PyTorch"},
    CPU: device.BACKENDS,
}
ENVIRONMENTS = {GPU: {}, CPU: device.ON_CPU | steps.ONE_THREAD}
DEVICE = "device"  # What the first line of a process is about.


def contenders(part):
    """Of a network, fewer than of the small models: compiling it takes longer."""
    leading = [each for each in steps.CONTENDERS if each.leads]
    if part in (ADAM, ADAMW):
        return [each for each in leading if each.workload == part]
    (use_ema,) = (each for each in leading if each.workload == ADAM and each.options)
    return [*device.contenders(part), dataclasses.replace(use_ema, workload=part)]


# --- Measuring, in a process per backend ----------------------------------------------


def device_name():
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


def measure(backend, options, end):
    """Writes a line for the device, and for each part when it is measured."""

    def write(name, found):
        with options.into.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps([name, found])}\n")

    name = device_name()
    write(DEVICE, name)
    if (name is None) != (options.device == CPU):
        return  # The other process sees why.
    left, failed = {part: SHARES[part] for part in parts(options.quick)}, False
    while left:
        part = next(iter(left))
        now = time.monotonic()
        stop = now + (end - now) * left[part] / sum(left.values())
        del left[part]
        try:
            write(part, measured(part, backend, options, stop))
        except Exception:  # A GPU may be lent for once: the other parts still count.
            traceback.print_exc()
            failed = True
    if failed:
        sys.exit(1)


def parts(quick):
    """What is measured: without a GPU the largest average takes too long to try."""
    largest = next(iter(averaging.WORKLOADS))
    return [part for part in SHARES if not (quick and part == largest)]


def measured(part, backend, options, end):
    """Seconds of every contender, one per round."""
    name, size = CONFIGURATIONS[options.device][backend], SIZES[options.quick]
    if part in averaging.WORKLOADS:
        limit = averaging.device_limit
        return averaging.update_seconds(name, part, size.rounds, end, limit)
    configuration = steps.CONFIGURATIONS[name]
    shape, batch_size = (steps.NUM_FEATURES,), steps.BATCH_SIZE
    if part in device.NETWORKS:
        shape, (batch_size, length) = device.SHAPE, device.LENGTHS[options.device]
        configuration = dataclasses.replace(configuration, steps=length)
    inputs = same_batch(steps.length(configuration, part), shape, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        found = steps.step_seconds(
            configuration, size, contenders(part), pathlib.Path(folder), inputs, end
        )
    return found[part]


def same_batch(num_batches, shape, batch_size):
    """What `fit` is given: a batch that was made on the device, in every step.

    TensorFlow takes batches from the host, so `tf.data` copies it ahead of the steps.
    """
    import keras

    x = keras.random.normal((batch_size, *shape), seed=0)
    y = keras.random.randint((batch_size,), 0, steps.NUM_CLASSES, seed=1)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        dataset = tf.data.Dataset.from_tensors((x, y)).repeat(num_batches)
        return {"x": dataset.prefetch(tf.data.AUTOTUNE), "shuffle": False}

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return num_batches

        def __getitem__(self, index):
            return x, y

    return {"x": Batches(), "shuffle": False}


def measured_in_a_process(backend, options, seconds):
    """What a backend has measured in so many seconds: the device, and the parts.

    Also says why it measured no more, if parts are missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "lines"
        file.touch()
        arguments = ["--measure", backend, "--seconds", str(seconds)]
        arguments += ["--device", options.device.lower(), "--into", str(file)]
        arguments += ["--quick"] * options.quick
        wrong = None
        try:
            steps.process(
                __file__,
                backend,
                arguments,
                ENVIRONMENTS[options.device],
                check=True,
                stdout=subprocess.DEVNULL,  # The output is for the tables.
                timeout=None if options.quick else GRACE * seconds,
            )
        except subprocess.TimeoutExpired:
            wrong = "the time was over"
        except subprocess.CalledProcessError as error:
            wrong = f"the process ended with {error.returncode}"
        # The last line of a process that was stopped may be a part of one.
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    found = dict(map(json.loads, lines))
    return found, wrong or f"it found {found.get(DEVICE) or 'no GPU'}"


def measured_in_turn(options):
    """Results by configuration, and what is missing, in words."""
    end = time.monotonic() + options.seconds
    results, missing = {}, []
    backends = list(device.installed(options.backends))
    if not backends:
        missing.append("no backend is installed")
    for index, backend in enumerate(backends):
        left = sum(WEIGHTS[each] for each in backends[index:])
        seconds = (end - time.monotonic()) * WEIGHTS[backend] / left
        name = CONFIGURATIONS[options.device][backend]
        print(f"Measuring on {name} for {seconds:.0f} s ...", file=sys.stderr)
        found, wrong = measured_in_a_process(backend, options, max(seconds, 1.0))
        gpu = found.pop(DEVICE, None)
        if found:
            results[name] = {
                DEVICE: gpu or CPU,
                "steps": {p: found[p] for p in MODELS if p in found},
                "averages": {p: found[p] for p in averaging.WORKLOADS if p in found},
            }
        lost = [part for part in parts(options.quick) if part not in found]
        if lost:
            named = ", ".join(lost) if found else "everything"
            missing.append(f"{name}: {named} ({wrong})")
    return results, missing


# --- The tables -----------------------------------------------------------------------


def markdown(results, missing, seconds=None):
    """All that is said of it; results by configuration, in a number of seconds."""
    counts = [
        len(samples[steps.REFERENCE])
        for result in results.values()
        for samples in result["steps"].values()
    ]
    devices = sorted({result[DEVICE] for result in results.values()})
    images, _ = device.LENGTHS[CPU if devices == [CPU] else GPU]
    rows = [each for part in MODELS for each in contenders(part)]
    averages = {name: result["averages"] for name, result in results.items()}
    return "\n\n".join(
        [
            TITLE,
            f"The device: {', '.join(devices)}. The table shows how long a step of "
            "`model.fit` takes, as a ratio to the same model with a constant rate. "
            f"Each cell is the median of {min(counts, default=0)} or more rounds, with "
            f'its 95 % interval. The row "{steps.CONTROL}" shows the noise.',
            steps.steps_table(results, rows),
            "Every step trains on one batch, which was made on the device, so that no "
            "input pipeline is measured. (TensorFlow copies it from the host, ahead of "
            f"the steps.) The networks get {images} images of 32 x 32 pixels. They are "
            "those of `examples/cifar10_resnet.py`, with SGD, and of "
            "`examples/cifar10_tinyvit.py`, with Adam. The other models are those of "
            "the first table of this page.",
            environment(),
            *([] if seconds is None else [divided(seconds)]),
            *(["Not measured: " + "; ".join(missing) + "."] if missing else []),
            "## One update of the average on a GPU",
            *(averaging.updates_table(each, averages) for each in averaging.WORKLOADS),
            "Each cell is what a contender adds to a step, over the time in which the "
            "device adds two arrays of the weights' size. With many small tensors, "
            "starting the operations takes most of the time.",
        ]
    )


def divided(seconds):
    """Says how the time was divided."""
    total = sum(SHARES.values())
    shares = [f"{100 * SHARES[part] / total:.0f} % on {part}" for part in MODELS]
    each = sum(SHARES[part] for part in averaging.WORKLOADS)
    shares.append(f"{100 * each / total:.0f} % on averages")
    return (
        f"The program had {seconds:.0f} seconds, compilations included. Backends that "
        "compile were given twice as much of them as PyTorch. Each backend spent "
        f"{', '.join(shares)}."
    )


def aims_of(results):
    """The aims of the small models, and whether they were met."""
    rows = [*contenders(ADAM), *contenders(ADAMW)]
    return steps.aims_of(results, rows, TITLE)


def found_by(results):
    """What the summary holds."""
    ratios = steps.by_configuration(results)
    averages = {
        name: {
            workload: averaging.estimates(samples)
            for workload, samples in result["averages"].items()
        }
        for name, result in results.items()
    }
    return {"seconds": results, "ratios": ratios, "averages": averages}


# --- The program ----------------------------------------------------------------------


def main(arguments=None):
    begin = time.monotonic()
    options = parsed_arguments(arguments)
    if options.measure:
        end = begin if options.quick else begin + options.seconds
        measure(options.measure, options, end)
        return
    results, missing = measured_in_turn(options)
    if not results:
        sys.exit(
            f"Nothing was measured. {'; '.join(missing)}. To try this without a GPU, "
            "give --device cpu."
        )
    if options.device == GPU and not options.quick:
        for name, path in OUTPUTS.items():
            if getattr(options, name) is None:
                setattr(options, name, path)
    page = markdown(results, missing, None if options.quick else options.seconds)
    publish(__file__, options, page, found_by(results), aims_of(results))
    if missing:
        sys.exit(f"Not measured: {'; '.join(missing)}.")


def parsed_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    backends = list(device.BACKENDS)
    parser.add_argument("--backends", nargs="+", choices=backends, default=backends)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no page")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="for everything together"
    )
    parser.add_argument("--device", type=str.upper, choices=[GPU, CPU], default=GPU)
    add_outputs(parser)
    parser.add_argument("--measure", choices=backends, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=pathlib.Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
