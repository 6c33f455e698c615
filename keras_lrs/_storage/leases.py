"""Leases that keep a second writer out of a folder in a storage of objects.

No system releases a lock there when a process dies. So whoever writes to the folder
keeps an object in it, and renews that while it lives; whoever finds one waits for as
long as a lease lasts to see whether it is renewed. No clocks are compared, which may
differ between machines.

The names of these objects end in numbers. To take over an abandoned lease is to create
the one with the next number, and of several who try the storage lets one succeed.
"""

import contextlib
import json
import secrets
import threading
import time
import warnings
import weakref

from keras_lrs._storage import locks
from keras_lrs._storage.locks import Lock
from keras_lrs._storage.remote import Path, RemotePath

TERM = 60.0
"""Seconds that a lease lasts when it is not renewed."""
RENEWAL = 15.0
"""Seconds after which its holder renews it."""
POLL = 1.0
"""Seconds between looks at the lease of someone else."""


def lock(path: Path) -> Lock:
    """The lock of a folder, here or in a storage of objects.

    Args:
        path: Of the lock's file, which is in the folder.
    """
    return Lease(path) if isinstance(path, RemotePath) else Lock(path)


class Lease(Lock):
    """A lock in a storage of objects.

    Whatever writes to the folder calls `acquire` first, which also finds out that
    another run has taken over: one that was suspended for longer than a lease lasts
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
            # It may be ours: an answer was lost, and the storage was asked again.
            if _token(created) != self._token:
                raise locks.refusal(self.path, created) from None
        stop, renewed = threading.Event(), threading.RLock()
        taken = weakref.finalize(self, _let_go, path, stop, renewed)
        try:
            # What seemed abandoned may be renewed after all, or be given back and be
            # followed by that of another run.
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
            self._is_lost = True
            raise ValueError(
                f"`{self.path.parent}` has been taken over by {locks.holder(written)}, "
                f"since this run had not renewed its lease for {TERM:g} seconds. This "
                "run ends, so that only one writes there."
            )

    def _leave(self, *held):
        """Does nothing: a fork has no thread that renews."""

    def _abandoned(self):
        """Returns leases that nobody has renewed while they last, if there are any.

        Raises:
            ValueError: If one is renewed.
        """
        first = now = self._leases()
        if first:
            was = locks.holder([*first.values()][-1])
            warnings.warn(
                f"`{self.path.parent}` is in use by {was}, or was so when that ended. "
                f"This run waits for up to {TERM:g} seconds to see which.",
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
        """What is written in all leases, by their paths; the newest is the last."""
        found = self.path.parent.glob(f"{self.path.name}-*")
        read = {path: _read(path) for path in sorted(found, key=_number)}
        return {path: written for path, written in read.items() if written is not None}


def _number(path):
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def _written(who):
    return (json.dumps(who) + "\n").encode()


def _read(path):
    """What is written in a lease; None if it has been given back meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _token(written):
    """What tells a lease from all others; None if it is damaged."""
    try:
        return json.loads(written).get("token")
    except (ValueError, AttributeError, RecursionError):
        return None


def _renew(path, who, stop, renewed):
    """Runs in a thread, as long as the lease is held."""
    renewals = 0
    while not stop.wait(RENEWAL):
        renewals += 1
        # Where the storage cannot be reached, the next renewal is soon enough.
        with contextlib.suppress(OSError), renewed:
            if path.exists() and not stop.is_set():
                path.put(_written({**who, "renewals": renewals}))


def _let_go(path, stop, renewed):
    stop.set()
    with contextlib.suppress(OSError), renewed:  # Then it expires.
        path.unlink(missing_ok=True)
