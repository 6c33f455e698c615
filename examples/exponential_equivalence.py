"""Weight decay is an exponential schedule, in about two minutes on two cores.

    python examples/exponential_equivalence.py
    python examples/exponential_equivalence.py --backend torch --steps 1000

Li and Arora ("An Exponential Learning Rate Schedule for Deep Learning", ICLR 2020,
arXiv:1910.07454) prove that a network whose weights all feed normalizations is trained
through the same functions by SGD with weight decay and by SGD without it whose rate
*grows*, exponentially where it was constant.

Here every network is trained twice by `model.fit` on scans of digits, on the same
batches: with `SGD(weight_decay=)`, and with the schedules of `without_weight_decay`.
Their losses, as means of four steps, are compared all along; the table has the largest
difference of all steps and seeds. In float64 with a normalization without epsilon the
theorem holds to the precision of the numbers; with Keras's `BatchNormalization`, in
float32, up to its epsilon and to what the training makes of rounding: the second column
has the normalization without epsilon in float32. (On PyTorch Keras multiplies matrices
in float32 always: there the first column is no better than the second.)
"""

import contextlib

import program
from quickstart import load_data

# Keras rounds momentum and weight decay to float32: these it need not round.
RATE, MOMENTUM, WEIGHT_DECAY = 0.2, 0.875, 0.046875
# A term of the gradient must be smaller: (1 - sqrt(MOMENTUM))**2 / RATE is 0.021.
DECAYS = {"decoupled": WEIGHT_DECAY, "l2": 0.015625}
KINDS = ("batch", "layer", "group")
BATCH_SIZE, EVERY = 64, 4  # The history holds means of so many steps.
# Keras's batch normalization with three epsilons, 1e-3 being the default.
EPSILONS = (0.0, 1e-5, 1e-3)
EXACT, ROUNDED = "float64", "float32"  # The normalization that has no epsilon.
COLUMNS = (EXACT, ROUNDED, *(f"BN, {epsilon:g}" for epsilon in EPSILONS))
PARTS = 4  # Of the steps: in later ones the rounding of the first has grown.


def make_schedules():
    from keras_lrs import Fraction, schedules

    thirds = [Fraction(1 / 3), Fraction(2 / 3)]
    return {
        "constant": schedules.Constant(RATE),
        "step decay": schedules.MultiStepDecay(RATE, thirds),
        "cosine": schedules.CosineAnnealing(RATE),
    }


@contextlib.contextmanager
def floats(dtype):
    """Keras computes in `dtype` meanwhile."""
    import keras

    before, policy = keras.config.floatx(), keras.config.dtype_policy()
    wide = contextlib.nullcontext()
    if keras.backend.backend() == "jax" and dtype == "float64":
        import jax

        wide = jax.enable_x64(True)
    with wide:
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        try:
            yield
        finally:
            keras.config.set_floatx(before)
            keras.config.set_dtype_policy(policy)


def normalized(x, kind):
    """Normalized without epsilon, in Keras's `floatx`.

    Args:
        x: Of shape `(batch, features)`.
        kind: `"batch"`: over the batch. `"layer"`: over the features. `"group"`: over
            eight groups of features.
    """
    from keras import ops

    groups = {"batch": None, "layer": 1, "group": 8}[kind]
    shape = x.shape
    if groups is None:
        axis, size = 0, BATCH_SIZE
    else:
        axis, size = 2, shape[1] // groups
        x = ops.reshape(x, (-1, groups, size))
    # Not `ops.mean`, which computes in float32 on JAX.
    x = x - ops.sum(x, axis=axis, keepdims=True) / size
    x = x / ops.sqrt(ops.sum(x * x, axis=axis, keepdims=True) / size)
    return ops.reshape(x, (-1, shape[1]))


