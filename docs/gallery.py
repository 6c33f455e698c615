"""Draws the gallery: a thumbnail, a picture and a section for every schedule.

Run it after adding a schedule, or after changing one or its docstring:

    python docs/gallery.py
"""

import argparse
import inspect
import io
from pathlib import Path

import keras
from PIL import Image

import keras_lrs as lrs

FOLDER = Path(__file__).parent / "gallery"

NUM_STEPS = 1000
# Nothing could be seen of a curve that jumps at every step.
FEWER_STEPS = {"ChebyshevFractal": 64}

# The size of a thumbnail, which the page scales, and a color for light and dark pages.
WIDTH, HEIGHT, MARGIN = 120, 60, 4
SAMPLES = 100
COLOR = "#5c6bc0"

# Exported bases, from which schedules are made but which are none.
BASES = {"Schedule", "Decay", "Composition"}


@keras.saving.register_keras_serializable(package="gallery")
def sawtooth(step):
    """A rate that falls from 0.1 to 0.05 again and again."""
    return 0.1 - 0.05 * (step % 250.0) / 250.0


# A call for every exported schedule, in the order of the gallery.
EXAMPLES = {
    "LinearDecay": "LinearDecay(0.1)",
    "CosineAnnealing": "CosineAnnealing(0.1)",
    "REXDecay": "REXDecay(0.1)",
    "PolynomialDecay": "PolynomialDecay(0.1, end_learning_rate=0.01, power=2.0)",
    "TanhDecay": "TanhDecay(0.1)",
    "OneMinusSqrtDecay": "OneMinusSqrtDecay(0.1)",
    "BoundedExponentialDecay": (
        "BoundedExponentialDecay(0.1, end_learning_rate=0.001, updates=10)"
    ),
    "Constant": "Constant(0.1)",
    "StepDecay": "StepDecay(0.1, step_size=Fraction(0.25), decay_rate=0.5)",
    "MultiStepDecay": (
        "MultiStepDecay(0.1, milestones=[Fraction(0.5), Fraction(0.75)])"
    ),
    "ExponentialDecay": "ExponentialDecay(0.1, decay_steps=200, decay_rate=0.5)",
    "InverseTimeDecay": "InverseTimeDecay(0.1, decay_steps=100, decay_rate=0.5)",
    "InverseSqrtDecay": "InverseSqrtDecay(0.1, timescale=50)",
    "PowerDecay": "PowerDecay(0.1, scale=1.0)",
    "NoamDecay": "NoamDecay(model_dim=512, warmup_steps=200)",
    "ExponentialGrowth": "ExponentialGrowth(0.01, growth_rate=0.003)",
    "ChebyshevFractal": "ChebyshevFractal(0.01, 0.1, cycle_steps=32)",
    "PiecewiseConstant": "PiecewiseConstant([200, 500, 900], [0.02, 0.1, 0.05, 0.01])",
    "PiecewiseInterpolation": (
        "PiecewiseInterpolation([0, 200, 500, 900], [0.02, 0.1, 0.05, 0.01])"
    ),
    "FunctionSchedule": "FunctionSchedule(sawtooth)",
    "Warmup": "Warmup(CosineAnnealing(0.1), warmup_steps=Fraction(0.1))",
    "Delayed": "Delayed(LinearDecay(0.1), delay_steps=Fraction(0.5))",
    "Sequential": (
        "Sequential([LinearDecay(0.05), REXDecay(0.1)], boundaries=[Fraction(0.3)])"
    ),
    "Restarts": "Restarts(REXDecay(0.1), t_mul=1.5, m_mul=0.8, num_cycles=4)",
    "Sampled": "Sampled(REXDecay(0.1), every=Fraction(0.1))",
    "Scaled": "Scaled(CosineAnnealing(0.1), factor=0.5)",
    "Product": "Product([LinearDecay(0.1), StepDecay(1.0, 250, decay_rate=0.7)])",
    "Sum": "Sum([LinearDecay(0.06), StepDecay(0.04, 250, decay_rate=0.5)])",
    "Clipped": "Clipped(CosineAnnealing(0.1), minimum=0.02, maximum=0.09)",
    "Noisy": "Noisy(CosineAnnealing(0.1), stddev=0.1)",
    "OneCycle": "OneCycle(0.1)",
    "WarmupStableDecay": (
        "WarmupStableDecay(0.1, warmup_steps=50, decay_steps=Fraction(0.2))"
    ),
    "FlatCosine": "FlatCosine(0.1)",
    "CosineRestarts": "CosineRestarts(0.1, num_cycles=3)",
    "PhasedCosine": (
        "PhasedCosine([300, 300, 400], [0.1, 0.06, 0.03], [0.02, 0.01, 0.0])"
    ),
    "CyclicalLearningRate": (
        'CyclicalLearningRate(0.01, 0.1, step_size=125, mode="triangular2")'
    ),
}

