"""Trees of arrays and JSON values survive a file, to the last bit."""

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


def test_an_array_that_is_not_contiguous_keeps_its_order(tmp_path):
    array = np.arange(6.0).reshape(2, 3).T
    found = written_and_read(tmp_path, {"array": array})["array"]
    np.testing.assert_array_equal(found, array)


def test_nested_values_come_back_as_json_holds_them(tmp_path):
    content = {"a": [1, 2.5, None, "text", True], "b": {"c": (), "d": {}}}
    expected = {"a": [1, 2.5, None, "text", True], "b": {"c": [], "d": {}}}
    assert written_and_read(tmp_path, content) == expected


def test_floats_keep_every_digit(tmp_path):
    values = [0.1 + 0.2, 5e-324, float("inf"), float("nan"), np.float64(1 / 3)]
    found = written_and_read(tmp_path, {"values": values})["values"]
    np.testing.assert_array_equal(found, values)


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match=r"made of dicts, lists, .*Received: \{1\}"):
        tree.written({"a": [{1}]})
