"""Handles Ctrl-C and SIGTERM within sections that must not be left half done.

In the main thread the signals wait until such a section is over, but a second Ctrl-C
does not wait. So a section must also survive an exception at any of its lines. It first
records what it is about to do, so that calling it again finishes it.
"""

# Plain ints, because making `signal`'s enums takes longer than everything else here.
import _signal  # type: ignore[import-not-found]
import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from keras_lrs._keras import scopes

_SIGNALS = (int(signal.SIGINT), int(signal.SIGTERM))


class _Waiting:
    """A handler that keeps signals until the previous handlers are back.

    Attributes:
        active: Whether signals wait.
    """

    def __init__(self) -> None:
        self.active = True
        self._process = os.getpid()
        self._before: dict[int, Any] = {}
        self._arrived: list[int] = []

    def __call__(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # In a forked worker.
            _signal.signal(number, self._before[number])
            _signal.raise_signal(number)
        elif self.active and number not in self._arrived:
            self._arrived.append(number)
        else:  # A second Ctrl-C does not wait.
            self._before[number](number, frame)

    def begin(self) -> None:
        """Replaces the handlers, except those that do nothing in Python."""
        for number in _SIGNALS:
            handler = _signal.getsignal(number)
            if isinstance(handler, _Waiting) and not handler.active:
                handler = handler._before[number]  # Its `end` was interrupted.
            if callable(handler) and not isinstance(handler, _Waiting):
                self._before[number] = handler
                _signal.signal(number, self)

    def end(self) -> None:
        """Puts the handlers back, and passes them the signals once."""
        self.active = False
        for number, handler in self._before.items():
            if _signal.getsignal(number) is self:
                _signal.signal(number, handler)
        while self._arrived:
            signal.raise_signal(self._arrived.pop())


def handler(number: int) -> Any:
    """Returns the handler of a signal, even while the signal waits."""
    found = signal.getsignal(number)
    return found._before[number] if isinstance(found, _Waiting) else found


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Makes SIGINT and SIGTERM wait until the block ends, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = _Waiting()
    try:
        try:
            waiting.begin()
            yield
        finally:
            waiting.end()
    finally:
        waiting.end()  # The first one may have been interrupted.


def finish(function: Callable[[], Any]) -> None:
    """Calls a function to its end; calls it again if it is interrupted, then raises.

    Args:
        function: A function that can continue where it stopped, or start over.
    """
    with deferred():
        found = scopes.state()
        try:
            function()
        except Exception:
            raise
        except BaseException:
            # A `with` that was interrupted at its end has left its scope open.
            scopes.set_state(found)
            function()
            raise


@contextlib.contextmanager
def undoing() -> Iterator["Undo"]:
    """Undoes what was done within the block, however the block ends.

    A `with` that was interrupted at its end may have left a scope open, which is closed
    too.
    """
    undo = Undo()
    undo.callback(scopes.set_state, scopes.state())
    try:
        try:
            yield undo
        finally:
            undo.close()
    finally:
        undo.close()  # The first call may have been interrupted.


class Undo:
    """A stack of functions that undo things; each is completed, whatever happens.

    It is like `contextlib.ExitStack`, but calls a function again if it is interrupted.
    """

    def __init__(self) -> None:
        self._functions: list[functools.partial] = []
        self._errors: list[BaseException] = []
        self._is_closing = False

    def callback(self, function: Callable, *arguments: Any) -> None:
        """Adds a function that undoes something; call it before or while doing it."""
        self._functions.append(functools.partial(function, *arguments))

    def close(self) -> None:
        """Undoes everything that is left; raises the last error if there was one."""
        if self._is_closing:  # Called by a function below, where closing continues.
            return
        with deferred():
            try:
                self._is_closing = True
                self._run(Exception)
                self._is_closing = False
            except BaseException:
                self._run(BaseException)
                self._errors.clear()
                self._is_closing = False
                raise
            if self._errors:
                error = self._errors[-1]
                self._errors.clear()
                raise error

    def _run(self, caught):
        while self._functions:
            function = self._functions[-1]
            try:
                function()
            except caught as error:
                self._errors.append(error)
            self._functions.remove(function)
