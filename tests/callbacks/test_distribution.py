"""Several devices give the numbers of one."""

import contextlib
import json
import os
import socket
import subprocess
import sys

import keras
import pytest

from tests import processes
from tests.callbacks import devices

pytestmark = [pytest.mark.every_backend, pytest.mark.slow]

BACKEND = keras.backend.backend()


def start(module, **environment):
    """Starts a program of its own, which may say what devices there are."""
    # The threads of one device wait for those of the other.
    ours = {k: v for k, v in os.environ.items() if not k.endswith("_THREADS")}
    return subprocess.Popen(
        [sys.executable, "-m", module],
        env={**ours, "KERAS_BACKEND": BACKEND, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check(*programs):
    try:
        for program in programs:
            output, errors = program.communicate(timeout=processes.HANGS)
            assert program.returncode == 0, errors[-3000:]
            assert devices.SAME in output, output
    finally:
        for program in programs:
            with program:
                program.kill()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_a_mirrored_strategy():
    check(start("tests.callbacks.mirrored"))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_several_workers():
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    programs = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": workers}, "task": task})
        programs.append(start("tests.callbacks.workers", TF_CONFIG=config))
    check(*programs)


@pytest.mark.skipif(BACKEND != "jax", reason="distributions of JAX")
@pytest.mark.parametrize("program", ["data_parallel", "model_parallel"])
def test_a_distribution(program):
    flags = "--xla_force_host_platform_device_count=4"
    check(start(f"tests.callbacks.{program}", XLA_FLAGS=flags))
