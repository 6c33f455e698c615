"""Runs jobs in processes side by side, and keeps what each of them found."""

import concurrent.futures
import json
import multiprocessing
import os
import time

MOST_JOBS = 100  # Of a pool: what its processes have compiled takes memory.
_STATE = {}  # Of a process: its harness.


def begin(data, seeds, quick, folder):
    """Gives the process a harness."""
    # The only progress that is shown is that of the jobs.
    os.environ["TQDM_DISABLE"] = "1"
    import optuna

    from claims.data import load
    from claims.harness import Harness

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _STATE["harness"] = Harness(load(data, seeds, folder), quick)


def run(job):
    """What a job found, and the seconds that it took."""
    start = time.perf_counter()
    result = job.run(_STATE["harness"])
    return result, round(time.perf_counter() - start, 2)


class Store:
    """Results of jobs in a file, a line each; what was written last is whole or not.

    Args:
        path: Of the file.
        resume: Whether to keep what is in it.
    """

    def __init__(self, path, resume):
        self.path, self.found = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        if resume and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("", encoding="utf-8")
        for line in lines:
            try:
                self.keep(*json.loads(line))
            except ValueError:
                continue  # The process was killed while it wrote.

    def keep(self, key, result, seconds):
        """Writes one."""
        line = json.dumps([key, result, seconds], separators=(",", ":"))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        # As it is when it is read.
        self.found[key] = json.loads(line)[1:]


def run_all(jobs, store, arguments, processes):
    """Runs all jobs that the store has not; longer ones first.

    Args:
        jobs: The jobs.
        store: Where their results are kept.
        arguments: Of `begin`.
        processes: How many, side by side; with one it is this process.
    """
    from tqdm import tqdm

    todo = {job.key: job for job in jobs if job.key not in store.found}
    todo = sorted(todo.values(), key=lambda job: -job.length)
    with tqdm(total=len(todo), unit="job", smoothing=0.05) as progress:
        for job, (result, seconds) in results(todo, arguments, processes):
            store.keep(job.key, result, seconds)
            progress.update()


def results(todo, arguments, processes):
    """Jobs and what they found, as they are done."""
    if processes == 1:
        begin(*arguments)
        for job in todo:
            yield job, run(job)
        return
    # Not `max_tasks_per_child`: after the last task of a process, another may never be
    # started, and the run would hang (CPython 115634).
    for first in range(0, len(todo), MOST_JOBS):
        few = todo[first : first + MOST_JOBS]
        yield from results_of_pool(few, arguments, processes)


def results_of_pool(todo, arguments, processes):
    """The same of a few jobs, in processes of their own."""
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), begin, arguments
    )
    try:
        waiting = {pool.submit(run, job): job for job in todo}
        for done in concurrent.futures.as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)
