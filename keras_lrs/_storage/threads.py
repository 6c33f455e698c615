"""Runs functions in the background where a thread can start."""

import concurrent.futures
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Worker:
    """Runs functions one after the other, in a thread of its own.

    A thread cannot start if the system has no room for it, or if the main thread has
    ended: a run in another thread may outlive it. Then the functions run at once, in
    the calling thread.
    """

    def __init__(self, name: str):
        self._pool: Any = concurrent.futures.ThreadPoolExecutor(1, name)
        self._process = os.getpid()

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked since, which leaves its thread behind."""
        return self._process != os.getpid()

    def submit(self, function: Callable, *arguments: Any) -> Future:
        """Has a function run; the future holds what it returns or raises."""
        if self._pool is not None:
            try:
                return self._pool.submit(function, *arguments)
            except RuntimeError:
                self.close()  # It finishes the functions that were submitted before.
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Waits for all functions; later ones run in the calling thread."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
