"""Draws the logo of the site: a warmup, a decay and a restart.

    python docs/logo.py

The curve is that of a schedule of this package, and white; the favicon has a ground.
"""

import pathlib

import keras_lrs as lrs

FOLDER = pathlib.Path(__file__).parent / "images"
SIZE, MARGIN, WIDTH, SAMPLES = 64, 10, 7, 48
GROUND = "#3f51b5"  # Indigo, the color of the site's header.


def path() -> str:
    """The curve as the path of an SVG."""
    cycle = lrs.schedules.Warmup(lrs.schedules.CosineAnnealing(1.0), 6)
    restarts = lrs.schedules.Restarts(cycle, SAMPLES // 2, m_mul=0.7)
    rates = restarts.curve(SAMPLES)
    inner = SIZE - 2 * MARGIN
    points = [
        f"{MARGIN + inner * step / (SAMPLES - 1):.1f},{MARGIN + inner * (1 - rate):.1f}"
        for step, rate in enumerate(rates)
    ]
    return f"M{points[0]} L" + " ".join(points[1:])


def svg(ground: bool) -> str:
    """The logo, with or without a ground."""
    rectangle = f'<rect width="{SIZE}" height="{SIZE}" rx="12" fill="{GROUND}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}">\n'
        + f"{rectangle}\n" * ground
        + f'<path d="{path()}" fill="none" stroke="#fff" stroke-width="{WIDTH}" '
        'stroke-linejoin="round" stroke-linecap="round"/>\n</svg>\n'
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "logo.svg").write_text(svg(ground=False))
    (FOLDER / "favicon.svg").write_text(svg(ground=True))
