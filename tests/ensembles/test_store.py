"""Whatever happens to a process or to its files: members are whole, or it is said."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_lrs import ensembles
from keras_lrs._keras.weights import copied_weights, loaded_weights
from keras_lrs._storage import manifest
from keras_lrs.ensembles import store
from tests.ensembles import faults
from tests.storage import writers
from tests.warned import warns

BACKEND = keras.backend.backend()


@pytest.fixture
def directory(tmp_path):
    faults.scenario(tmp_path)
    return tmp_path


def load(directory, **arguments):
    return ensembles.load(directory, faults.like_those_trained(), **arguments)


def flipped(path, rng):
    """The content of a file with one bit turned, anywhere."""
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return bytes(content)


class TestFaults:
    """An exception or a kill at each file operation in turn."""

    @pytest.mark.only("torch")
    @pytest.mark.slow
    def test_an_exception_leaves_a_directory_that_loads(self, tmp_path):
        whole = tmp_path / "whole"
        operations = faults.counted(whole)
        assert operations > 30
        for number in range(operations):
            folder = tmp_path / str(number)
            completed = []
            with pytest.raises(faults.FaultError):
                faults.scenario(folder, completed, fails_at=number)
            faults.check(folder, completed)
            # The run that resumes writes the same files in the end.
            faults.scenario(folder)
            assert sorted(p.name for p in folder.iterdir()) == sorted(
                p.name for p in whole.iterdir()
            )

    @pytest.mark.only("torch")
    @pytest.mark.slow
    def test_a_kill_leaves_a_directory_that_loads(self, tmp_path):
        result = subprocess.run(
            [sys.executable, "-m", "tests.ensembles.faults", str(tmp_path)],
            env={**os.environ, "KERAS_BACKEND": BACKEND},
            cwd=pathlib.Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        killed, unreadable = map(int, result.stdout.split()[-2:])
        assert killed > 30
        assert unreadable == 0


class TestDamage:
    def test_no_flipped_bit_of_a_member_goes_undetected(self, directory):
        rng = np.random.default_rng(0)
        for name in ("snapshot-0002.weights.h5", "snapshot-0003.weights.h5"):
            path = directory / name
            whole = path.read_bytes()
            for _ in range(100):
                path.write_bytes(flipped(path, rng))
                with pytest.raises(ValueError, match=f"{name}` is damaged"):
                    load(directory)
                path.write_bytes(whole)
        assert len(load(directory)) == 2

    def test_no_flipped_bit_of_the_manifest_goes_undetected(self, directory):
        rng = np.random.default_rng(1)
        path = directory / "manifest.json"
        whole = path.read_bytes()
        for _ in range(300):
            path.write_bytes(whole)
            path.write_bytes(flipped(path, rng))
            for strict in (True, False):
                with pytest.raises(ValueError, match=r"manifest.json` is damaged"):
                    load(directory, strict=strict)
        for content in (b"", whole[:-1], whole + b" "):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=r"manifest.json` is damaged"):
                load(directory)
        for content in (b"[]", b"null", b"\xff"):
            path.write_bytes(content)
            with pytest.raises(ValueError, match="or is damaged beyond recognition"):
                load(directory)

    @pytest.mark.parametrize("damage", ["missing", "truncated", "swapped"])
    def test_of_a_member_is_an_error_or_leaves_it_out(self, damage, directory):
        path = directory / "snapshot-0002.weights.h5"
        if damage == "missing":
            path.unlink()
        elif damage == "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        else:
            path.write_bytes((directory / "snapshot-0003.weights.h5").read_bytes())
        with pytest.raises(ValueError, match="snapshot-0002"):
            load(directory)
        with warns(r"A member is left out. .*snapshot-0002"):
            ensemble = load(directory, strict=False)
        assert [member.step for member in ensemble] == [30]

    def test_of_all_members_is_an_error_in_any_case(self, directory):
        for path in directory.glob("snapshot*"):
            path.unlink()
        with (
            warns("left out"),
            pytest.raises(ValueError, match="All members"),
        ):
            load(directory, strict=False)

    def test_a_directory_without_manifest(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"manifest.json`: no `Snapshot"):
            load(tmp_path)

    def test_a_later_format(self, directory):
        path = directory / "manifest.json"
        content = json.loads(path.read_bytes())
        del content["sha256"]
        manifest.write(path, {**content, "format": manifest.FORMAT + 1})
        with pytest.raises(ValueError, match="has format 2, written by keras_lrs"):
            load(directory)


@pytest.mark.slow
def test_a_run_that_is_writing_is_read_without_an_error(tmp_path):
    """Whenever it is read, members are being replaced and removed."""
    model = faults.like_those_trained()
    contents = list(faults.contents().values())
    with writers.writing(writers.snapshots, tmp_path, contents) as (_, sent):
        for _ in range(3):
            sent.recv()
        steps = [
            [member.step for member in ensembles.load(tmp_path, model)]
            for _ in range(50)
        ]
    assert steps == sorted(steps)
    assert all(second == first + 1 for first, second in steps)


class TestOtherModels:
    def test_with_other_shapes(self, directory):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
        with pytest.raises(ValueError, match=r"has the shape \(3, 2\)"):
            ensembles.load(directory, model)

    def test_with_other_numbers_of_variables(self, directory):
        dense = [keras.layers.Dense(2) for _ in range(2)]
        model = keras.Sequential([keras.Input((3,)), *dense])
        with pytest.raises(ValueError, match=r"2 variables\. Received: a model with 4"):
            ensembles.load(directory, model)

    def test_with_other_layers_of_the_same_shapes(self, directory):
        class Pair(keras.layers.Layer):
            def build(self, shape):
                self.one = self.add_weight(shape=(3, 2))
                self.two = [keras.layers.Layer()]
                self.two[0].bias = self.two[0].add_weight(shape=(2,))

            def call(self, inputs):
                return inputs @ self.one

        model = keras.Sequential([keras.Input((3,)), Pair()])
        with pytest.raises(ValueError, match=r"snapshot-0002.*does not fit the model"):
            ensembles.load(directory, model)

    def test_that_are_not_built(self, directory):
        model = keras.Sequential([keras.layers.Dense(2)])
        with pytest.raises(ValueError, match="`model` must be a built"):
            ensembles.load(directory, model)


class TestTheStore:
    def test_writes_what_it_reads(self, tmp_path):
        found = store.Store(tmp_path / "a" / "b")
        found.begin([[3, 2], [2]], lambda record: True)
        record = store.Record(0, 5, 1, True, 0.1, {"loss": float("nan"), "mae": 1e-30})
        found.add(record, b"content")
        again = store.Store(tmp_path / "a" / "b")
        assert again.shapes == [[3, 2], [2]]
        assert repr(again.records) == repr(found.records)
        assert again.records[0].number == 1
        assert again.read(again.records[0]) == b"content"

    def test_removes_what_a_crash_left(self, directory):
        (directory / ".snapshot-0004.weights.h5.0123abcd").write_bytes(b"half")
        (directory / "snapshot-0009.weights.h5").write_bytes(b"orphan")
        (directory / "notes.txt").write_bytes(b"of the user")
        found = store.Store(directory)
        found.begin(found.shapes, lambda record: True)
        found.close()
        assert sorted(path.name for path in directory.iterdir()) == [
            "manifest.json",
            "notes.txt",
            "snapshot-0002.weights.h5",
            "snapshot-0003.weights.h5",
        ]

    def test_numbers_do_not_restart_where_the_earlier_members_were_pruned(
        self, directory
    ):
        found = store.Store(directory)
        member = found.records[0]
        assert member.number == 2
        found.begin(found.shapes, lambda record: False, continued=True)
        found.add(member, b"content")
        assert [record.number for record in found.records] == [2]
        found.begin(found.shapes, lambda record: False)
        again = store.Store(directory)
        again.add(member, b"content")
        assert [record.number for record in again.records] == [1]

    def test_numbers_go_on_after_the_last(self, directory):
        found = store.Store(directory)
        found.add(dataclasses.replace(found.records[0], step=40), b"content")
        assert [record.number for record in found.records] == [2, 3, 4]


def test_keras_walks_a_model_as_it_did():
    """Notices when Keras changes what `copied_weights` builds on."""
    model = faults.model()
    content = copied_weights(model).content()
    values = loaded_weights(model, content)
    own = [keras.ops.convert_to_numpy(v.value) for v in model.variables]
    for one, other in zip(values, own, strict=True):
        np.testing.assert_array_equal(one, other)
