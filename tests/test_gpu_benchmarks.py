"""The benchmark for a GPU runs, divides its time, and says what was not measured."""

import dataclasses
import json
import math
import subprocess

import keras
import numpy as np
import pytest

from tests.programs import ROOT, load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

gpu = load_program("benchmarks/gpu")
BACKEND = keras.backend.backend()
NAME = gpu.CONFIGURATIONS[gpu.CPU][BACKEND]
CARD = "Some GPU"
SMALLEST = list(gpu.averaging.WORKLOADS)[-1]


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return {
        cells[0]: cells[1:] for cells in (line[2:-2].split(" | ") for line in lines)
    }


def samples(names):
    """As many seconds, in two rounds, as the place in the list."""
    return {name: [1.0 + index] * 2 for index, name in enumerate(names)}


def of_part(part):
    """What a process would measure of a part."""
    if part in gpu.averaging.WORKLOADS:
        return samples([*gpu.averaging.contenders("jax"), "limit"])
    return samples([each.name for each in gpu.contenders(part)])


def everything(card=CARD):
    return {gpu.DEVICE: card, **{part: of_part(part) for part in gpu.SHARES}}


# --- Measuring ------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """Networks of few weights, and epochs of two steps."""
    found = dataclasses.replace(gpu.steps.CONFIGURATIONS[NAME], steps=2)
    monkeypatch.setitem(gpu.steps.CONFIGURATIONS, NAME, found)
    monkeypatch.setitem(gpu.steps.SHORTER, gpu.ADAMW, 1)
    monkeypatch.setattr(gpu.device, "NETWORK", {"widths": (4,), "blocks": 1})
    small = {"patch": 16, "width": 4, "depth": 1, "heads": 1, "dropout": 0.1}
    monkeypatch.setattr(gpu.device, "TRANSFORMER", small)
    lengths = dict.fromkeys(gpu.device.LENGTHS, (2, 2))
    monkeypatch.setattr(gpu.device, "LENGTHS", lengths)
    for part in gpu.averaging.WORKLOADS:
        monkeypatch.setitem(gpu.averaging.WORKLOADS, part, (2, 3))


def test_all_contenders_of_each_part_are_measured(tiny, tmp_path):
    file = tmp_path / "lines"
    options = gpu.parsed_arguments(["--quick", "--device", "cpu", "--into", str(file)])
    gpu.measure(BACKEND, options, end=0.0)
    found = dict(map(json.loads, file.read_text(encoding="utf-8").splitlines()))
    assert found.pop(gpu.DEVICE) is None
    assert list(found) == gpu.parts(quick=True)
    for part, of in found.items():
        names = [*gpu.averaging.contenders(BACKEND), "limit"]
        if part in gpu.MODELS:
            names = [each.name for each in gpu.contenders(part)]
        assert list(of) == names
        for seconds in of.values():
            assert len(seconds) == gpu.SIZES[True].rounds
            assert all(math.isfinite(each) and each > 0.0 for each in seconds)


def test_other_parts_count_when_one_fails(tmp_path, monkeypatch, capsys):
    def measured(part, backend, options, end):
        if part == gpu.TINY_VIT:
            raise MemoryError("the device has no more")
        return {part: [1.0]}

    monkeypatch.setattr(gpu, "measured", measured)
    file = tmp_path / "lines"
    options = gpu.parsed_arguments(["--device", "cpu", "--into", str(file)])
    with pytest.raises(SystemExit) as exit:
        gpu.measure(BACKEND, options, end=0.0)
    assert exit.value.code == 1
    assert "the device has no more" in capsys.readouterr().err
    names = [json.loads(line)[0] for line in file.read_text().splitlines()]
    assert names == [gpu.DEVICE, *(p for p in gpu.SHARES if p != gpu.TINY_VIT)]


def test_nothing_is_measured_on_another_device(tmp_path):
    file = tmp_path / "lines"
    options = gpu.parsed_arguments(["--device", "gpu", "--into", str(file)])
    if gpu.device_name() is not None:
        pytest.skip("there is a GPU")
    gpu.measure(BACKEND, options, end=0.0)
    assert file.read_text() == f'["{gpu.DEVICE}", null]\n'


