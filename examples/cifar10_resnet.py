"""A residual network on CIFAR-10, with any schedule: a full-size training for a GPU.

    python examples/cifar10_resnet.py
    python examples/cifar10_resnet.py --schedule one_cycle --rate 0.4 --epochs 30
    python examples/cifar10_resnet.py --schedule rex linear cosine --log-dir logs
    python examples/cifar10_resnet.py --snapshots --cycles 5 --epochs 200
    python examples/cifar10_resnet.py --schedule "Warmup(REXDecay(0.1), Epochs(5))"
    python examples/cifar10_resnet.py --mixed-precision bfloat16 --depth 38
    python examples/cifar10_resnet.py --resume

`--schedule` takes names (`--help` lists them) and calls of anything in
`keras_lrs.schedules`. Lengths are open: `fit` fills them in. `one_cycle` is the whole
policy, with the momentum cycled the other way. `--snapshots` keeps the model at the end
of every cycle and measures the ensemble: its schedule is SGDR, unless you name another
that has cycles.

All state is in `--directory`: after an interruption the same call with `--resume` goes
on at the last completed epoch, and skips the schedules that are finished. A resumed
training ends with the weights and rates of one that was not interrupted. The model
moves images by up to 4 pixels and mirrors them, on its device.

`--dataset digits` runs the same on 1,797 scans of handwritten digits, with a small
network: half a minute of computing without a GPU. `benchmarks/device.py` measures what
schedules and averages add to a step of this network.

The defaults are those of the literature (He et al., 2015, arXiv:1512.03385, section
4.2): rate 0.1, momentum 0.9, batches of 128. Weight decay is what 1e-4 in the gradient
comes to with this momentum. Nothing was tuned.
"""

import ast

import program
import quickstart
import runs
from images import load_cifar10, make_resnet

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-3
SGDR, ONE_CYCLE = "sgdr", "one_cycle"
WIDTHS = {"cifar10": (16, 32, 64), "digits": (8, 16)}
DEFAULTS = {
    "cifar10": {"epochs": 60, "batch_size": 128, "rate": 0.1, "depth": 20},
    "digits": {"epochs": 5, "batch_size": 64, "rate": 0.1, "depth": 6},
}


def named_schedules(rate, cycles):
    """The schedules that have a name here."""
    from keras_lrs import Fraction, schedules

    found = quickstart.make_schedules(rate)
    found[ONE_CYCLE] = found.pop("1cycle")
    found[SGDR] = schedules.CosineRestarts(rate, t_mul=1.0, num_cycles=cycles)
    return found | {
        "sgdr_growing": schedules.CosineRestarts(rate, t_mul=2.0, num_cycles=cycles),
        "triangular": schedules.CyclicalLearningRate(
            rate / 100, rate, Fraction(0.5 / cycles)
        ),
        "polynomial": schedules.PolynomialDecay(rate, power=2.0),
        "tanh": schedules.TanhDecay(rate),
        "one_minus_sqrt": schedules.OneMinusSqrtDecay(rate),
        "flat_cosine": schedules.FlatCosine(rate),
    }


def make_schedule(text, rate, cycles):
    """The schedule of a name, or of a call such as `REXDecay(0.1, beta=0.7)`.

    Raises:
        ValueError: If it is neither.
    """
    from keras_lrs import schedules

    named = named_schedules(rate, cycles)
    if text in named:
        return named[text]
    try:
        schedule = evaluated(ast.parse(text, mode="eval").body)
        if not isinstance(schedule, schedules.Schedule):
            raise ValueError("it is no call of one")
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            f"{text!r} is no schedule: {error}. Give a call, or one of "
            f"{', '.join(sorted(named))}"
        ) from error
    return schedule


def evaluated(node):
    """What a call of schedules stands for; nothing else is called."""
    from keras_lrs import schedules

    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        if name not in schedules.__all__:
            raise ValueError(f"there is no keras_lrs.schedules.{name}")
        arguments = [evaluated(argument) for argument in node.args]
        named = {each.arg: evaluated(each.value) for each in node.keywords}
        return getattr(schedules, name)(*arguments, **named)
    if isinstance(node, ast.Name):
        raise ValueError("there is none of this name")
    if isinstance(node, (ast.List, ast.Tuple)):
        return [evaluated(item) for item in node.elts]
    return ast.literal_eval(node)


