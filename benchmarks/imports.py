"""What `import keras_lrs` adds to `import keras`, in fresh processes."""

import os
import subprocess
import sys
import tempfile

NUM_PROCESSES = {False: 9, True: 5}

CODE = """
import time
start = time.perf_counter()
import keras
middle = time.perf_counter()
import keras_lrs
print(middle - start, time.perf_counter() - middle)
"""


def measure(backend, quick):
    """Seconds of both imports, in every process."""
    with tempfile.TemporaryDirectory() as folder:
        import_seconds(backend, folder)  # Fills the caches of the file system, too.
        found = [import_seconds(backend, folder) for _ in range(NUM_PROCESSES[quick])]
    keras, ours = zip(*found, strict=True)
    return {"import keras": keras, "import keras_lrs after it": ours}


def import_seconds(backend, folder):
    """Seconds of both imports, with bytecode in a folder, as `pip` makes it."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**environment, "PYTHONPYCACHEPREFIX": folder},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(seconds) for seconds in done.stdout.splitlines()[-1].split()]