def test_parts_share_the_time_and_what_others_left_of_it(tmp_path, monkeypatch):
    now, stops = 100.0, []

    def measured(part, backend, options, end):
        nonlocal now
        stops.append(end)
        now = end if part != gpu.RESNET else end + 7.0  # A round too many.

    monkeypatch.setattr(gpu.time, "monotonic", lambda: now)
    monkeypatch.setattr(gpu, "measured", measured)
    file = tmp_path / "lines"
    options = gpu.parsed_arguments(["--device", "cpu", "--into", str(file)])
    total = sum(gpu.SHARES.values())
    gpu.measure(BACKEND, options, end=100.0 + 10.0 * total)
    assert stops[0] == pytest.approx(100.0 + 10.0 * gpu.SHARES[gpu.RESNET])
    assert stops[-1] == pytest.approx(100.0 + 10.0 * total)
    lengths = np.diff(stops)[1:]
    shares = list(gpu.SHARES.values())[2:]
    np.testing.assert_allclose(lengths / lengths[0], np.divide(shares, shares[0]))


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="there it is a `tf.data.Dataset`"
)
def test_every_step_is_given_the_same_batch_as_tensors():
    batches = gpu.same_batch(3, (4, 4, 3), 2)["x"]
    assert len(batches) == 3
    (x, y), again = batches[0], batches[2]
    assert again[0] is x
    assert again[1] is y
    assert keras.ops.is_tensor(x)
    assert keras.ops.is_tensor(y)
    assert x.shape == (2, 4, 4, 3)
    assert y.shape == (2,)


def test_the_transformer_is_that_of_the_example():
    settings = load_program("examples/averaging").SETTINGS
    assert settings["vit", "cifar10"].network == gpu.device.TRANSFORMER
    model, _ = gpu.device.transformer(0.1)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("MultiHeadAttention") == 6


@pytest.mark.parametrize("part", gpu.MODELS)
def test_each_model_has_a_control_and_ours_beside_those_of_keras(part):
    names = [each.name for each in gpu.contenders(part)]
    assert names[:2] == [gpu.steps.REFERENCE, gpu.steps.CONTROL]
    assert "`WeightAveraging`" in names
    assert "Keras: `use_ema`" in names
    assert ("Keras: cosine with warmup" in names) == (part in (gpu.ADAM, gpu.ADAMW))
    assert {each.workload for each in gpu.contenders(part)} == {part}


# --- A process per backend ------------------------------------------------------------


@pytest.fixture
def processes(monkeypatch):
    """What processes write, by backend, and how they end; returns their seconds."""
    asked = {}

    def start(programs):
        def process(program, backend, arguments, environment, *, timeout, **options):
            given = gpu.parsed_arguments(arguments)
            asked[backend] = given.seconds, timeout
            found, error = programs[backend]
            lines = [f"{json.dumps(item)}\n" for item in found.items()]
            given.into.write_text("".join(lines) + '["half a')
            if error is not None:
                raise error

        installed = dict.fromkeys(programs, "here")
        monkeypatch.setattr(gpu.device.importlib.util, "find_spec", installed.get)
        monkeypatch.setattr(gpu.steps, "process", process)
        return asked

    return start


def outputs(tmp_path, monkeypatch):
    """Where the program writes if nobody tells it."""
    paths = {"output": tmp_path / "page.md", "aims": tmp_path / "aims.md"}
    paths["summaries"] = tmp_path / "results"
    monkeypatch.setattr(gpu, "OUTPUTS", paths)
    return paths


