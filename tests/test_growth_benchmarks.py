"""The benchmarks of growth and of a network run, and say what was not measured."""

import json
import math

import keras
import pytest

from tests.programs import load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

device = load_program("benchmarks/device")
growth = load_program("benchmarks/growth")
BACKEND = keras.backend.backend()
TINY = growth.Size(seconds=0.0, rounds=2, fresh=0)


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line[2:-2].split(" | ") for line in lines]


# --- Growth ---------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setitem(growth.STEPS, BACKEND, 2)


@pytest.mark.parametrize(
    ("axis", "count"),
    [(growth.BOUNDARIES, 10), (growth.VARIABLES, 3), (growth.PARAMETERS, 50)],
)
def test_every_row_of_an_axis_is_measured(axis, count, short):
    name = next(n for n, backend in growth.CONFIGURATIONS.items() if backend == BACKEND)
    found = growth.step_seconds(name, axis, count, BACKEND, TINY)
    assert list(found) == [growth.REFERENCE, *growth.ROWS[axis]]
    for seconds in found.values():
        assert len(seconds) == TINY.rounds
        assert all(math.isfinite(each) and each > 0.0 for each in seconds)


@pytest.mark.parametrize(("count", "size"), [(10, 100), (1, 12_345)])
def test_models_have_as_many_variables_and_parameters_as_they_say(count, size):
    model = growth.tensors(count, size)
    assert len(model.trainable_variables) == count
    assert model.count_params() == count * size


def test_the_schedule_of_keras_is_only_run_where_it_finishes():
    for backend, most in growth.MOST_OF_KERAS.items():
        for count in growth.COUNTS[growth.BOUNDARIES]:
            names = [c.name for c in growth.contenders("boundaries", count, backend)]
            assert (growth.KERAS_PIECEWISE in names) == (count <= most)
            assert growth.PIECEWISE in names


def test_tables_of_growth_have_a_column_for_every_count():
    def seconds(axis, count, backend):
        names = [c.name for c in growth.contenders(axis, count, backend)]
        return {name: [1.0 + index, 3.0] for index, name in enumerate(names)}

    results = {
        name: {
            axis: {str(count): seconds(axis, count, backend) for count in counts}
            for axis, counts in growth.COUNTS.items()
        }
        for name, backend in growth.CONFIGURATIONS.items()
    }
    text = growth.markdown(json.loads(json.dumps(results)))
    assert text.startswith(f"{growth.TITLE}\n")
    rows = rows_of(text)
    for axis, counts in growth.COUNTS.items():
        assert [axis, *(f"{count:,}" for count in counts)] in rows
    assert ["**JAX: constant**", *["2e+03 ms"] * 5] in rows
    keras_rows = [row for row in rows if row[0] == growth.KERAS_PIECEWISE]
    finished = [sum("not run" not in cell for cell in row[1:]) for row in keras_rows]
    assert finished == [3, 3, 4]


def test_each_backend_and_axis_has_a_process_of_its_own(monkeypatch, tmp_path, capsys):
    asked = []

    def run(program, backend, arguments):
        asked.append((backend, arguments))
        rows = growth.ROWS[arguments[3]]
        return {"10": {name: [1.0, 2.0] for name in (growth.REFERENCE, *rows)}}

    monkeypatch.setattr(growth.steps, "run", run)
    path, file = tmp_path / "performance.md", tmp_path / "results.json"
    path.write_text("# Top\n", encoding="utf-8")
    options = ["--quick", "--results", str(file)]
    growth.main([*options, "--backends", "jax", "--axes", "boundaries", "variables"])
    growth.main([*options, "--backends", "torch", "--axes", "boundaries"])
    assert asked == [
        ("jax", ["--measure", "JAX", "--axes", "boundaries", "--quick"]),
        ("jax", ["--measure", "JAX", "--axes", "variables", "--quick"]),
        ("torch", ["--measure", "PyTorch", "--axes", "boundaries", "--quick"]),
    ]
    capsys.readouterr()
    growth.main([*options, "--axes", "parameters", "--output", str(path)])
    written = path.read_text(encoding="utf-8")
    assert written.startswith(f"{growth.TITLE}\n")
    assert capsys.readouterr().out.strip() in written
    rows = rows_of(written)
    assert rows.count(["**PyTorch: constant**", "1.5e+03 ms"]) == 2
    assert rows.count(["**PyTorch: constant**", "not measured"]) == 1


# --- A network ------------------------------------------------------------------------

SECONDS = {each.name: [0.2, 0.1, 0.3] for each in device.CONTENDERS}
SECONDS[device.CONTENDERS[-1].name] = [0.4, 0.2, 0.6]


def test_a_network_is_trained_in_all_ways(monkeypatch):
    monkeypatch.setattr(device, "NETWORK", {"widths": (4,), "blocks": 1})
    monkeypatch.setattr(device, "LENGTHS", dict.fromkeys(device.LENGTHS, (2, 2)))
    found = device.measured(TINY)
    assert list(found) == [each.name for each in device.CONTENDERS]
    for seconds in found.values():
        assert len(seconds) == TINY.rounds
        assert all(math.isfinite(each) and each > 0.0 for each in seconds)


def test_backends_that_are_installed_come_together_in_one_table(
    monkeypatch, tmp_path, capsys
):
    asked = []

    def run(program, backend, arguments, environment):
        asked.append((backend, arguments))
        assert environment == device.ON_CPU
        return SECONDS

    installed = {"jax": "here", "torch": "here"}
    monkeypatch.setattr(device.importlib.util, "find_spec", installed.get)
    monkeypatch.setattr(device.steps, "run", run)
    path = tmp_path / "performance.md"
    device.main(["--quick", "--output", str(path)])
    assert asked == [(name, ["--measure", "--quick"]) for name in installed]
    printed = capsys.readouterr()
    assert "TensorFlow is not installed." in printed.err
    written = path.read_text(encoding="utf-8")
    assert printed.out.strip() in written
    header, _, first, *rows = rows_of(written)
    assert header == ["", "JAX", "PyTorch"]
    assert first == ["**constant**", "200 ms", "200 ms"]
    assert [row[1] for row in rows] == ["1.00 [1.00, 1.00]"] * 3 + ["2.00 [2.00, 2.00]"]


def test_the_network_is_the_resnet_20_of_the_example():
    model, _ = device.resnet(0.1)
    convolutions = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3)
    ]
    assert len(convolutions) == 19
