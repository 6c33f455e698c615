"""Files are written even where no thread can start."""

import concurrent.futures
import subprocess
import sys
import threading

import pytest

from keras_lrs._storage import files, threads


@pytest.fixture
def no_threads(monkeypatch):
    """As in a system with no room for another thread."""

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def test_functions_run_in_order_in_a_thread_of_their_own():
    seen = []

    def note(number):
        seen.append((number, threading.current_thread().name))
        return number

    with threads.Worker("notes") as worker:
        futures = [worker.submit(note, number) for number in range(9)]
        assert [future.result() for future in futures] == list(range(9))
    assert seen == [(number, "notes_0") for number in range(9)]


def test_without_a_thread_they_run_at_once(no_threads):
    worker, seen = threads.Worker("notes"), []
    for number in range(2):
        worker.submit(seen.append, number)
        assert seen == list(range(number + 1))
    worker.close()
    assert seen == [0, 1]


def test_once_no_thread_may_start_those_before_are_finished_first(monkeypatch):
    may_run, seen = threading.Event(), []
    worker = threads.Worker("notes")
    worker.submit(may_run.wait)
    worker.submit(seen.append, "before")

    def refuse(self, *arguments):
        may_run.set()
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", refuse)
    worker.submit(seen.append, "after")
    assert seen == ["before", "after"]


@pytest.mark.parametrize("has_threads", [True, False])
def test_what_a_function_raises_is_in_its_future(has_threads, request):
    if not has_threads:
        request.getfixturevalue("no_threads")
    with threads.Worker("notes") as worker:
        future = worker.submit(int, "one")
        with pytest.raises(ValueError, match="one"):
            future.result()


def test_a_file_is_written_without_a_thread(tmp_path, no_threads):
    files.write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.slow
def test_a_file_is_written_after_the_main_thread_has_ended(tmp_path):
    program = """
import sys, threading
from keras_lrs._storage import files

def write():
    threading.main_thread().join()
    files.write_atomically(sys.argv[1], b"content")

threading.Thread(target=write).start()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "file")]
    subprocess.run(command, check=True)
    assert (tmp_path / "file").read_bytes() == b"content"
