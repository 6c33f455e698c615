"""Trees of arrays and JSON values survive a file, to the last bit."""

import collections
import io
import json
import random

import ml_dtypes
import numpy as np
import pytest

from keras_lrs._storage import tree


def written_and_read(tmp_path, content):
    (tmp_path / "file.npz").write_bytes(tree.written(content))
    return tree.read((tmp_path / "file.npz").read_bytes())


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float16", "bool", "int64", "uint8", ml_dtypes.bfloat16],
    ids=str,
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)], ids=str)
def test_arrays_keep_type_shape_and_bits(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    found = written_and_read(tmp_path, {"array": array})["array"]
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.5, -2.0], ">f4"),
        np.array([[1, 2]], ">i8"),
        np.array(["a", "", "longer"]),
        np.array([b"a", b"bc"]),
        np.array(["2020-01-01", "NaT"], "datetime64[D]"),
        np.array([3], "timedelta64[ms]"),
        np.array([(1, 2.5, "x")], [("a", ">i4"), ("b", "f8"), ("c", "U3")]),
        np.array([((1, 2), 3)], [("pair", "i2", (2,)), ("other", "u1")]),
        np.array([1 + 2j]),
        np.array([], "U"),
        np.zeros((0, 2), [("a", "f4")]),
        np.array("one"),
        np.float32(0.1),
        np.datetime64("2020-01-01"),
        np.str_("text"),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_and_scalars_of_any_type_come_back_as_they_were(tmp_path, array):
    found = written_and_read(tmp_path, {"array": array})["array"]
    assert type(found) is type(array)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


def test_keys_of_any_type_come_back_as_they_were(tmp_path):
    content = {
        "numbers": {0: "a", 1.5: "b", -3: {True: np.arange(2)}, None: 1},
        "both": {1: "number", "1": "text"},
        "ours": {"__array__": "x", "dtype": "f4", "shape": [1]},
        "bytes": b"\x00\xff",
    }
    found = written_and_read(tmp_path, content)
    assert list(found["numbers"][-3].pop(True)) == [0, 1]
    content["numbers"][-3].clear()
    assert found == content


class Named(str):
    pass


@pytest.mark.parametrize(
    "value",
    [
        np.array([None, "x"]),
        np.array([(1, [2])], [("a", "i4"), ("b", "O")]),
        np.ma.masked_array([1.0, 2.0], [True, False]),
        np.rec.array([(1,)], [("a", "i4")]),
        np.zeros(1, np.dtype("f4", metadata={"unit": "m"})),
        np.zeros(1, [("a", ml_dtypes.bfloat16)]),
        np.array(["a"], np.dtypes.StringDType()),
        collections.defaultdict(list),
        {(1, 2): 3},
        {np.int64(1): 2},
        Named("a"),
        1 + 2j,
    ],
    ids=repr,
)
def test_what_would_come_back_altered_is_refused(value):
    with pytest.raises(TypeError, match=r"state.*Received: "):
        tree.written({"value": value})


def test_an_array_that_is_not_contiguous_keeps_its_order(tmp_path):
    array = np.arange(6.0).reshape(2, 3).T
    found = written_and_read(tmp_path, {"array": array})["array"]
    np.testing.assert_array_equal(found, array)


def test_nested_values_come_back_as_they_were(tmp_path):
    nested = {"c": (), "d": {}, "e": [(1, [2, (3,)])], "__tuple__": [1]}
    content = {"a": [1, 2.5, None, "text", True], "b": nested}
    assert written_and_read(tmp_path, content) == content
    generator = random.Random(1)
    state = written_and_read(tmp_path, {"state": generator.getstate()})["state"]
    other = random.Random(2)
    other.setstate(state)
    assert other.random() == generator.random()


def test_floats_keep_every_digit(tmp_path):
    values = [0.1 + 0.2, 5e-324, float("inf"), float("nan"), np.float64(1 / 3)]
    found = written_and_read(tmp_path, {"values": values})["values"]
    np.testing.assert_array_equal(found, values)


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match=r"made of dicts, lists, .*Received: \{1\}"):
        tree.written({"a": [{1}]})


def altered(**tree_and_arrays):
    """The bytes of a file with this tree and these arrays."""
    buffer = io.BytesIO()
    content = tree_and_arrays.pop("tree")
    np.savez(buffer, **tree_and_arrays, tree=np.array(json.dumps(content)))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"__array__": "one"}] * 2, "refers to one twice"),
        ([{"__array__": "two"}], "refers to two twice, or does not hold it"),
        ([{"__array__": "tree"}], "refers to tree"),
    ],
)
def test_an_array_that_is_referred_to_twice_is_refused(content, message):
    """A small file could otherwise fill the memory."""
    with pytest.raises(ValueError, match=message):
        tree.read(altered(tree={"values": content}, one=np.zeros(3)))
    right = tree.read(altered(tree={"a": {"__array__": "one"}}, one=np.zeros(3)))
    assert right["a"].tolist() == [0.0] * 3
