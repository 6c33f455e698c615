"""A file is there whole or not at all."""

import os

import pytest

from keras_lrs._storage import files, temporaries


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_file_holds_the_content(tmp_path):
    for content in (b"", b"one\r\n\x00\xff", b"a" * 100_000):
        files.write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_folders_that_are_missing_are_made(tmp_path, kind):
    path = tmp_path / "a" / "b" / "file"
    files.write_atomically(kind(path), b"content")
    assert path.read_bytes() == b"content"
    assert names(path.parent) == ["file"]


def test_a_name_alone_is_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_atomically("file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_shorter_content_leaves_nothing_of_the_old_one(tmp_path):
    files.write_atomically(tmp_path / "file", b"long content")
    files.write_atomically(tmp_path / "file", b"short")
    assert (tmp_path / "file").read_bytes() == b"short"


def test_the_new_file_is_renamed_when_it_is_on_the_disk(tmp_path, monkeypatch):
    """Whoever reads meanwhile sees the old content."""
    path = tmp_path / "file"
    files.write_atomically(path, b"old")
    done, fsync, replace = [], os.fsync, os.replace

    def watched_fsync(handle):
        done.append(("fsync", path.read_bytes()))
        fsync(handle)

    def watched_replace(source, target):
        with open(source, "rb") as file:
            done.append(("replace", path.read_bytes(), file.read()))
        assert os.path.dirname(source) == str(tmp_path)  # Of the same disk.
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    files.write_atomically(path, b"new")
    assert done[:2] == [("fsync", b"old"), ("replace", b"old", b"new")]
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_a_temporary_file_is_abandoned_once_nobody_writes_it(tmp_path, monkeypatch):
    path, replace, seen = tmp_path / "a[1].json", os.replace, []
    left = tmp_path / ".a[1].json.0123abcd"
    left.write_bytes(b"half")
    (tmp_path / ".a1.json.0123abcd").write_bytes(b"of another file")

    def look(source, target):
        assert len(temporaries.found(tmp_path, "a[[]1].json")) == 2
        seen.append(temporaries.abandoned(path))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    files.write_atomically(path, b"content")
    assert seen == [[left]]
    assert temporaries.abandoned(path) == [left]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_what_fails_leaves_the_old_file_and_no_other(
    tmp_path, monkeypatch, name, error
):
    def fail(*arguments):
        raise error

    files.write_atomically(tmp_path / "file", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(type(error)):
            files.write_atomically(tmp_path / "file", b"new")
        with pytest.raises(type(error)):
            files.write_atomically(tmp_path / "other", b"new")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
    files.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_content_that_is_no_bytes_leaves_the_old_file(tmp_path):
    files.write_atomically(tmp_path / "file", b"old")
    with pytest.raises(TypeError):
        files.write_atomically(tmp_path / "file", "text")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"pipe` cannot be read: it is not a regular"):
        files.bytes_of(path)


def test_a_path_that_is_a_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        files.write_atomically(tmp_path / "folder", b"content")
    assert names(tmp_path) == ["folder"]


def test_a_file_where_a_folder_should_be_is_kept(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError, match="file"):
        files.write_atomically(tmp_path / "file" / "inner", b"content")
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("text", ["", "-1", "1.0", "²", "٣", "a"])
def test_a_number_in_a_name_has_the_digits_that_we_write(text):
    assert not files.is_number(text)
    assert files.is_number("0012")
