"""Errors of the storage of a sweep, which are not those of the trial that met them."""

import contextlib
import errno
from collections.abc import Iterator
from typing import Any


class Outage(BaseException):
    """Ends a trial whose storage has failed; its cause is the error of the storage.

    It is not an `Exception`, so that neither Optuna nor a user's `fit` takes it for an
    error of the trial. The storage then holds what a killed process leaves there, and
    the point is tried again.
    """


@contextlib.contextmanager
def met() -> Iterator[None]:
    """Raises `Outage` for an error within the block, which only uses the storage."""
    try:
        yield
    except Exception as error:
        raise Outage from error


@contextlib.contextmanager
def named(optuna: Any, storage: Any) -> Iterator[None]:
    """Raises an `OSError` that names the storage and the cause if it fails."""
    import sqlalchemy

    try:
        yield
    except (
        Outage,
        optuna.exceptions.StorageInternalError,
        sqlalchemy.exc.SQLAlchemyError,
    ) as error:
        raise OSError(
            errno.EIO,
            f"The storage of the sweep has failed: {_cause(error)}. Once it can be "
            "written again, the same call resumes with the trials that it holds",
            _name(storage),
        ) from error


def _cause(error):
    """Returns the text of the first error of a chain."""
    # Optuna raises an `AssertionError` while it handles what is the cause.
    hidden = error.__context__ if isinstance(error, AssertionError) else None
    if (before := error.__cause__ or hidden) is not None:
        return _cause(before)
    return str(error) or repr(error)


def _name(storage):
    """Returns the file or the URL of a database, or the class of another storage."""
    engine = getattr(storage, "engine", None)
    if engine is None:
        return type(storage).__name__
    if engine.url.drivername.startswith("sqlite"):
        return engine.url.database
    return engine.url.render_as_string(hide_password=True)
