"""Locks that keep a second writer out of a folder."""

import contextlib
import datetime
import errno
import json
import os
import socket
import threading
import warnings
import weakref
from typing import Any

from keras_lrs._storage import files
from keras_lrs._storage.remote import Path

try:
    import fcntl
except ImportError:  # On Windows nothing keeps a second writer out.
    fcntl = None  # type: ignore[assignment]

_REMOVED = "the lock of this run, or the whole folder, was removed"
_HELD: "weakref.WeakSet[Lock]" = weakref.WeakSet()


class Lock:
    """A lock on a folder, which the system releases however the process ends.

    It uses `flock` on a file in the folder, which says who holds it. Processes that
    this process forks do not hold it.

    A traceback may keep an interrupted run alive, together with its lock. So a run
    takes over the locks of other runs in the same thread, because only one run can be
    active there.

    Args:
        path: The file, in the folder that is locked.
    """

    def __init__(self, path: Path):
        self.path: Any = path
        self._handle: int | None = None
        self._release: Any = None
        self._thread: int | None = None
        self._lost = ""  # What to say once another run has taken over.
        self._one_thread = threading.RLock()  # Some callbacks write in a second one.

    @property
    def is_held(self) -> bool:
        """Whether it has been taken and not released."""
        return self._release is not None

    def acquire(self) -> bool:
        """Takes the lock, or keeps it; returns whether it was not held before.

        A lock whose file was removed is not held. It is taken again, unless another run
        has taken it. Call this before every write to the folder.

        Raises:
            ValueError: If someone else holds it.
            OSError: If nothing can be written to the folder.
        """
        with self._one_thread:
            if self._lost:
                raise ValueError(self._lost)
            if self.is_held:
                return self._check()
            self._release = self._taken()
            self._thread = threading.get_ident()
            _HELD.add(self)
            return True

    def refuse_own(self) -> None:
        """Raises `ValueError` if this thread holds it already, and changes nothing."""
        if self._in_this_thread():
            raise ValueError(
                f"`{self.path.parent}` is in use by a run of this process. Nothing is "
                "changed there. Call this once the run is over, or once its list of "
                "callbacks is deleted."
            )

    def release(self) -> None:
        """Releases the lock; does nothing if it is not held."""
        _HELD.discard(self)
        release, self._release = self._release, None
        if release is not None:
            release()

    def _taken(self) -> Any:
        """Takes the lock; returns the finalizer that releases it."""
        with files.naming(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with os.scandir(self.path.parent):
                pass  # A run must be able to list the files that it finds there.
        if fcntl is None:
            files.check_writable(self.path)
            return lambda: None
        self._take_over()
        self._handle = _locked(self.path)
        return weakref.finalize(self, _let_go, self.path, self._handle)

    def _check(self) -> bool:
        """Takes the lock again if its file was removed; returns whether it was.

        Raises:
            ValueError: If another run has taken it since.
        """
        if self._handle is None or _is_at(self._handle, self.path):
            return False
        let_go = self._release
        try:
            self._release = self._taken()
        except ValueError:
            written = b""
            with contextlib.suppress(OSError):
                written = self.path.read_bytes()
            raise self.lost(holder(written)) from None
        let_go()
        return True

    def lost(self, who: str, why: str = _REMOVED) -> ValueError:
        """Makes the error for a lock that another run has taken over, and notes it."""
        self._lost = (
            f"`{self.path.parent}` has been taken over by {who}, because {why}. This "
            "run ends, so that only one writes there."
        )
        return ValueError(self._lost)

    def _take_over(self):
        for other in self._in_this_thread():
            other.release()
            other._lost = (
                f"`{self.path.parent}` has been taken over by a later run in this "
                "process. Give each run its own directory."
            )

    def _in_this_thread(self):
        """Returns the other locks on the same file that this thread has taken."""
        found = []
        for other in list(_HELD):
            same = other.path == self.path or (
                other.path.name == self.path.name and _same(other.path, self.path)
            )
            if other is not self and same and other._thread == threading.get_ident():
                found.append(other)
        return found

    def _forget(self):
        """Forgets the lock in a forked process, because it belongs to the parent."""
        self._one_thread = threading.RLock()  # The thread that holds it is not here.
        finalizer, self._release = self._release, None
        detached = finalizer.detach() if finalizer is not None else None
        if detached is not None:
            self._leave(*detached[2])

    def _leave(self, *held):
        os.close(held[-1])


def _forget_all():
    for lock in list(_HELD):
        lock._forget()
    _HELD.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_all)


def _locked(path):
    """Returns a handle of the file, locked and still under this name."""
    while True:
        handle = _opened(path)
        try:
            if _flock(handle, path) and not _is_at(handle, path):
                # The process that held the lock has just removed the file.
                os.close(handle)
                continue
            with files.naming(path.parent):
                os.ftruncate(handle, 0)
                os.pwrite(handle, (json.dumps(signature()) + "\n").encode(), 0)
        except BaseException:
            os.close(handle)
            raise
        return handle


def _opened(path):
    """Opens the file, after removing one that a killed run of another user left."""
    was_gone = False
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            is_there = os.path.lexists(path)
            if not is_there and not was_gone and isinstance(error, PermissionError):
                was_gone = True  # Its holder has just removed it.
                continue
            with files.naming(path if is_there else path.parent):
                if not is_there or not isinstance(error, PermissionError):
                    raise
                _remove_abandoned(path)


def _remove_abandoned(path):
    """Removes a file that may only be read, unless its process still holds it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(handle, path):
            os.unlink(path)
    except BlockingIOError:
        raise refusal(path, _written(handle)) from None
    finally:
        os.close(handle)


def _flock(handle, path):
    """Locks a file; returns False if the filesystem has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise refusal(path, _written(handle)) from None
    except OSError as error:
        warnings.warn(
            f"The filesystem of `{path.parent}` cannot lock files ({error.strerror}), "
            "so nothing prevents a second run from writing there at the same time.",
            stacklevel=2,
        )
        return False
    return True


def _is_at(handle, path):
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError as error:
        # On NFS, another machine may have removed the file that is open here.
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return False


def _same(one, other):
    try:
        return os.path.samefile(one, other)
    except (OSError, TypeError):  # A path that is not on this machine.
        return False


def signature() -> dict[str, Any]:
    """Returns what the holder of a lock writes into it."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now}


def holder(written: bytes) -> str:
    """Names the holder of a lock, from its content."""
    try:
        who = json.loads(written)
        return f"process {who['pid']} on {who['host']} (since {who['since']})"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"  # It has not written its signature yet.


def refusal(path: Any, written: bytes) -> ValueError:
    """Makes the error for a lock that another process holds."""
    return ValueError(
        "Argument `directory` must be written by one run at a time. Received: "
        f"directory={str(path.parent)!r}, to which {holder(written)} is writing. Give "
        "each run its own directory, or end the other run."
    )


def _written(handle):
    try:
        return os.pread(handle, 10_000, 0)
    except OSError:
        return b""


def _let_go(path, handle):
    try:
        # Remove the file first, because another process may take the lock once it is
        # free.
        with contextlib.suppress(OSError):
            if _is_at(handle, path):  # Not the file of another run.
                os.unlink(path)
    finally:
        os.close(handle)