def test_the_page_has_all_that_was_measured(tmp_path, monkeypatch, processes, capsys):
    asked = processes({"jax": (everything(), None), "torch": (everything(), None)})
    paths = outputs(tmp_path, monkeypatch)
    paths["output"].write_text("# A training step\n", encoding="utf-8")
    gpu.main(["--seconds", "100"])
    assert asked["jax"] == pytest.approx((66.7, 73.3), rel=0.05)  # It compiles.
    assert asked["torch"] == pytest.approx((100.0, 110.0), rel=0.05)  # What is left.
    page = paths["output"].read_text(encoding="utf-8")
    assert page.startswith(f"# A training step\n\n{gpu.TITLE}\n")
    assert capsys.readouterr().out.strip() in page
    assert f"The device: {CARD}." in page
    assert "had 100 seconds" in page
    assert "ot measured" not in page
    rows = rows_of(page)
    for part in gpu.MODELS:
        assert rows[f"**{part}: constant**"] == ["1000.0 ms"] * 2
    assert rows["constant, again"] == ["2.00 [2.00, 2.00]"] * 2
    # It adds 3 seconds to a step of 1; the limit is 6, the last in the list.
    assert rows[gpu.averaging.OURS] == ["0.50 [0.50, 0.50]"] * 2
    aims = rows_of(paths["aims"].read_text(encoding="utf-8"))
    assert any(name.startswith(gpu.ADAMW) for name in aims)
    summary = json.loads((paths["summaries"] / "gpu.json").read_text())
    found = summary["measured"]
    assert found["seconds"]["JAX"][gpu.DEVICE] == CARD
    assert found["ratios"]["JAX"][gpu.RESNET][gpu.steps.CONTROL]["median"] == 2.0


def test_what_is_missing_is_named_and_the_rest_is_kept(
    tmp_path, monkeypatch, processes, capsys
):
    some = {part: of for part, of in everything().items() if part != SMALLEST}
    stopped = subprocess.TimeoutExpired("python", 1.0)
    failed = subprocess.CalledProcessError(-9, "python")
    less = {gpu.DEVICE: CARD, gpu.RESNET: of_part(gpu.RESNET)}
    processes(
        {
            "tensorflow": ({gpu.DEVICE: None}, None),
            "jax": (some, stopped),
            "torch": (less, failed),
        }
    )
    paths = outputs(tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match="Not measured: TensorFlow") as exit:
        gpu.main([])
    page = paths["output"].read_text(encoding="utf-8")
    assert str(exit.value) in page
    assert f"JAX: {SMALLEST} (the time was over)" in page
    assert "(the process ended with -9)" in page
    assert "TensorFlow XLA: everything (it found no GPU)" in page
    rows = rows_of(page)
    assert rows[""] == ["JAX", "PyTorch"]
    assert rows[f"**{gpu.RESNET}: constant**"] == ["1000.0 ms"] * 2
    assert rows[f"**{gpu.ADAM}: constant**"] == ["1000.0 ms", "not measured"]


@pytest.mark.parametrize("arguments", [[], ["--quick"]])
def test_without_a_gpu_it_says_so_and_writes_nothing(
    arguments, tmp_path, monkeypatch, processes
):
    processes({"jax": ({gpu.DEVICE: None}, None)})
    paths = outputs(tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match=r"it found no GPU.*give --device cpu"):
        gpu.main(arguments)
    assert not any(path.exists() for path in paths.values())


@pytest.mark.parametrize("arguments", [["--device", "cpu"], ["--quick"]])
def test_what_only_tries_it_writes_what_it_is_asked_to(
    arguments, tmp_path, monkeypatch, processes, capsys
):
    card = None if "cpu" in arguments else CARD
    processes({"jax": (everything(card), None)})
    paths = outputs(tmp_path, monkeypatch)
    gpu.main(arguments)
    assert gpu.TITLE in capsys.readouterr().out
    assert not any(path.exists() for path in paths.values())
    other = tmp_path / "other.md"
    gpu.main([*arguments, "--output", str(other)])
    assert f"The device: {card or 'CPU'}." in other.read_text(encoding="utf-8")
    assert not any(path.exists() for path in paths.values())


def test_without_a_backend_it_says_so(tmp_path, monkeypatch, processes):
    processes({})
    with pytest.raises(SystemExit, match="no backend is installed"):
        gpu.main([])


# --- The commands ---------------------------------------------------------------------


def commands(target):
    done = subprocess.run(
        ["make", "--dry-run", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.replace("\\\n", " ")


def test_make_gpu_asks_no_network():
    (install,) = [x for x in commands("gpu").splitlines() if " pip " in x]
    assert "--no-index" in install
    assert "--find-links wheels" in install
    assert "benchmarks/gpu.py" in commands("gpu")


def test_the_wheels_are_for_the_python_of_the_other_machine():
    (download,) = [x for x in commands("gpu-wheels").splitlines() if "download" in x]
    assert "--python-version 3.12" in download
    assert "--platform manylinux2014_x86_64" in download
