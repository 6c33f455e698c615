"""Leases that keep a second writer out of a folder in an object store.

An object store does not release a lock when a process dies. So a process that writes to
the folder keeps an object in it, and renews this object while it lives. A process that
finds such an object waits for the term of a lease to see whether it is renewed. Clocks
are never compared, because they may differ between machines.

The names of these objects end in numbers. A process takes over an abandoned lease by
creating the object with the next number, and if several try, the store lets only one
succeed.
"""

import contextlib
import json
import secrets
import threading
import time
import warnings
import weakref

from keras_lrs._storage import files, locks
from keras_lrs._storage.locks import Lock
from keras_lrs._storage.remote import Path, RemotePath

TERM = 60.0
"""Seconds that a lease lasts when it is not renewed."""
RENEWAL = 15.0
"""Seconds after which the holder renews a lease."""
POLL = 1.0
"""Seconds between checks of another process's lease."""


def lock(path: Path) -> Lock:
    """Returns the lock of a folder, local or in an object store.

    Args:
        path: The path of the lock's file, which is in the folder.
    """
    return Lease(path) if isinstance(path, RemotePath) else Lock(path)


class Lease(Lock):
    """A lock in an object store.

    Call `acquire` before every write to the folder. It also detects that another run
    has taken over, because a run that was suspended for longer than the term of a lease
    must not continue to write.
    """

    def _taken(self):
        self._take_over()
        abandoned = self._abandoned()
        number = 1 + max(map(_number, abandoned), default=0)
        path = self.path.parent / f"{self.path.name}-{number}"
        self._token = secrets.token_hex(8)
        who = {**locks.signature(), "token": self._token}
        try:
            path.put(_written(who), new=True)
        except FileExistsError:
            created = _read(path) or b""
            # It may be ours, if a reply was lost and the request was repeated.
            if _token(created) != self._token:
                raise locks.refusal(self.path, created) from None
        stop, renewed = threading.Event(), threading.RLock()
        taken = weakref.finalize(self, _let_go, path, stop, renewed)
        try:
            # A lease that seemed abandoned may have been renewed after all, or have
            # been released and followed by another run's lease.
            others = {key: it for key, it in self._leases().items() if key != path}
            self._refuse_renewed(abandoned, others)
            for other in others:
                other.unlink(missing_ok=True)
            self._check()
        except BaseException:
            taken()
            raise
        renewing = threading.Thread(
            target=_renew, args=(path, who, stop, renewed), name="lease", daemon=True
        )
        renewing.start()
        return taken

    def _check(self):
        written = next(reversed(self._leases().values()), b"{}")
        if _token(written) != self._token:
            why = f"this run had not renewed its lease for {TERM:g} seconds"
            raise self.lost(locks.holder(written), why)
        return False

    def _leave(self, *held):
        """Does nothing, because a fork has no thread that renews the lease."""

    def _abandoned(self):
        """Returns the leases that nobody has renewed within their term, if any.

        Raises:
            ValueError: If one is renewed.
        """
        first = now = self._leases()
        if first:
            was = locks.holder([*first.values()][-1])
            warnings.warn(
                f"`{self.path.parent}` is in use by {was}, or that process ended "
                f"without releasing it. This run waits for up to {TERM:g} seconds to "
                "find out.",
                stacklevel=6,
            )
        end = time.monotonic() + TERM
        while now and time.monotonic() < end:
            time.sleep(POLL)
            now = self._leases()
            self._refuse_renewed(first, now)
        return now

    def _refuse_renewed(self, before, now):
        for path, written in now.items():
            if before.get(path) != written:
                raise locks.refusal(self.path, written)

    def _leases(self):
        """Returns the contents of all leases by their paths; the newest is the last."""
        found = self.path.parent.glob(f"{self.path.name}-*")
        read = {path: _read(path) for path in sorted(found, key=_number)}
        return {path: written for path, written in read.items() if written is not None}


def _number(path):
    number = path.name.rpartition("-")[2]
    return int(number) if files.is_number(number) else 0


def _written(who):
    return (json.dumps(who) + "\n").encode()


def _read(path):
    """Returns the content of a lease; None if it has been released."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _token(written):
    """Returns the unique token of a lease; None if it is damaged."""
    try:
        return json.loads(written).get("token")
    except (ValueError, AttributeError, RecursionError):
        return None


def _renew(path, who, stop, renewed):
    """Renews the lease in a thread, as long as it is held."""
    renewals = 0
    while not stop.wait(RENEWAL):
        renewals += 1
        # If the store cannot be reached, the next renewal is soon enough.
        with contextlib.suppress(OSError), renewed:
            if path.exists() and not stop.is_set():
                path.put(_written({**who, "renewals": renewals}))


def _let_go(path, stop, renewed):
    stop.set()
    with contextlib.suppress(OSError), renewed:  # Then it expires.
        path.unlink(missing_ok=True)
