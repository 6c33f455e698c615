"""What Chebyshev's rates in fractal order do, in about a minute on two cores.

    python examples/fractal.py
    python examples/fractal.py --backend torch --cycles 16 64 256

Agarwal, Goel and Zhang ("Acceleration via Fractal Learning Rate Schedules", ICML 2021,
arXiv:2103.01338) reorder the reciprocals of Chebyshev's nodes so that plain gradient
descent, without momentum, converges as fast as accelerated methods and does not blow up
rounding errors. After a cycle of T steps, on curvatures in [m, M] with rho =
(sqrt(M/m) - 1) / (sqrt(M/m) + 1), the error is at most 2 rho^T / (1 + rho^2T) of the
first; the best constant rate leaves ((M - m) / (M + m))^T.

Two problems, both with Keras's SGD in float32, all data in every step:

- a quadratic with curvatures from 1/100 to 1: the theorem, measured;
- logistic regression on scans of digits (even or odd) with weight decay in the loss,
  where the curvature is only known to lie in [lambda, lambda + sigma^2 / 4] and the
  theorem does not apply: the loss above the optimum at the ends of cycles, against the
  best constant rate of a log grid, and Polyak's heavy ball.

The quadratic does what the theorem says, to three digits or more in float32. Logistic
regression does not, its curvature changes along the way: `docs/evidence.md`.
"""

import program
from quickstart import load_data

CONDITION = 100.0
CYCLES = (8, 16, 32, 64)
STEPS = 192  # Of logistic regression: a multiple of the longest cycle.
PENALTY = 0.001
GRID = 9  # Constant rates, evenly on the log scale.


def contraction(cycle, condition):
    """The theorem's rate, and that of the best constant rate."""
    root = condition**0.5
    rho = (root - 1.0) / (root + 1.0)
    constant = (condition - 1.0) / (condition + 1.0)
    return 2.0 * rho**cycle / (1.0 + rho ** (2 * cycle)), constant**cycle


def descend(model, steps, cycle, x, y, **schedules):
    """Full-batch gradient descent; the loss at the end of each cycle."""
    from keras_lrs import callbacks

    def batches():
        while True:
            yield x, y

    history = model.fit(
        batches(),
        steps_per_epoch=cycle,
        epochs=steps // cycle,
        shuffle=False,
        callbacks=[callbacks.HyperparameterScheduler(**schedules)],
        validation_data=(x, y),
        validation_batch_size=len(x),
        verbose=0,
    )
    return history.history["val_loss"]


def make_quadratic(curvatures):
    """Linear regression whose loss is the quadratic with these curvatures."""
    import keras
    import numpy as np

    size = len(curvatures)
    # The mean over `size` rows of (x w)^2 has the curvatures 2 x^2 / size.
    x = np.diag(np.sqrt(0.5 * size * curvatures)).astype("float32")
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((size,)), dense])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    return model, x, np.zeros((size, 1), "float32")


def solve_quadratic(cycles):
    """The largest error after a cycle: fractal, theorem, and best constant rate."""
    import keras
    import numpy as np

    from keras_lrs import schedules

    curvatures = np.geomspace(1.0 / CONDITION, 1.0, 64)
    found = {}
    for cycle in cycles:
        model, x, y = make_quadratic(curvatures)
        fractal = schedules.ChebyshevFractal(1.0, CONDITION, cycle)
        descend(model, cycle, cycle, x, y, learning_rate=fractal)
        error = np.abs(keras.ops.convert_to_numpy(model.weights[0].value)).max()
        found[cycle] = (float(error), *contraction(cycle, CONDITION))
    return found


def make_digits(seed):
    """Half of the digits, even (1) or odd (0), standardized."""
    import numpy as np

    (images, labels), _ = load_data()
    chosen = np.random.default_rng(seed).choice(len(images), 640, replace=False)
    x = images[chosen].reshape(-1, 64)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-3)
    return x.astype("float32"), (labels[chosen, None] % 2 == 0).astype("float32")


def make_logistic(momentum=0.0):
    import keras

    dense = keras.layers.Dense(
        1,
        use_bias=False,
        kernel_initializer="zeros",
        kernel_regularizer=keras.regularizers.L2(PENALTY / 2.0),
    )
    model = keras.Sequential([keras.Input((64,)), dense])
    model.compile(
        keras.optimizers.SGD(1.0, momentum=momentum),
        keras.losses.BinaryCrossentropy(from_logits=True),
        # For a model this small, TensorFlow's own kernels are faster on a CPU.
        jit_compile=keras.backend.backend() == "jax",
    )
    model.optimizer.build(model.trainable_variables)
    return model


def lowest_loss(x, y):
    """By Newton's method, in float64."""
    import numpy as np

    x, y = x.astype(np.float64), y[:, 0].astype(np.float64)
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-x @ w))
        slope = x.T @ (p - y) / len(x) + PENALTY * w
        curvature = (x * (p * (1.0 - p))[:, None]).T @ x / len(x)
        w -= np.linalg.solve(curvature + PENALTY * np.eye(len(w)), slope)
    z = x @ w
    return float(np.mean(np.logaddexp(0.0, z) - y * z) + 0.5 * PENALTY * w @ w)