def make_scheduler(text, schedule, options):
    """The callback for a schedule, after the warmup."""
    from keras_lrs import Epochs, callbacks, schedules

    if text == ONE_CYCLE:
        return callbacks.OneCycleScheduler(options.rate)
    if options.warmup > 0.0:
        schedule = schedules.Warmup(schedule, Epochs(options.warmup))
    return callbacks.HyperparameterScheduler(learning_rate=schedule)


def make_model(dataset, depth, shape, mixed_precision=None):
    """A network that is ready to train; the rate it is given is never used."""
    import keras

    with runs.precision(mixed_precision):
        # Every block has two layers; the first and the last one are in none.
        blocks = (depth - 2) // (2 * len(WIDTHS[dataset]))
        augmentation = runs.make_augmentation(dataset)
        model = make_resnet(WIDTHS[dataset], blocks, shape, augmentation)
        model.compile(
            keras.optimizers.SGD(
                0.1, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=program.jit_compile(),
        )
    model.optimizer.build(model.trainable_variables)
    return model


def train(text, schedule, options, data, folder):
    """What a training comes to: accuracies in percent, and the time of a step."""
    import keras

    from keras_lrs import callbacks, ensembles

    keras.utils.set_random_seed(options.seed)
    (x, _), test = data
    model = make_model(
        options.dataset, options.depth, x.shape[1:], options.mixed_precision
    )
    chosen = [make_scheduler(text, schedule, options)]
    if options.snapshots:
        chosen.append(callbacks.SnapshotEnsemble(folder / "snapshots"))
    batches = runs.make_batches(data[0], options.batch_size, options.seed)
    time = runs.fit(
        model, batches, test, options.epochs, chosen, folder, options.log_dir
    )
    model.save(folder / "model.keras")
    found = {
        "milliseconds": time,
        "accuracy": 100.0 * model.evaluate(*test, batch_size=512, verbose=0)[1],
    }
    if options.snapshots:
        ensemble = ensembles.load(folder / "snapshots", model, activation="softmax")
        scores = ensemble.evaluate(*test, batch_size=512, verbose=0)
        found |= {"members": len(ensemble), "ensemble": 100.0 * scores[1]}
    return found


def report(found):
    """A row per schedule, as text."""
    width = max(len("schedule"), *map(len, found))
    yield f"{'schedule':<{width}} {'test accuracy':>15} {'time per step':>15}"
    for name, each in found.items():
        row = (
            f"{name:<{width}} {each['accuracy']:>13.2f} % {runs.milliseconds(each):>15}"
        )
        if "ensemble" in each:
            row += f"   ensemble of {each['members']}: {each['ensemble']:.2f} %"
        yield row


def main(arguments=None):
    parser = runs.make_parser(__doc__, "cifar10_resnet")
    parser.add_argument(
        "--schedule",
        nargs="+",
        metavar="NAME",
        help="constant, step, exponential, linear, polynomial, cosine, tanh, "
        "one_minus_sqrt, rex, flat_cosine, wsd, one_cycle, sgdr, sgdr_growing, "
        "triangular; or a call such as 'REXDecay(0.1, beta=0.7)'",
    )
    parser.add_argument("--depth", type=int, help="20, 38 or another 6 n + 2")
    parser.add_argument("--warmup", type=float, default=0.0, help="epochs of it")
    parser.add_argument(
        "--snapshots", action="store_true", help="keep the ends of the cycles"
    )
    parser.add_argument("--cycles", type=int, default=5, help="of sgdr, triangular")
    options = program.parse(parser, arguments)
    for name, value in DEFAULTS[options.dataset].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    unit = 2 * len(WIDTHS[options.dataset])
    if options.depth % unit != 2 or options.depth < unit + 2:
        parser.error(f"--depth must be {unit} n + 2. Received: {options.depth}")
    if options.rate <= 0.0 or options.warmup < 0.0:
        parser.error("--rate must be > 0, --warmup at least 0")
    names = options.schedule or [SGDR if options.snapshots else "cosine"]
    try:
        schedules = {
            name: make_schedule(name, options.rate, options.cycles) for name in names
        }
    except ValueError as error:
        parser.error(f"--schedule: {error}")

    load = quickstart.load_data if options.dataset == "digits" else load_cifar10
    data = load()
    found = runs.run_all(
        parser,
        options,
        names,
        lambda name, folder: train(name, schedules[name], options, data, folder),
    )
    print(f"\nResNet-{options.depth} on {options.dataset}, {options.epochs} epochs\n")
    print("\n".join(report(found)))


if __name__ == "__main__":
    main()
