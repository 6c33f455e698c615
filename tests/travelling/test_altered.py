"""An altered file is refused, or loads to what is valid; it runs nothing."""

import contextlib
import io
import json
import pathlib
import sys
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_lrs as lrs
from keras_lrs._storage import manifest
from keras_lrs.averages import snapshots
from keras_lrs.ensembles import store
from tests import catalogue
from tests.callbacks import references
from tests.fuzz.subjects import assert_values, check_schedule
from tests.fuzz.test_arguments import ASKED, fuzzed, in_time

pytestmark = pytest.mark.only("tensorflow")

S = lrs.schedules
EXAMPLES = int(ASKED or 100)

SERIALIZED = [
    keras.saving.serialize_keras_object(one)
    for one in [
        *catalogue.SCHEDULES[::3],
        *catalogue.OPEN[::3],
        lrs.averages.UniformAverage(),
    ]
]

TRAP = pathlib.Path("trap")

# What an attacker would have executed.
MALICIOUS = [
    {"class_name": "system", "module": "os", "config": f"touch {TRAP}"},
    {"class_name": "__lambda__", "config": {"value": "4wAAAAA="}},
    {
        "class_name": "__lambda__",
        "module": "builtins",
        "config": {"value": ["4wAAAAAAAAAA", None, None]},
    },
    {"class_name": "function", "module": "builtins", "config": "exec"},
    {"class_name": "function", "module": "os", "config": "system"},
    {"class_name": "function", "module": "this", "config": "s"},
    {"class_name": "s", "module": "this", "config": {}, "registered_name": None},
    {"class_name": "function", "module": "shutil", "config": "rmtree"},
    {
        "class_name": "Popen",
        "module": "subprocess",
        "config": {"args": ["touch", str(TRAP)]},
        "registered_name": None,
    },
    {"class_name": "Lambda", "module": "keras.layers", "config": {"function": "exec"}},
    {
        "class_name": "__typespec__",
        "module": "os",
        "spec_name": "system",
        "config": [1],
    },
    {"class_name": "__numpy__", "config": {"value": [1, 2], "dtype": "O"}},
    {"class_name": "__bytes__", "config": {"value": "x"}},
    {
        "class_name": "LinearDecay",
        "module": "foreign_module_that_is_a_trap",
        "config": {},
        "registered_name": "somebody>LinearDecay",
    },
]

# What Python tells of what it does; it cannot be told to stop telling.
FORBIDDEN = {
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"),
    *("subprocess.Popen", "socket.connect", "urllib.Request", "pickle.find_class"),
}
EVENTS = set()


@pytest.fixture(scope="module")
def heard():
    """Hears what happens, from the first test on that asks for it."""
    # As a default: at the end of the process no global is left.
    sys.addaudithook(lambda event, _, add=EVENTS.add: add(event))


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["keras_lrs>LinearDecay", "os", "__main__", "keras.layers"]),
    st.sampled_from(MALICIOUS),
    st.sampled_from(SERIALIZED),
)
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["class_name", "config", "module", "registered_name", "a"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=6,
)


def places(config):
    """Where something stands in a config, however deep: the keys that lead there."""
    left = [((), config)]
    while left:
        path, value = left.pop()
        yield path
        if isinstance(value, dict):
            left += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            left += [((*path, index), inner) for index, inner in enumerate(value)]


def deep(value):
    """A value inside 200 lists and dictionaries."""
    for level in range(200):
        value = [value] if level % 2 else {"class_name": value}
    return value


def fresh(value):
    """A copy, as of a file: swapped, what stands in two places would hold itself."""
    return json.loads(json.dumps(value))


@st.composite
def altered(draw, configs):
    """A config in which values are exchanged, taken out, swapped or put in."""
    config = fresh(draw(st.sampled_from(configs)))
    for _ in range(draw(st.integers(1, 3))):
        known = [path for path in places(config) if path]
        if not known:
            break
        path = draw(st.sampled_from(known))
        holder = config
        for key in path[:-1]:
            holder = holder[key]
        action = draw(st.sampled_from(["set", "set", "delete", "swap", "add", "deep"]))
        if action == "set":
            holder[path[-1]] = fresh(draw(anything))
        elif action == "deep":
            holder[path[-1]] = deep(fresh(draw(leaves)))
        elif action == "delete":
            del holder[path[-1]]
        elif action == "add" and isinstance(holder, dict):
            holder[draw(st.text(max_size=5))] = fresh(draw(anything))
        elif action == "swap":
            other = draw(st.sampled_from(known))
            found = config
            for key in other[:-1]:
                found = found[key]
            if other[: len(path)] != path and path[: len(other)] != other:
                one, two = holder[path[-1]], found[other[-1]]
                holder[path[-1]], found[other[-1]] = two, one
    return config


