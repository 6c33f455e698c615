"""Several devices give the numbers of one."""

import os
import subprocess
import sys

import keras
import pytest

BACKEND = keras.backend.backend()


def run(module, **environment):
    """Runs a program of its own, which may say what devices there are."""
    # The threads of one device wait for those of the other.
    ours = {k: v for k, v in os.environ.items() if not k.endswith("_THREADS")}
    return subprocess.run(
        [sys.executable, "-m", module],
        env={**ours, "KERAS_BACKEND": BACKEND, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_a_mirrored_strategy():
    result = run("tests.callbacks.mirrored")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "every number is that of one device" in result.stdout


@pytest.mark.skipif(BACKEND != "jax", reason="a distribution of JAX")
def test_a_data_parallel_distribution():
    result = run(
        "tests.callbacks.data_parallel",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "every number is that of one device" in result.stdout
