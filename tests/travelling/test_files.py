"""Whatever is saved, whenever, loads anywhere: in a fresh process, on each backend."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests import thinning
from tests.travelling import files

pytestmark = pytest.mark.every_backend

BACKENDS = ("tensorflow", "jax", "torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of this backend."""
    folder = tmp_path_factory.mktemp("files")
    files.write(folder)
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.slow
def test_files_load_and_train_on(folder, backend, tmp_path, pytestconfig):
    if importlib.util.find_spec(backend) is None:
        pytest.skip("this backend is not installed")
    if files.BACKEND == backend != thinning.WHOLE and not pytestconfig.option.all:
        pytest.skip("the backend that wrote them: with --all")
    own = tmp_path / "files"
    shutil.copytree(folder, own)
    run = subprocess.run(
        [sys.executable, "-m", "tests.travelling.files", str(own)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    differences, count = run.stdout.splitlines()[-2:]
    assert json.loads(differences) == {}
    written = json.loads((folder / "numbers.json").read_text())
    assert count == f"{len(written) + 1} read"
    assert len(written) == 6 * len(files.OPTIMIZERS) + len(files.schedules()) + 5