INTRODUCTION = f"""\
# Gallery

Every schedule of `keras_lrs.schedules`. Unless stated otherwise, a schedule is drawn
for a run of {NUM_STEPS:,} steps, which open lengths and `Fraction`s refer to.
"""


def schedule_names() -> list[str]:
    """The exported schedules, in the order of `EXAMPLES`.

    Raises:
        ValueError: If one has no example, or an example is of none.
    """
    exported = {name: getattr(lrs.schedules, name) for name in lrs.schedules.__all__}
    names = {
        name
        for name, value in exported.items()
        if isinstance(value, type) and issubclass(value, lrs.schedules.Schedule)
    } - BASES
    missing, unknown = names - EXAMPLES.keys(), EXAMPLES.keys() - names
    if missing:
        raise ValueError(
            f"Exported by `keras_lrs.schedules` but without an example: "
            f"{', '.join(sorted(missing))}. Add one to `EXAMPLES` in docs/gallery.py."
        )
    if unknown:
        raise ValueError(
            f"In `EXAMPLES` in docs/gallery.py but not exported by "
            f"`keras_lrs.schedules`: {', '.join(sorted(unknown))}. Remove it."
        )
    return list(EXAMPLES)


def example(name: str) -> lrs.schedules.Schedule:
    """The schedule that the example of a class makes."""
    return eval(EXAMPLES[name], {**vars(lrs.schedules), "sawtooth": sawtooth})


def num_steps(name: str) -> int:
    """How many steps of a class's example are drawn."""
    return FEWER_STEPS.get(name, NUM_STEPS)


def thumbnail(name: str) -> str:
    """The curve of a class's example as an SVG without axes, from 0 to its maximum."""
    steps = num_steps(name)
    rates = example(name).bind(steps).curve(steps)
    sampled = range(0, steps, max(steps // SAMPLES, 1))
    points = " ".join(
        f"{MARGIN + (WIDTH - 2 * MARGIN) * step / sampled[-1]:.1f},"
        f"{MARGIN + (HEIGHT - 2 * MARGIN) * (1 - rates[step] / max(rates)):.1f}"
        for step in sampled
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">\n'
        f'<polyline points="{points}" fill="none" stroke="{COLOR}" stroke-width="2" '
        'stroke-linejoin="round"/>\n</svg>\n'
    )


def draw(name: str, folder: Path) -> None:
    """Saves the picture and the thumbnail of a class's example."""
    (folder / f"{name}.svg").write_text(thumbnail(name), encoding="utf-8")
    figure = lrs.plot_schedules(example(name), num_steps(name))
    figure.legends[0].remove()
    figure.axes[0].set_ylim(bottom=0.0)
    figure.set_size_inches(5.0, 2.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    # A palette makes a third of the size, and leaves out matplotlib's version.
    Image.open(buffer).convert("RGB").quantize(64).save(
        folder / f"{name}.png", optimize=True
    )


def describe(name: str) -> dict[str, str]:
    """The summary, the formula and the use of a class, from its docstring."""
    documentation = inspect.getdoc(getattr(lrs.schedules, name)) or ""
    summary, *paragraphs = documentation.partition("\n\nArgs:")[0].split("\n\n")
    use = [text for text in paragraphs if text.startswith("Use it")]
    if not use:
        raise ValueError(
            f"The docstring of `keras_lrs.schedules.{name}` has no paragraph that "
            'begins with "Use it".'
        )
    formula = [text for text in paragraphs if text not in use]
    return {"summary": summary, "formula": "\n\n".join(formula), "use": use[0]}


def section(name: str) -> str:
    """The section of `index.md` about a class."""
    text = describe(name)
    call = EXAMPLES[name]
    if name == "FunctionSchedule":
        call = f"{inspect.getsource(sawtooth)}\n\n{call}"
    return f"""\
## {name}

{text["summary"]}

![The learning rate over {num_steps(name):,} steps]({name}.png)

{text["formula"]}

{text["use"]}

```python
{call}
```
"""


def grid(names: list[str]) -> str:
    """The thumbnails, each of which leads to its section."""
    links = (f"[![]({name}.svg) {name}](#{name.lower()})" for name in names)
    return "\n".join(['<div class="gallery" markdown>', "", *links, "", "</div>", ""])


def index() -> str:
    """The text of `index.md`."""
    names = schedule_names()
    return "\n".join([INTRODUCTION, grid(names), *map(section, names)])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder")
    folder = parser.parse_args(arguments).output
    folder.mkdir(parents=True, exist_ok=True)
    for name in schedule_names():
        draw(name, folder)
    (folder / "index.md").write_text(index(), encoding="utf-8")
    print(f"Wrote {len(schedule_names())} pictures and index.md to {folder}")


if __name__ == "__main__":
    main()