@pytest.fixture(autouse=True)
def guarded(heard, tmp_path, monkeypatch):
    """Fails where something is executed or imported on behalf of a file."""
    monkeypatch.chdir(tmp_path)
    EVENTS.clear()
    yield
    assert not EVENTS & FORBIDDEN
    assert not (tmp_path / TRAP).exists()
    assert "this" not in sys.modules


@fuzzed(EXAMPLES)
@given(altered(SERIALIZED))
def test_an_altered_config_is_refused_or_valid(config):
    with in_time(20):
        try:
            found = keras.saving.deserialize_keras_object(fresh(config), safe_mode=True)
        except Exception:
            return  # An error of any kind is a refusal.
        if isinstance(found, lrs.averages.Average):
            assert_values(found, high=1.0)
        elif isinstance(found, S.Schedule) and holds_foreign(found):
            # Keras's schedules check nothing: they raise, or are NaN, when called.
            with contextlib.suppress(Exception):
                found.curve(3)
        elif isinstance(found, S.Schedule):
            check_schedule(found)


def holds_foreign(schedule):
    """Whether somewhere in a schedule there is one of another's."""
    return any(
        not isinstance(inner, S.Schedule) or holds_foreign(inner)
        for _, inner in schedule._inner()
    )


def saved(optimizer):
    """The parts of a `.keras` file."""
    model = references.linear_model(optimizer)
    optimizer.build(model.trainable_variables)
    model.save("model.keras")
    with zipfile.ZipFile("model.keras") as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture
def parts():
    nested = S.Warmup(S.Product([S.REXDecay(0.1, 50), S.StepDecay(0.5, 9)]), 5)
    inner = keras.optimizers.SGD(nested)
    return saved(
        lrs.optimizers.ScheduleFree(inner, average=lrs.averages.WarmupAverage(0.9))
    )


@settings(
    parent=fuzzed(EXAMPLES if ASKED else 20),
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_an_altered_file_is_refused_or_valid(parts, data):
    config = json.loads(parts["config.json"])
    optimizer = data.draw(altered([config["compile_config"]["optimizer"]]))
    config["compile_config"]["optimizer"] = optimizer
    with zipfile.ZipFile("altered.keras", "w") as file:
        for name, content in parts.items():
            if name == "config.json":
                content = json.dumps(config)
            file.writestr(name, content)
    with in_time(20):
        try:
            model = keras.saving.load_model("altered.keras", safe_mode=True)
        except Exception:
            return
        assert isinstance(model, keras.Model)


def test_a_lambda_in_a_schedule_of_a_file_is_not_run(parts):
    config = json.loads(parts["config.json"])
    for malicious in MALICIOUS:
        for inside in (
            malicious,
            {
                "module": "keras_lrs.schedules.open_ended",
                "class_name": "FunctionSchedule",
                "config": {"function": malicious},
                "registered_name": "keras_lrs>FunctionSchedule",
            },
        ):
            config["compile_config"]["optimizer"]["config"]["average"] = inside
            with zipfile.ZipFile("altered.keras", "w") as file:
                for name, content in parts.items():
                    if name == "config.json":
                        content = json.dumps(config)
                    file.writestr(name, content)
            with pytest.raises((ValueError, TypeError, KeyError)):
                keras.saving.load_model("altered.keras", safe_mode=True)


@fuzzed(EXAMPLES)
@given(anything, st.binary(max_size=30))
def test_an_altered_manifest_is_refused(content, raw):
    for written in (json.dumps(content).encode(), raw):
        pathlib.Path(manifest.NAME).write_bytes(written)
        with in_time(20), pytest.raises(ValueError, match="manifest"):
            store.Store(".")


@fuzzed(EXAMPLES)
@given(st.dictionaries(st.text("0123456789./ax", max_size=6), st.binary(max_size=20)))
def test_an_altered_file_of_averages_is_refused(content):
    path = pathlib.Path("averages-0000000001.npz")
    with zipfile.ZipFile(path, "w") as file:
        for name, value in content.items():
            file.writestr(f"{name}.npy", value)
    with in_time(20):
        try:
            found = snapshots.read(path)
        except ValueError as error:
            assert "is damaged" in str(error)
        else:
            assert found.averages == {}


def test_a_pickle_among_averages_is_not_read():
    class Trap:
        def __reduce__(self):
            return pathlib.Path.touch, (TRAP,)

    array, content = np.array([Trap()], dtype=object), io.BytesIO()
    np.savez(content, **{"0.1/0": array})
    pathlib.Path("averages-0000000001.npz").write_bytes(content.getvalue())
    with pytest.raises(ValueError, match="is damaged"):
        snapshots.read(pathlib.Path("averages-0000000001.npz"))
