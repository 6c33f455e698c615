"""Averages and schedule-free training of a vision transformer on CIFAR-10, for a GPU.

    python examples/cifar10_tinyvit.py
    python examples/cifar10_tinyvit.py --methods cosine ema-10 --epochs 100
    python examples/cifar10_tinyvit.py --methods all --log-dir logs
    python examples/cifar10_tinyvit.py --mixed-precision bfloat16
    python examples/cifar10_tinyvit.py --resume

The methods are those of `examples/averaging.py`, which says where they come from: a
constant rate, decays of it, averages of the weights at a constant rate, and
`ScheduleFree`. Each trains the same transformer from the same first weights on the same
batches, once; validation, and what is printed, is of the average where there is one.
What one training shows may be luck: `averaging.py` compares over seeds.

All state is in `--directory`: after an interruption the same call with `--resume` goes
on at the last completed epoch, and skips what is finished. With `--log-dir`
TensorBoard shows how each method does at any time.

`--dataset digits` runs the same on 1,797 scans of handwritten digits, with a smaller
transformer: half a minute of computing without a GPU.

The rate of 1e-3 is a usual one for Adam and a transformer of this size; nothing was
tuned. `averaging.py --tune` does that.
"""

import dataclasses

import averaging
import program
import quickstart
import runs
from images import load_cifar10

DEFAULTS = {
    "cifar10": {"epochs": 60, "rate": 1e-3},
    "digits": {"epochs": 4, "rate": 3e-3},
}
METHODS = {
    "cifar10": (
        averaging.CONSTANT,
        averaging.COSINE,
        averaging.linear(100),
        averaging.POLYAK,
        averaging.EMAS[1],
        averaging.FREE,
    ),
    "digits": (averaging.COSINE, averaging.EMAS[1], averaging.FREE),
}
ALL = "all"


def chosen_methods(parser, names, dataset):
    """The methods by name, from their names in lower case with dashes."""
    known = {runs.file_name(name): name for name in averaging.make_methods()}
    if names is None:
        return list(METHODS[dataset])
    if names == [ALL]:
        return list(known.values())
    for name in names:
        if name not in known:
            parser.error(f"--methods: there is no {name!r}, but {', '.join(known)}")
    return [known[name] for name in names]


def train(name, setting, options, data, folder):
    """What a training comes to: loss, accuracy in percent, and the time of a step."""
    import keras

    keras.utils.set_random_seed(options.seed)
    method = averaging.make_methods()[name]
    with runs.precision(options.mixed_precision):
        network = {
            **setting.network,
            "augmentation": runs.make_augmentation(options.dataset),
        }
        setting = dataclasses.replace(setting, network=network)
        trainer = averaging.Trainer("vit", setting, data, total=None)
        model = trainer.make_model(method)
    epochs = setting.epochs * method.budget // 100
    callbacks = trainer.make_callbacks(method, options.rate)
    batches = runs.make_batches(data[0], options.batch_size, options.seed)
    time = runs.fit(model, batches, data[1], epochs, callbacks, folder, options.log_dir)
    model.save(folder / "model.keras")
    loss, accuracy = model.evaluate(*data[1], batch_size=512, verbose=0)
    return {
        "milliseconds": time,
        "epochs": epochs,
        "loss": loss,
        "accuracy": 100.0 * accuracy,
    }


def report(found):
    """A row per method, as text."""
    header = ("epochs", "test loss", "test accuracy", "time per step")
    yield f"{'method':<28}" + "".join(f"{text:>15}" for text in header)
    for name, each in found.items():
        cells = (
            f"{each['epochs']}",
            f"{each['loss']:.4f}",
            f"{each['accuracy']:.2f} %",
            runs.milliseconds(each),
        )
        yield f"{name:<28}" + "".join(f"{text:>15}" for text in cells)


def main(arguments=None):
    parser = runs.make_parser(__doc__, "cifar10_tinyvit")
    parser.add_argument(
        "--methods",
        "--method",
        nargs="+",
        metavar="NAME",
        help=f"such as cosine, ema-10, schedule-free-exponential; or {ALL}",
    )
    options = program.parse(parser, arguments)
    for name, value in DEFAULTS[options.dataset].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    setting = averaging.SETTINGS["vit", options.dataset]
    options.batch_size = options.batch_size or setting.batch_size
    setting = dataclasses.replace(
        setting, epochs=options.epochs, batch_size=options.batch_size
    )
    if setting.epochs % len(averaging.BUDGETS):
        parser.error(f"--epochs must be a multiple of {len(averaging.BUDGETS)}")
    if options.rate <= 0.0:
        parser.error("--rate must be > 0")
    names = chosen_methods(parser, options.methods, options.dataset)

    load = quickstart.load_data if options.dataset == "digits" else load_cifar10
    data = load()
    found = runs.run_all(
        parser,
        options,
        names,
        lambda name, folder: train(name, setting, options, data, folder),
    )
    print(f"\nVision transformer on {options.dataset}, rate {options.rate:g}\n")
    print("\n".join(report(found)))


if __name__ == "__main__":
    main()
