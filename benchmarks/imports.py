"""What `import keras_lrs` adds to `import keras`, in fresh processes."""

import os
import subprocess
import sys

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
    import_seconds(backend)  # Fills the caches of the file system.
    found = [import_seconds(backend) for _ in range(NUM_PROCESSES[quick])]
    keras, ours = zip(*found, strict=True)
    return {"import keras": keras, "import keras_lrs after it": ours}


def import_seconds(backend):
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(seconds) for seconds in done.stdout.splitlines()[-1].split()]
