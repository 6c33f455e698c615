"""Keeps each finished case of a long program as a line of JSON, so that it can resume.

A line holds the case, what was found, and a digest of the code that found it: the
package and the program that measures, without comments and docstrings, and the versions
of Keras and its backends. A case is finished if there is a line with its case and the
digest of today. Lines are only appended; where a case has several, the last one counts.
"""

import ast
import concurrent.futures
import datetime
import hashlib
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import threading
import time

from report import versions

RESULTS = pathlib.Path(__file__).with_name("results")
# The one that is imported, which need not be beside this file.
PACKAGE = pathlib.Path(importlib.util.find_spec("keras_lrs").origin).parent


def add_options(parser, program):
    """Adds the options of all programs that resume."""
    work = RESULTS / f"{pathlib.Path(program).stem}.jsonl"
    parser.add_argument("--output", type=pathlib.Path, help="the page to write into")
    parser.add_argument(
        "--work", type=pathlib.Path, default=work, help="the file for finished cases"
    )
    parser.add_argument(
        "--resume", action="store_true", help="run only the cases that are missing"
    )
    parser.add_argument(
        "--publish", action="store_true", help="run nothing; write the page again"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="cases to run in parallel"
    )


class Kept:
    """The finished cases of a program.

    Args:
        path: The file with a line for each.
        sources: The files that decide what is found, besides the package.
        resume: Whether cases that were finished with the same code are not run again.
    """

    def __init__(self, path, sources, resume):
        self.path, self.resume = path, resume
        self.origin = origin(sources)
        self._writing = threading.Lock()
        digest = self.origin["digest"]
        lines = [one for one in read(path) if one["origin"]["digest"] == digest]
        self._found = {key(one["case"]): one["found"] for one in lines}

    def finished(self, case):
        """What was found with the same code; None if the case must run."""
        return self._found.get(key(case)) if self.resume else None

    def measure(self, case, function):
        """Returns what was found, or calls the function and keeps what it returns."""
        found = self.finished(case)
        if found is not None:
            return found
        start = time.monotonic()
        found = json.loads(json.dumps(function()))
        line = {
            "case": case,
            "found": found,
            "seconds": round(time.monotonic() - start, 1),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "origin": self.origin,
        }
        with self._writing:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A killed process may have left half a line, which must not swallow this.
            with self.path.open("a+b") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - 1, 0))
                torn = file.read() not in (b"", b"\n")
                file.write(b"\n" * torn + json.dumps(line).encode() + b"\n")
        print(f"{time.strftime('%H:%M:%S')} {case}", file=sys.stderr, flush=True)
        return found


def key(case):
    """A case as a key: the order of its names does not matter."""
    return json.dumps(case, sort_keys=True)


def read(path):
    """All lines of a file that are whole."""
    found = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # The process was killed while it wrote.
    return found


def latest(lines, names):
    """Groups lines by some names of their cases, for the rows of a table.

    A group never mixes results of different code: only the lines of the code that
    measured its last line are in it, and each case once.
    """
    groups = {}
    for line in lines:
        row = tuple(line["case"][name] for name in names)
        groups.setdefault(row, []).append(line)
    found = {}
    for row, members in groups.items():
        digest = members[-1]["origin"]["digest"]
        same = [line for line in members if line["origin"]["digest"] == digest]
        found[row] = list({key(line["case"]): line for line in same}.values())
    return found


def origin(sources):
    """What a result depends on, and a digest of it."""
    digest = hashlib.sha256()
    for path in [*sorted(PACKAGE.rglob("*.py")), *sorted(map(pathlib.Path, sources))]:
        digest.update(f"{path.name}\0{code(path)}\0".encode())
    packages = versions()
    packages.pop("keras_lrs", None)  # Its sources say more.
    found = {
        "packages": packages,
        "python": platform.python_version(),
        "system": platform.system(),
    }
    digest.update(key(found).encode())
    return {**found, "commit": commit(), "digest": digest.hexdigest()[:16]}


def code(path):
    """A source; of Python without comments and docstrings, which change no result."""
    if path.suffix != ".py":
        return path.read_text(encoding="utf-8")
    tree = ast.parse(path.read_bytes())
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def commit():
    """The last commit that changed the package, and whether it was changed since."""
    try:
        last = git("log", "-1", "--format=%h", "--", ".")
        changed = git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{last}, changed" if changed else last or "unknown"


def git(*arguments):
    """What a command of git prints."""
    command = ["git", "-C", str(PACKAGE), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def in_a_process(command, backend, **environment):
    """What a program prints after REPORT, as JSON."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONWARNINGS": "ignore",
            **environment,
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.split("REPORT")[1])


def run_all(jobs, workers):
    """Calls functions without arguments; a job that fails does not stop the others."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(job) for job in jobs]
        failed = [job.exception() for job in running]
    failed = [error for error in failed if error is not None]
    if failed:
        sys.exit("\n".join([f"{len(failed)} cases failed:", *map(str, failed)]))
