"""Opens the storages in which Optuna keeps its studies."""

import contextlib
import os
import time
import warnings
from typing import Any

from keras_lrs._storage import remote
from keras_lrs.schedules import fields

HEARTBEAT = 10
"""Seconds between the heartbeats of a trial in a database."""
GRACE = 60
"""Seconds without a heartbeat after which a trial counts as killed."""
PATIENCE = 60
"""Seconds to wait for an SQLite database that others write to."""
POLL = 1.0
"""Seconds between checks of what other processes are doing."""
RETRIES = 3
"""How often a point is retried after the process that tried it was killed."""


def opened(optuna: Any, storage: Any) -> Any:
    """Returns a storage of Optuna: the given one, or the one at a path or URL.

    Raises:
        ValueError: If no database can be opened at the path or URL.
        TypeError: If the argument has another type.
    """
    storages = optuna.storages
    if storage is None:
        return storages.InMemoryStorage()
    if not isinstance(storage, (str, os.PathLike)):
        if not isinstance(storage, storages.BaseStorage):
            bound = "be a path, a URL, a storage of Optuna or None"
            fields.refuse("storage", bound, storage, TypeError)
        return storage
    import sqlalchemy

    url = _url(storage)
    try:
        database = _database(optuna, url)
    except (
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.StorageInternalError,
        ValueError,
    ) as error:
        raise ValueError(
            "Argument `storage` must be a database that can be opened. "
            f"Received: storage={storage!r} ({error})"
        ) from error
    record = database.record_heartbeat

    def record_heartbeat(trial_id):
        # If others keep the database busy, the next heartbeat is soon enough.
        with contextlib.suppress(optuna.exceptions.StorageInternalError):
            record(trial_id)

    database.record_heartbeat = record_heartbeat
    return database


def _database(optuna, url):
    storages = optuna.storages
    with warnings.catch_warnings():
        # Heartbeats are experimental, and have been for years.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        arguments = {
            "heartbeat_interval": HEARTBEAT,
            "grace_period": GRACE,
            "heartbeat_stale_trial_callback": (
                storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)
            ),
        }
        if url.startswith("sqlite"):
            return _sqlite(optuna, url, arguments)
        return storages.RDBStorage(url, **arguments)


def _sqlite(optuna, url, arguments):
    """Opens an SQLite database in which no point is taken twice.

    To take a point, Optuna reads its state and then writes it, in one transaction. But
    Python's SQLite begins a transaction only when something is written, so two
    processes may read the same state before either writes. Here a transaction begins
    with the lock.
    """
    import sqlalchemy

    # Without an isolation level, Python leaves transactions to us.
    options = {"connect_args": {"timeout": PATIENCE, "isolation_level": None}}
    for attempts_left in reversed(range(5)):
        try:
            storage = optuna.storages.RDBStorage(url, options, **arguments)
            break
        except (
            sqlalchemy.exc.DBAPIError,
            optuna.exceptions.StorageInternalError,
        ):
            if not attempts_left:
                raise
            time.sleep(POLL)  # Another process is just creating the tables.

    def begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(storage.engine, "begin", begin)
    return storage


def _url(storage):
    """Returns the URL of a database; a path is an SQLite file, which may not exist."""
    url = os.fspath(storage)
    if "://" in url:
        return url
    path = str(remote.resolved(fields.path("storage", url)))
    if os.path.islink(path):
        fields.refuse("storage", "be no symbolic link that leads to itself", storage)
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path)):
        fields.refuse("storage", "be a file in a folder that exists", storage)
    # Optuna would leave a file open that it cannot read.
    if os.path.exists(path) and not _is_sqlite(path):
        fields.refuse("storage", "be a database that can be opened", storage)
    return _url_of_file(storage, path)


def _url_of_file(storage, path):
    """Returns the URL of an SQLite file with exactly this name."""
    from sqlalchemy import engine

    url = engine.URL.create("sqlite", database=path).render_as_string()
    if engine.make_url(url).database != path:  # SQLAlchemy 2.0 escapes nothing.
        bound = "be a path without `?`, or SQLAlchemy must be 2.1 or later"
        fields.refuse("storage", bound, storage)
    # Optuna formats the URL, and puts a version into it.
    return url.replace("{", "{{").replace("}", "}}")


def _is_sqlite(path):
    """Tells whether a file is an SQLite database, or empty and may become one."""
    with open(path, "rb") as file:
        return file.read(16) in (b"", b"SQLite format 3\0")
