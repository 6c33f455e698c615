"""A sample of the faults that `make reliability` injects: docs/reliability.md."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.only("torch")
@pytest.mark.skipif(sys.platform != "linux", reason="preloads a library")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_fault_at_any_operation_on_files_is_survived(tmp_path):
    pytest.importorskip("torch")
    kinds, faults = ["ResumableTraining", "SnapshotEnsemble"], ["torn", "data lost"]
    program = ROOT / "benchmarks" / "faults.py"
    options = ["--sample", "2", "--kinds", *kinds, "--faults", *faults]
    options += ["--work", tmp_path / "finished.jsonl"]
    result = subprocess.run(
        [sys.executable, program, *options],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    survived = re.findall(r"(\d+) of (\d+)", result.stdout.partition("| --- ")[2])
    assert survived == [("2", "2")] * len(kinds) * len(faults), result.stdout