def methods(cycles, condition, largest):
    """The cycle and the schedules of each method, for curvatures up to `largest`."""
    import numpy as np

    from keras_lrs import schedules

    longest = max(cycles)
    for rate in np.geomspace(0.25, 16.0, GRID) / largest:
        yield (
            f"constant {rate * largest:.2f} / M",
            longest,
            {"learning_rate": schedules.Constant(rate)},
        )
    for cycle in cycles:
        yield (
            f"fractal, T = {cycle}",
            cycle,
            {
                "learning_rate": schedules.ChebyshevFractal(
                    1.0 / largest, condition / largest, cycle
                )
            },
        )
    # Polyak's heavy ball, at what is optimal for a quadratic.
    root = condition**0.5
    yield (
        "heavy ball",
        longest,
        {
            "learning_rate": schedules.Constant(
                4.0 / largest / (1.0 + 1.0 / root) ** 2
            ),
            "momentum": schedules.Constant(((root - 1.0) / (root + 1.0)) ** 2),
        },
    )


def solve_logistic(cycles, seeds, steps):
    """The loss above the lowest at the ends of cycles: `{method: (cycle, runs)}`."""
    import numpy as np
    from tqdm import tqdm

    gaps: dict = {}
    models = make_logistic(), make_logistic(momentum=0.5)
    with tqdm(total=seeds * (GRID + len(cycles) + 1), unit="run") as progress:
        for seed in range(seeds):
            x, y = make_digits(seed)
            lowest = lowest_loss(x, y)
            largest = PENALTY + np.linalg.norm(x, 2) ** 2 / (4.0 * len(x))
            for name, cycle, schedules in methods(cycles, largest / PENALTY, largest):
                model = models["momentum" in schedules]
                for variable in [*model.variables, *model.optimizer.variables]:
                    if variable is not model.optimizer.learning_rate:
                        variable.assign(variable * 0)
                losses = descend(model, steps, cycle, x, y, **schedules)
                gaps.setdefault(name, (cycle, []))[1].append(np.array(losses) - lowest)
                progress.update()
    return gaps


def best_constant(gaps):
    """The constant rate with the smallest mean loss at the end."""
    constants = [name for name in gaps if name.startswith("constant")]
    return min(constants, key=lambda name: final(gaps[name]))


def final(gap):
    """The mean over seeds at the last step; infinite if one has diverged."""
    import numpy as np

    last = float(np.mean([run[-1] for run in gap[1]]))
    return last if np.isfinite(last) else float("inf")


def print_tables(quadratic, gaps, steps, seeds):
    import numpy as np

    print(f"\nQuadratic, condition {CONDITION:g}: the largest error after T steps")
    print(f"{'T':>5} {'fractal':>12} {'theorem':>12} {'best constant':>14}")
    for cycle, values in quadratic.items():
        print(f"{cycle:>5}", "{:>12.4e} {:>12.4e} {:>14.4e}".format(*values))
    print(
        f"\nLogistic regression on digits: loss above the lowest after {steps} steps, "
        f"{seeds} seeds"
    )
    best = best_constant(gaps)
    for name, gap in gaps.items():
        if name.startswith("constant") and name != best:
            continue
        runs = [run[-1] for run in gap[1]]
        print(
            f"{'best ' * (name == best) + name:<24} {np.mean(runs):>10.2e} "
            f"(from {min(runs):.1e} to {max(runs):.1e})"
        )


def draw(quadratic, gaps, path):
    """Errors after a cycle on the left, losses at the ends of cycles on the right."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    cycles = list(quadratic)
    columns = np.array(list(quadratic.values())).T
    for values, style, label in zip(
        columns, ("C0o", "k:", "C1--"),
        ("fractal", "theorem", "best constant (formula)"),
        strict=True,
    ):  # fmt: skip
        left.plot(cycles, values, style, label=label)
    left.set(xlabel="T", ylabel="largest error", yscale="log", title="quadratic")
    best = best_constant(gaps)
    for name, (cycle, runs) in gaps.items():
        if name.startswith("constant") and name != best:
            continue
        mean = np.mean(runs, axis=0)
        ends = cycle * np.arange(1, len(mean) + 1)
        right.plot(ends, mean, "o-", ms=3, label="best " * (name == best) + name)
    right.set(
        xlabel="step", ylabel="loss above the lowest", yscale="log",
        title="logistic regression, ends of cycles",
    )  # fmt: skip
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path)


def main(arguments=None):
    parser = program.make_parser(__doc__, "fractal.png", seeds=3)
    parser.add_argument("--cycles", type=int, nargs="+", default=CYCLES, metavar="T")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the regression")
    options = program.parse(parser, arguments)
    for cycle in options.cycles:
        if cycle < 1 or cycle & (cycle - 1) or options.steps % cycle:
            parser.error("--cycles must be powers of two that divide --steps")
    quadratic = solve_quadratic(options.cycles)
    gaps = solve_logistic(options.cycles, options.seeds, options.steps)
    print_tables(quadratic, gaps, options.steps, options.seeds)
    draw(quadratic, gaps, options.output)
    print(f"Errors and losses: {options.output}")


if __name__ == "__main__":
    main()
