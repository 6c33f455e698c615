"""One run at a time writes to a folder in a storage of objects."""

import json
import os
import socket
import threading

import pytest

from keras_lrs._storage import leases, locks
from keras_lrs._storage.leases import Lease
from tests.storage import objects
from tests.warned import warns

pytest.importorskip("fsspec")
pytestmark = pytest.mark.only("torch")


@pytest.fixture
def path(monkeypatch):
    """A lock's path; a lease lasts for a part of a second."""
    monkeypatch.setattr(leases, "TERM", 0.4)
    monkeypatch.setattr(leases, "RENEWAL", 0.05)
    monkeypatch.setattr(leases, "POLL", 0.02)
    with objects.in_memory() as folder:
        yield folder / ".lock"


def found(path):
    return [each.name for each in path.parent.glob("*")]


def abandon(lease):
    """Has nobody renew a lease, as when its process is killed."""
    locks._HELD.discard(lease)
    finalizer, lease._release = lease._release, None
    _, _, (path, stop, renewed), _ = finalizer.detach()
    stop.set()
    with renewed:
        return path


def taken(path):
    lease = Lease(path)
    lease.acquire()
    return lease


def test_it_is_there_while_it_is_held(path):
    lease = Lease(path)
    assert lease.acquire()
    assert not lease.acquire()
    assert found(path) == [".lock-1"]
    who = json.loads((path.parent / ".lock-1").read_bytes())
    assert (who["pid"], who["host"]) == (os.getpid(), socket.gethostname())
    lease.release()
    lease.release()
    assert found(path) == []
    assert lease.acquire()
    lease.release()


@pytest.mark.filterwarnings("ignore:.*is in use by process")
def test_another_is_told_who_holds_it_once_it_is_renewed(path):
    lease = taken(path)
    (error,) = objects.in_thread(Lease(path).acquire)
    expected = f"process {os.getpid()} on {socket.gethostname()} "
    assert isinstance(error, ValueError)
    assert "one run at a time" in str(error)
    assert expected in str(error)
    assert not lease.acquire()
    lease.release()


def test_one_that_is_not_renewed_is_taken_over(path):
    lease = taken(path)
    old = abandon(lease)
    with warns("waits for up to 0.4 seconds"):
        later = taken(path)
    assert found(path) == [".lock-2"]
    # The run that held it was suspended, and is not dead.
    lease._release = lambda: None
    with pytest.raises(ValueError, match=f"taken over by process {os.getpid()}"):
        lease.acquire()
    with pytest.raises(ValueError, match="taken over"):
        lease.acquire()
    # Even if it writes to its lease once more.
    old.put(b"{}")
    assert not later.acquire()
    later.release()


def test_one_that_is_given_back_meanwhile_is_free(path, monkeypatch):
    lease = taken(path)
    old = abandon(lease)
    monkeypatch.setattr(leases.time, "sleep", lambda _: old.unlink())
    with warns("is in use by"):
        later = taken(path)
    assert found(path) == [".lock-1"]
    later.release()


@pytest.mark.filterwarnings("ignore:.*is in use by process")
def test_of_several_who_take_over_one_succeeds(path, monkeypatch):
    abandon(taken(path))
    together = threading.Barrier(4)
    plain, held, errors = Lease._abandoned, [], []

    def at_once(self):
        found = plain(self)
        together.wait(10)
        return found

    def run():
        try:
            held.append(taken(path))
        except ValueError as error:
            errors.append(error)

    monkeypatch.setattr(Lease, "_abandoned", at_once)
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    assert len(errors) == 3
    assert not held[0].acquire()
    held[0].release()


def test_one_that_is_renewed_at_the_last_moment_is_respected(path, monkeypatch):
    lease = taken(path)
    old = abandon(lease)
    plain = Lease._abandoned

    def and_then_it_is_renewed(self):
        seen = plain(self)
        old.put(json.dumps({**json.loads(old.read_bytes()), "renewals": 7}).encode())
        return seen

    monkeypatch.setattr(Lease, "_abandoned", and_then_it_is_renewed)
    with (
        warns("is in use by"),
        pytest.raises(ValueError, match="one run at a time"),
    ):
        Lease(path).acquire()
    assert found(path) == [".lock-1"]


def test_an_answer_that_was_lost_is_no_other_run(path, monkeypatch):
    """The storage is asked to create it once more, and it is there already."""
    plain = leases.RemotePath.put

    def twice(self, content, new=False):
        plain(self, content, new)
        if new:
            plain(self, content, new)

    monkeypatch.setattr(leases.RemotePath, "put", twice)
    lease = taken(path)
    lease.release()
    assert found(path) == []


def test_a_later_run_of_a_thread_takes_over_from_one_that_broke_off(path):
    broken, later = taken(path), Lease(path)
    assert later.acquire()
    with pytest.raises(ValueError, match="taken over by a later run"):
        broken.acquire()
    broken.release()
    assert found(path) == [".lock-1"]
    later.release()


def test_one_that_nobody_keeps_is_given_back(path):
    taken(path)
    assert found(path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_fork_neither_holds_nor_gives_back(path):
    lease = taken(path)
    process = os.fork()
    if not process:
        held = lease._release is not None
        lease.release()
        os._exit(int(held) + 2 * (found(path) != [".lock-1"]))
    _, status = os.waitpid(process, 0)
    assert status == 0
    lease.release()


def test_a_damaged_one_expires_too(path):
    (path.parent / ".lock-x").put(b"\xff")
    with warns("is in use by another process"):
        lease = taken(path)
    assert found(path) == [".lock-1"]
    lease.release()


def test_a_storage_that_takes_nothing_is_named(path, monkeypatch):
    def refuse(self, *arguments, **keywords):
        raise PermissionError("403")

    storage = "fsspec.implementations.memory.MemoryFileSystem.pipe_file"
    monkeypatch.setattr(storage, refuse)
    with pytest.raises(OSError, match=r"memory://folder/\.lock-1"):
        Lease(path).acquire()
