"""Several devices give the numbers of one."""

import contextlib
import json
import socket

import keras
import pytest

from tests import processes

pytestmark = [pytest.mark.every_backend, pytest.mark.slow]

BACKEND = keras.backend.backend()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_a_mirrored_strategy():
    processes.call_with_devices("tests.callbacks.mirrored")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_several_workers():
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    configs = [{"cluster": {"worker": workers}, "task": task} for task in tasks]
    environments = [{"TF_CONFIG": json.dumps(config)} for config in configs]
    processes.call_with_devices("tests.callbacks.workers", *environments)


@pytest.mark.skipif(BACKEND != "jax", reason="distributions of JAX")
@pytest.mark.parametrize("program", ["data_parallel", "model_parallel"])
def test_a_distribution(program):
    flags = "--xla_force_host_platform_device_count=4"
    processes.call_with_devices(f"tests.callbacks.{program}", {"XLA_FLAGS": flags})