def make_network(weight_decay, epsilon, kind="batch", form="decoupled"):
    """Two dense layers, each normalized, and an output layer that is not trained.

    With an epsilon of None, the normalization is one in Keras's `floatx`;
    `BatchNormalization` computes in float32 whatever that is.

    Args:
        weight_decay: In the form `form`.
        epsilon: Of Keras's batch normalization.
        kind: Of the normalization without epsilon.
        form: `"decoupled"`, or `"l2"`: a term of the gradient.
    """
    import keras
    from keras import layers

    def normalize(x):
        if epsilon is not None:
            return layers.BatchNormalization(
                center=False, scale=False, epsilon=epsilon
            )(x)
        return layers.Lambda(lambda x: normalized(x, kind), output_shape=x.shape[1:])(x)

    def dense(x):
        decay = form == "l2" and weight_decay
        term = keras.regularizers.L2(0.5 * weight_decay) if decay else None
        return layers.Dense(64, use_bias=False, kernel_regularizer=term)(x)

    image = keras.Input((64,))
    x = image
    for _ in range(2):
        x = layers.ReLU()(normalize(dense(x)))
    model = keras.Model(image, layers.Dense(10, trainable=False)(x))
    cross_entropy = keras.metrics.SparseCategoricalCrossentropy(
        from_logits=True, name="cross_entropy"
    )
    model.compile(
        keras.optimizers.SGD(
            RATE,
            momentum=MOMENTUM,
            weight_decay=weight_decay if form == "decoupled" else None,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # The loss includes the term of a regularizer.
        metrics=[cross_entropy] if form == "l2" else [],
        # For a network this small, TensorFlow's own kernels are faster on a CPU.
        jit_compile=keras.backend.backend() == "jax",
    )
    return model


def train(schedules, weight_decay, epsilon, steps, seed, data, **network):
    """The losses and the lengths of the first kernel, every few steps."""
    import keras
    import numpy as np

    from keras_lrs import callbacks

    keras.utils.set_random_seed(seed)
    model = make_network(weight_decay, epsilon, **network)
    x, y = data
    order = np.random.default_rng(seed)
    dtype = keras.config.floatx()

    def batches():
        while True:
            chosen = order.choice(len(x), BATCH_SIZE, replace=False)
            yield x[chosen].reshape(-1, 64).astype(dtype), y[chosen]

    lengths = []

    def note(epoch, logs):
        kernel = keras.ops.convert_to_numpy(model.trainable_variables[0].value)
        lengths.append(float(np.linalg.norm(kernel)))

    history = model.fit(
        batches(),
        steps_per_epoch=EVERY,
        epochs=steps // EVERY,
        shuffle=False,
        callbacks=[
            callbacks.HyperparameterScheduler(**schedules),
            keras.callbacks.LambdaCallback(on_epoch_end=note),
        ],
        verbose=0,
    )
    found = history.history
    return np.array(found.get("cross_entropy", found["loss"])), np.array(lengths)


def compare(
    schedule,
    epsilon,
    steps,
    seed,
    data,
    kind="batch",
    form="decoupled",
    dtype="float64",
):
    """The losses and lengths with weight decay and without, and both schedules.

    With an epsilon, all is computed in float32 whatever `dtype` is.
    """
    from keras_lrs import schedules

    schedule = schedule.bind(steps)
    decay = DECAYS[form]
    network = {"kind": kind, "form": form}
    rate, momentum = schedules.without_weight_decay(
        schedule, decay, steps, MOMENTUM, form=form
    )
    with floats(dtype if epsilon is None else "float32"):
        decayed = train(
            {"learning_rate": schedule},
            decay, epsilon, steps, seed, data, **network,
        )  # fmt: skip
        plain = train(
            {"learning_rate": rate, "momentum": momentum},
            None, epsilon, steps, seed, data, **network,
        )  # fmt: skip
    last = slice(EVERY - 1, None, EVERY)
    rates = schedule.curve(steps)[last], rate.curve(steps)[last]
    return decayed, plain, rates


def gaps(decayed, plain):
    """The largest difference of the losses in each part of the steps."""
    import numpy as np

    # None of no steps, and nan where one of them is.
    every = np.array_split(np.abs(decayed[0] - plain[0]), PARTS)
    return np.array([part.max(initial=0.0) for part in every])


def compare_all(steps, seeds, data):
    """The largest differences by schedule and column, and the curves of one seed.

    There is one for each part of the steps.
    """
    import numpy as np
    from tqdm import tqdm

    schedules = make_schedules()
    differences = {name: dict.fromkeys(COLUMNS, [0.0] * PARTS) for name in schedules}
    curves = {}
    total = len(schedules) * len(COLUMNS) * seeds
    with tqdm(total=total, unit="pair") as progress:
        for name, schedule in schedules.items():
            for column, epsilon in zip(COLUMNS, (None, None, *EPSILONS), strict=True):
                dtype = column if epsilon is None else "float32"
                for seed in range(seeds):
                    decayed, plain, rates = compare(
                        schedule, epsilon, steps, seed, data, dtype=dtype
                    )
                    # `max` would pass over the nan of a seed that diverged.
                    before = differences[name][column]
                    found = np.maximum(before, gaps(decayed, plain))
                    differences[name][column] = found.tolist()
                    if column == EXACT:
                        curves[name] = decayed, plain, rates
                    progress.update()
    return differences, curves


def lemma(seed, data, factor=3.0):
    """Lemma 1: the cosine of weights and gradient, and the gradient at longer weights.

    The gradients are those of a step at a rate of 1, in float64. The second number is
    the length of the gradient at `factor` times the weights, times `factor`, over that
    at the weights; the third is how much the loss differs between them.
    """
    import keras
    import numpy as np

    x, y = (part[:BATCH_SIZE] for part in data)
    x = x.reshape(-1, 64)

    def flat(variables):
        values = (keras.ops.convert_to_numpy(each) for each in variables)
        return np.concatenate([np.ravel(value) for value in values])

    with floats("float64"):
        keras.utils.set_random_seed(seed)
        model = make_network(None, None)
        model.optimizer.momentum = 0.0
        model.optimizer.learning_rate.assign(1.0)
        start = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
        gradients, losses = [], []
        for scale in (1.0, factor):
            for variable, value in zip(model.trainable_variables, start, strict=True):
                variable.assign(scale * value)
            before = flat(model.trainable_variables)
            losses.append(float(model.train_on_batch(x.astype("float64"), y)))
            gradients.append(before - flat(model.trainable_variables))
        weights = np.concatenate([np.ravel(value) for value in start])
    first, second = map(np.linalg.norm, gradients)
    cosine = float(gradients[0] @ weights / first / np.linalg.norm(weights))
    return cosine, float(factor * second / first), losses[1] - losses[0]


def print_table(differences, curves, steps, seeds):
    import numpy as np

    print(
        f"\nLargest difference of the losses in {steps} steps, {seeds} seeds: weight "
        f"decay {WEIGHT_DECAY:g}\nagainst the equivalent schedules without it"
    )
    print(f"{'':<12}", *(f"{column:>10}" for column in COLUMNS),
          f"{'rate x':>9} {'weights x':>10}")  # fmt: skip
    for name, by_column in differences.items():
        decayed, plain, (before, after) = curves[name]
        print(
            f"{name:<12}",
            *(f"{np.max(by_column[column]):>10.1e}" for column in COLUMNS),
            f"{after[-1] / before[-1]:>9.3g} {plain[1][-1] / decayed[1][-1]:>10.3g}",
        )
    print(
        "\nfloat64, float32: a normalization without epsilon. BN: Keras's "
        "BatchNormalization in\nfloat32, with that epsilon. x: how many times larger "
        "than with weight decay at\nthe last step."
    )


def print_lemma(seeds, data):
    print("Lemma 1, for weights that feed a normalization, in float64:")
    print(f"{'seed':>4} {'cosine(gradient, w)':>20} {'3 |g(3 w)| / |g(w)|':>20}")
    for seed in range(seeds):
        cosine, ratio, _ = lemma(seed, data)
        print(f"{seed:>4} {cosine:>20.1e} {ratio:>20.12f}")


def draw(curves, path):
    """Losses, rates and lengths of weights: with weight decay and without."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 4.0), layout="constrained")
    panels = figure.subplots(1, 3)
    for number, (name, (decayed, plain, rates)) in enumerate(curves.items()):
        pairs = ((decayed[0], plain[0]), rates, (decayed[1], plain[1]))
        for axes, (with_decay, without) in zip(panels, pairs, strict=True):
            steps = EVERY * np.arange(1, len(without) + 1)
            axes.plot(steps, with_decay, f"C{number}", alpha=0.4, linewidth=3)
            axes.plot(steps, without, f"C{number}--", label=name)
    for axes, label in zip(
        panels, ("loss", "learning rate", "length of the first kernel"), strict=True
    ):
        axes.set(xlabel="step", ylabel=label, yscale="log")
        axes.grid(alpha=0.3)
    panels[0].set_title(f"one seed, means of {EVERY} steps", fontsize="medium")
    panels[1].legend(
        title="broad: weight decay\ndashed: without", fontsize="small",
        title_fontsize="small",
    )  # fmt: skip
    figure.savefig(path)


def main(arguments=None):
    parser = program.make_parser(__doc__, "exponential_equivalence.png", seeds=3)
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--lemma", action="store_true", help="only Lemma 1")
    options = program.parse(parser, arguments)
    if options.steps % EVERY:
        parser.error(f"--steps must be a multiple of {EVERY}")
    data, _ = load_data()
    if options.lemma:
        print_lemma(options.seeds, data)
        return
    differences, curves = compare_all(options.steps, options.seeds, data)
    print_table(differences, curves, options.steps, options.seeds)
    draw(curves, options.output)
    print(f"Losses, rates and weights: {options.output}")


if __name__ == "__main__":
    main()
