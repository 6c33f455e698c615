"""Tests that the gallery in docs/gallery shows every schedule as it is."""

import re

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests.programs import load_program

REGENERATE = "docs/gallery is out of date: run `make gallery`"


gallery = load_program("docs/gallery")


def exported_schedules():
    values = [getattr(lrs.schedules, name) for name in lrs.schedules.__all__]
    return {
        value.__name__
        for value in values
        if isinstance(value, type) and issubclass(value, lrs.schedules.Schedule)
    }


def test_every_exported_schedule_has_an_example():
    assert set(gallery.EXAMPLES) == exported_schedules() - gallery.BASES


@pytest.mark.parametrize("name", gallery.EXAMPLES)
def test_an_example_makes_a_schedule_of_its_class(name):
    schedule = gallery.example(name)
    assert type(schedule).__name__ == name
    assert np.isfinite(schedule.bind(gallery.NUM_STEPS).curve(gallery.NUM_STEPS)).all()


@pytest.mark.parametrize("name", gallery.EXAMPLES)
def test_every_schedule_has_a_small_picture(name):
    picture = gallery.FOLDER / f"{name}.png"
    assert picture.exists(), REGENERATE
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 20_000


@pytest.mark.parametrize("name", gallery.EXAMPLES)
def test_a_thumbnail_shows_the_curve(name):
    thumbnail = gallery.FOLDER / f"{name}.svg"
    assert thumbnail.exists(), REGENERATE
    content = thumbnail.read_text(encoding="utf-8")
    assert len(content) < 2_000
    points = re.search(r'points="(.+?)"', content)[1].split()
    left, top = np.array([point.split(",") for point in points], "float64").T
    steps = gallery.num_steps(name)
    schedule = gallery.example(name).bind(steps)
    rates = keras.ops.convert_to_numpy(schedule(np.arange(steps)))
    shown = rates[:: steps // len(points)]
    np.testing.assert_allclose((56 - top) / 52, shown / rates.max(), atol=2e-3)
    np.testing.assert_allclose(left, np.linspace(4, 116, len(points)), atol=0.06)


def test_no_picture_is_left_of_a_schedule_that_has_gone():
    for suffix in ("png", "svg"):
        pictures = {path.stem for path in gallery.FOLDER.glob(f"*.{suffix}")}
        assert pictures == set(gallery.EXAMPLES), REGENERATE


def test_the_index_is_up_to_date():
    written = (gallery.FOLDER / "index.md").read_text(encoding="utf-8")
    for name in gallery.EXAMPLES:
        assert f"## {name}\n" in written, REGENERATE
        assert f"({name}.png)" in written, REGENERATE
        link = f"[![]({name}.svg) {name}](#{name.lower()})"
        assert link in written, REGENERATE
    assert written == gallery.index(), REGENERATE


@pytest.mark.parametrize("name", gallery.EXAMPLES)
def test_a_section_has_all_its_parts(name):
    text = gallery.describe(name)
    assert text["summary"].endswith(".")
    assert text["formula"]
    assert text["use"].startswith("Use it")


def test_a_schedule_without_an_example_is_named(monkeypatch):
    # A dictionary of its own: an entry that is put back would come last.
    examples = {k: v for k, v in gallery.EXAMPLES.items() if k != "REXDecay"}
    monkeypatch.setattr(gallery, "EXAMPLES", examples)
    with pytest.raises(ValueError, match="without an example: REXDecay"):
        gallery.index()


def test_an_example_of_no_schedule_is_named(monkeypatch):
    monkeypatch.setitem(gallery.EXAMPLES, "Gone", "Gone(0.1)")
    with pytest.raises(ValueError, match=r"not exported by .*: Gone"):
        gallery.index()


def test_pictures_are_the_same_when_drawn_again(tmp_path):
    gallery.draw("REXDecay", tmp_path)
    first = (tmp_path / "REXDecay.png").read_bytes()
    gallery.draw("REXDecay", tmp_path)
    assert (tmp_path / "REXDecay.png").read_bytes() == first


def test_the_program_writes_pictures_and_index(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gallery, "schedule_names", lambda: ["Constant", "REXDecay"])
    gallery.main(["--output", str(tmp_path / "new")])
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == [
        *("Constant.png", "Constant.svg", "REXDecay.png", "REXDecay.svg"),
        "index.md",
    ]
    assert "Wrote 2 pictures" in capsys.readouterr().out
