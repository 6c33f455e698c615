"""A storage of objects in memory, watched or broken; and an S3 server on loopback."""

import contextlib
import errno
import hashlib
import os
import threading
import urllib.request

from keras_lrs._storage.remote import RemotePath


@contextlib.contextmanager
def in_memory():
    """Gives a folder in memory, which is emptied."""
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    yield RemotePath("memory", "folder")
    MemoryFileSystem.store.clear()


@contextlib.contextmanager
def on_s3(patch):
    """Gives a folder in a bucket of a server on loopback, which this starts.

    Args:
        patch: pytest's `MonkeyPatch`, for the variables that clients read.
    """
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        # All servers of a process have the same buckets.
        urllib.request.urlopen(f"{url}/moto-api/reset", data=b"").close()
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        storages = fsspec.get_filesystem_class("s3")
        storages.clear_instance_cache()  # Which know the server before.
        storages(use_listings_cache=False).mkdir("bucket")
        yield RemotePath("s3", "bucket/folder")
    finally:
        server.stop()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def watch(patch):
    """Returns a list of what is changed from now on, in order."""
    done = []

    def watched(plain):
        def call(path, *arguments, **keywords):
            done.append(f"{plain.__name__} {path.name}")
            return plain(path, *arguments, **keywords)

        return call

    for plain in (RemotePath.put, RemotePath.unlink):
        patch.setattr(RemotePath, plain.__name__, watched(plain))
    return done


def break_at(patch, number, writes):
    """Has the connection break at one of the operations that change something.

    Args:
        patch: pytest's `MonkeyPatch`.
        number: Of the operation, from 0.
        writes: Whether it has its effect nevertheless.
    """
    left = [number]

    def breaking(plain):
        def call(path, *arguments, **keywords):
            left[0] -= 1
            if left[0] != -1:
                return plain(path, *arguments, **keywords)
            if writes:
                plain(path, *arguments, **keywords)
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET), str(path))

        return call

    for plain in (RemotePath.put, RemotePath.unlink):
        patch.setattr(RemotePath, plain.__name__, breaking(plain))


def in_thread(function):
    """Calls a function in another thread; returns what it raised."""
    raised = []

    def run():
        try:
            function()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised
