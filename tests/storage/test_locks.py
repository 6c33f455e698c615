"""One run at a time writes to a folder, and whoever is refused is told who does."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import threading

import pytest

from keras_lrs._storage import locks
from keras_lrs._storage.locks import Lock
from tests.storage.objects import in_thread
from tests.warned import warns

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="locks of POSIX"),
    # Python and JAX warn of threads; these forks call nothing that needs one.
    pytest.mark.filterwarnings("ignore:.*fork"),
]

FORK = multiprocessing.get_context("fork")


def forked(function, *arguments):
    """A process that has called a function, and waits to be killed."""

    def run(end):
        try:
            end.send(function(*arguments))
        except Exception as error:
            end.send(str(error))
        signal.pause()

    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=run, args=(theirs,))
    process.start()
    return process, ours.recv()


def kill(process):
    process.kill()
    process.join()


def take(path):
    lock = Lock(path)
    lock.acquire()
    forked.kept = lock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / ".lock"


def test_it_is_there_while_it_is_held(path):
    lock = Lock(path)
    assert not path.parent.exists()
    assert lock.acquire()
    assert not lock.acquire()
    who = json.loads(path.read_text())
    assert (who["pid"], who["host"]) == (os.getpid(), socket.gethostname())
    lock.release()
    lock.release()
    assert list(path.parent.iterdir()) == []
    assert lock.acquire()


def test_another_process_is_told_who_holds_it(path):
    process, _ = forked(take, path)
    try:
        expected = f"process {process.pid} on {socket.gethostname()} "
        with pytest.raises(ValueError, match=f"one run at a time.*{expected}"):
            Lock(path).acquire()
    finally:
        kill(process)


def test_a_process_that_was_killed_holds_nothing(path):
    process, _ = forked(take, path)
    kill(process)
    assert path.exists()
    lock = Lock(path)
    assert lock.acquire()
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_fork_does_not_hold_what_its_parent_holds(path):
    """A worker that loads data outlives a parent that was killed, for a while."""

    def holds_and_forks():
        take(path)
        worker = os.fork()
        if not worker:
            signal.pause()
        return worker

    process, worker = forked(holds_and_forks)
    with pytest.raises(ValueError, match=f"process {process.pid}"):
        Lock(path).acquire()
    kill(process)
    try:
        assert Lock(path).acquire()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_fork_that_uses_the_lock_of_its_parent_is_refused(path):
    lock = Lock(path)
    lock.acquire()
    process, message = forked(lock.acquire)
    kill(process)
    assert f"process {os.getpid()}" in message
    assert path.exists()
    with pytest.raises(ValueError, match="one run at a time"):
        raise in_thread(Lock(path).acquire)[0]


def test_of_two_threads_one_is_refused(path):
    Lock(path).acquire()  # Nobody keeps it.
    lock = Lock(path)
    lock.acquire()
    (error,) = in_thread(Lock(path).acquire)
    assert f"process {os.getpid()}" in str(error)


def test_a_later_run_of_a_thread_takes_over_from_one_that_broke_off(path):
    broken, later = Lock(path), Lock(path.parent / ".." / "folder" / ".lock")
    broken.acquire()
    assert later.acquire()
    with pytest.raises(ValueError, match="taken over by a later run"):
        broken.acquire()
    broken.release()
    assert path.exists()


def test_a_lock_that_nobody_keeps_is_let_go(path):
    Lock(path).acquire()
    assert not path.exists()


def test_who_waits_on_a_file_that_is_removed_takes_the_new_one(path, monkeypatch):
    """Between opening the file and locking it, its holder lets go."""
    first = Lock(path)
    first.acquire()
    flock = locks.fcntl.flock

    def late(*arguments):
        monkeypatch.undo()
        first.release()
        flock(*arguments)

    monkeypatch.setattr(Lock, "_take_over", lambda self: None)
    monkeypatch.setattr(locks.fcntl, "flock", late)
    second = Lock(path)
    second.acquire()
    assert os.path.exists(path)
    assert in_thread(Lock(path).acquire)


def test_a_filesystem_without_locks_is_told_of(path, monkeypatch):
    def none(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    lock = Lock(path)
    with warns("cannot lock files .No locks available"):
        assert lock.acquire()
    lock.release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"file/folder'"):
        Lock(tmp_path / "file" / "folder" / ".lock").acquire()
    with pytest.raises(OSError, match=r"file'"):
        Lock(tmp_path / "file" / ".lock").acquire()


def test_a_folder_in_the_place_of_the_lock_is_named(path):
    path.mkdir(parents=True)
    with pytest.raises(OSError, match=r"folder/\.lock'"):
        Lock(path).acquire()


@pytest.fixture
def of_another_user(path, monkeypatch):
    """Has the file of the lock refuse to be written, which root could."""
    path.parent.mkdir()
    path.write_text("{}")
    inode, plain = path.stat().st_ino, os.open

    def open_(at, flags, *arguments, **keywords):
        if flags & os.O_RDWR and os.path.exists(at) and os.stat(at).st_ino == inode:
            raise PermissionError(errno.EACCES, "Permission denied", str(at))
        return plain(at, flags, *arguments, **keywords)

    # The inode is not used again while the file is open.
    handle = plain(path, os.O_RDONLY)
    monkeypatch.setattr(locks.os, "open", open_)
    yield handle
    os.close(handle)


def test_what_a_killed_run_of_another_user_left_is_removed(path, of_another_user):
    lock = Lock(path)
    assert lock.acquire()
    assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not lock.acquire()


def test_what_a_run_of_another_user_holds_is_not(path, of_another_user):
    locks.fcntl.flock(of_another_user, locks.fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="one run at a time"):
        Lock(path).acquire()
    assert path.exists()


def test_what_another_user_left_and_cannot_be_removed_is_named(
    path, of_another_user, monkeypatch
):
    def refuse(*arguments):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(locks.os, "unlink", refuse)
    with pytest.raises(PermissionError, match=r"folder/\.lock'"):
        Lock(path).acquire()


def test_a_folder_that_cannot_be_listed_is_refused(path, monkeypatch):
    def refuse(at):
        raise PermissionError(errno.EACCES, "Permission denied", str(at))

    monkeypatch.setattr(locks.os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"folder'"):
        Lock(path).acquire()
    monkeypatch.undo()
    assert list(path.parent.iterdir()) == []


# --- Files that someone removed while the lock was held -------------------------------


@pytest.mark.parametrize("whole", [False, True], ids=["the file", "the folder"])
def test_what_someone_removed_is_taken_again(path, whole):
    lock = Lock(path)
    lock.acquire()
    shutil.rmtree(path.parent) if whole else path.unlink()
    assert lock.acquire()
    assert not lock.acquire()
    (error,) = in_thread(Lock(path).acquire)
    assert f"process {os.getpid()}" in str(error)
    lock.release()
    assert list(path.parent.iterdir()) == []


def test_what_another_process_has_taken_since_is_lost(path):
    lock = Lock(path)
    lock.acquire()
    shutil.rmtree(path.parent)
    process, _ = forked(take, path)
    try:
        for _ in range(2):
            message = rf"folder` has been taken over by process {process.pid} on .*remo"
            with pytest.raises(ValueError, match=message):
                lock.acquire()
        lock.release()
        assert json.loads(path.read_text())["pid"] == process.pid
        with pytest.raises(ValueError, match="one run at a time"):
            Lock(path).acquire()
    finally:
        kill(process)


def test_a_run_that_ends_leaves_the_lock_of_another(path):
    lock = Lock(path)
    lock.acquire()
    path.unlink()
    process, _ = forked(take, path)
    try:
        lock.release()
        assert path.exists()
    finally:
        kill(process)


def test_a_file_that_was_removed_on_another_machine_is_gone(path, monkeypatch):
    lock = Lock(path)
    lock.acquire()

    def stale(handle):
        monkeypatch.undo()
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(locks.os, "fstat", stale)
    path.unlink()
    assert lock.acquire()


def test_two_threads_of_a_run_take_it_again_once(path, monkeypatch):
    """`SnapshotEnsemble` writes in a thread of its own."""
    lock, other = Lock(path), []
    lock.acquire()
    path.unlink()
    locked = locks._locked

    def slowly(at):
        monkeypatch.undo()
        handle = locked(at)
        other.append(threading.Thread(target=lambda: other.append(lock.acquire())))
        other[0].start()
        other[0].join(0.05)  # It waits for this thread.
        return handle

    monkeypatch.setattr(locks, "_locked", slowly)
    assert lock.acquire()
    other[0].join()
    assert other[1:] == [False]
