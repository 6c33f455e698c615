"""Folders in a storage of objects: in the order that loses nothing, and told apart."""

import functools
import os
import sys

import pytest

from keras_lrs._storage import files, remote
from keras_lrs._storage.checkpoints import Checkpoint, Checkpoints
from keras_lrs._storage.remote import RemotePath
from keras_lrs.schedules import fields
from tests.storage import objects

pytest.importorskip("fsspec")
pytestmark = pytest.mark.only("torch")

MEMORY = "fsspec.implementations.memory.MemoryFileSystem."
STATE = {"epoch": 1, "values": [1.0, 2.0]}


@pytest.fixture
def folder():
    with objects.in_memory() as path:
        yield path


def saved(folder, epochs, state=STATE):
    found = Checkpoints(folder)
    for epoch in epochs:
        found.save(Checkpoint(0, epoch, 0, 10 * epoch), {**state, "epoch": epoch})
    found.close()
    return found


def names(folder):
    return [path.name for path in folder.glob("*")]


class TestPaths:
    def test_are_like_those_of_this_machine(self, folder):
        path = folder / "run" / "file-1.txt"
        assert str(path) == "memory://folder/run/file-1.txt"
        assert (path.name, path.stem, path.parent) == (
            "file-1.txt",
            "file-1",
            folder / "run",
        )
        assert not path.exists()
        path.put(b"content")
        (folder / "run" / "other" / "file-2.txt").put(b"")
        assert path.exists()
        assert not path.is_dir()
        assert (folder / "run").exists()
        assert (folder / "run").is_dir()
        assert path.read_bytes() == b"content"
        assert path.size() == 7
        assert list((folder / "run").glob("file-*")) == [path]
        assert names(folder / "run") == ["file-1.txt", "other"]
        path.unlink()
        path.unlink(missing_ok=True)
        assert names(folder / "run") == ["other"]

    def test_that_are_not_there_are_named(self, folder):
        for function in ("read_bytes", "size", "unlink"):
            with pytest.raises(FileNotFoundError, match="memory://folder/none"):
                getattr(folder / "none", function)()
        assert list((folder / "none").glob("*")) == []

    def test_create_an_object_once(self, folder):
        (folder / "one").put(b"first", new=True)
        with pytest.raises(FileExistsError, match="memory://folder/one"):
            (folder / "one").put(b"second", new=True)
        assert (folder / "one").read_bytes() == b"first"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("memory://a/b/", "memory://a/b"),
            ("MEMORY://a//b", "memory://a/b"),
            ("memory:/a/b", "memory://a/b"),  # What `pathlib` makes of it.
            ("memory://a/c/../b", "memory://a/b"),
        ],
    )
    def test_are_read_from_urls(self, text, expected):
        assert str(fields.any_path("directory", text)) == expected

    def test_of_no_folder_are_refused(self):
        for text in ("memory://", "memory:///", "memory://a\0b"):
            with pytest.raises(ValueError, match="must name a folder in the storage"):
                fields.any_path("directory", text)

    @pytest.mark.parametrize(
        "text", ["memory://a/../b", "memory://a/..", "memory://.."]
    )
    def test_that_leave_their_bucket_are_refused(self, text):
        with pytest.raises(ValueError, match=r"in its bucket, which no `\.\.` leaves"):
            fields.any_path("directory", text)

    @pytest.mark.parametrize(
        ("url", "package"),
        [
            ("gs://bucket/run", "gcsfs"),
            ("s3://bucket/run", "s3fs"),
            ("memory://run", "fsspec"),
        ],
    )
    def test_that_need_a_package_name_it(self, monkeypatch, url, package):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            ValueError, match=rf"`{package}`.*not installed.*lrs\[remote\]"
        ):
            fields.any_path("directory", url)


class TestOrder:
    def test_a_file_is_there_before_the_manifest_lists_it(self, folder, monkeypatch):
        saved(folder, [1, 2])
        done = objects.watch(monkeypatch)
        saved(folder, [3])
        kept = [step for step in done if ".lock" not in step]
        assert kept == [
            "put generation-00000003.npz",
            "put manifest.json",
            "unlink generation-00000001.npz",
        ]

    @pytest.mark.parametrize("writes", [False, True], ids=["before", "after"])
    def test_an_error_at_any_operation_loses_nothing(self, monkeypatch, writes):
        """The connection breaks before a request arrives, or before its answer."""
        for number in range(100):
            with objects.in_memory() as folder:
                saved(folder, [1, 2])
                with monkeypatch.context() as patch:
                    objects.break_at(patch, number, writes)
                    try:
                        saved(folder, [3])
                        break
                    except ConnectionResetError:
                        pass
                for path in folder.glob(".*.lock-*"):
                    path.unlink()  # Which expires.
                checkpoint, state = Checkpoints(folder).newest()
                assert checkpoint.epoch == state["epoch"] in (2, 3)
                saved(folder, [3])
                assert Checkpoints(folder).newest()[0].epoch == 3
                assert len(names(folder)) == 3
        assert number == 4  # The lease, the file, the manifest, and the old file.


class TestReading:
    def test_an_altered_object_is_found_by_its_hash(self, folder):
        found = saved(folder, [1, 2])
        path = folder / "generation-00000002.npz"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.put(bytes(content))
        with pytest.raises(ValueError, match=r"folder/gen.*2.npz` is damaged"):
            found.read(found.records[-1])
        with pytest.warns(UserWarning, match="resumes from the previous checkpoint"):
            assert Checkpoints(folder).newest()[0].epoch == 1

    def test_a_lost_manifest_is_rebuilt(self, folder):
        found = saved(folder, [1, 2])
        (folder / "manifest.json").unlink()
        with pytest.warns(UserWarning, match=r"manifest.json` is missing. It is rebui"):
            assert Checkpoints(folder).records == found.records

    def test_what_cannot_be_reached_is_neither_missing_nor_damaged(
        self, folder, monkeypatch
    ):
        """Or a run would start over, or resume from an earlier checkpoint."""
        found = saved(folder, [1, 2])
        reading = {
            "info": lambda: Checkpoints(folder),
            "cat_file": found.newest,
            "ls": lambda: saved(folder, [3]),
        }

        def fail(*arguments, **keywords):
            raise RuntimeError("The network is down.")

        for function, read in reading.items():
            with monkeypatch.context() as patch:
                patch.setattr(MEMORY + function, fail)
                with pytest.raises(OSError, match=r"The network is down.*memory://fol"):
                    read()

    def test_a_path_of_a_file_is_no_path_of_this_machine(self, folder):
        with pytest.raises(TypeError, match="PathLike"):
            os.fspath(folder / "file")


def test_a_file_is_written_with_its_trailer(folder):
    path = folder / "file"
    digest = files.write_atomically(path, memoryview(b"con"), lambda sha: sha.encode())
    assert files.read(path, digest) == b"con" + objects.sha256(b"con").encode()


def test_no_package_is_missing_for_the_storage_in_memory():
    assert remote.missing("memory") is None
    assert functools.reduce(RemotePath.__truediv__, "ab", RemotePath("memory", "x"))
