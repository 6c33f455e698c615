"""Conditions on arguments, declared once with their dataclass fields.

A field specifier (`rate`, `number`, `length`, ...) is used in a class body in place of
`dataclasses.field`. `Configured` reads it to check and normalise arguments, to write
configs and to compare. `durations` reads it to bind lengths.
"""

import dataclasses
import math
import numbers
import os
import pathlib
import posixpath
import re
import sys
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, dataclass_transform

import keras
import numpy as np

from keras_lrs._storage import remote
from keras_lrs.schedules import names
from keras_lrs.schedules.identity import identity

T = TypeVar("T")
REQUIRED: Any = dataclasses.MISSING
LONGEST = 2**53
"""The longest length: int64 time has room for several of them, and a float for one.

A run at a million steps per second would take 285 years."""
LARGEST_NUMBER = 3.4e38
"""The largest number: a float32 ends at 3.4028e38, and sums may round up."""
SMALLEST_POSITIVE = 2.0**-126
"""The smallest start or end of an exponential; smaller float32s have few digits."""


def refuse(name: str, constraint: str, value: Any, error: type = ValueError):
    """Raises `error`, with the argument, the condition and the received value."""
    received = f"{name}={_shown(value)}"
    raise error(f"Argument `{name}` must {constraint}. Received: {received}")


def _shown(value):
    try:
        text = repr(value)
    except Exception:  # An int with thousands of digits has no repr.
        return f"<{type(value).__name__}>"
    return text if len(text) <= 1000 else f"{text[:1000]}..."


def plain(value: Any) -> Any:
    """Returns the number in an array or tensor of shape (); other values unchanged."""
    if type(value) in (int, float):  # Without more, for long tables.
        return value
    if isinstance(value, np.generic) or getattr(value, "shape", None) != ():
        return value
    try:
        return keras.ops.convert_to_numpy(value).item()
    except Exception:  # A traced or symbolic tensor has no value yet.
        return value


def is_number(value: Any) -> bool:
    """Whether it is a real number, or an array or tensor of shape () with one."""
    if type(value) in (int, float):
        return True
    value = plain(value)
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def real(name: str, value: Any) -> float:
    """Returns `value` as a float if it is a finite real number."""
    if not is_number(value):
        refuse(name, "be a number", value, TypeError)
    value = plain(value)
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        refuse(name, "be finite", value)
    return result


def check_positive(name: str, value: float, condition: str = "") -> None:
    """Raises if an exponential cannot begin or end at `value`; appends a condition."""
    if value < SMALLEST_POSITIVE:
        bound = "be > 0" if value == 0.0 else f"be >= {SMALLEST_POSITIVE}"
        refuse(name, bound + condition, value)


def whole(name: str, value: Any) -> int:
    """Returns `value` as an int if it is a whole number (`1e5` is)."""
    value = plain(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if not real(name, value).is_integer():
        refuse(name, "be a whole number", value)
    return int(value)


def count(name: str, value: Any, at_least: int, at_most: int = LONGEST) -> int:
    """Returns `value` as an int if it is a whole number within bounds."""
    result = whole(name, value)
    if result < at_least:
        refuse(name, f"be >= {at_least}" if at_least == 0 else "be > 0", value)
    if result > at_most:
        refuse(name, f"be <= {at_most}", value)
    return result


def items(name: str, value: Any, bound: str = "be a list") -> tuple:
    """Returns `value` as a tuple if it is a list, a tuple or a 1-dimensional array."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return tuple(value.tolist())
    if isinstance(value, str) or not isinstance(value, Sequence):
        refuse(name, bound, value, TypeError)
    return tuple(value)


def one_of(name: str, value: Any, options: Iterable[str]) -> str:
    """Returns `value` if it is one of a few strings."""
    if not isinstance(value, str) or value not in options:
        refuse(name, f"be one of {', '.join(map(repr, options))}", value)
    return value


def cadence(name: str, value: Any) -> Any:
    """Returns `"epoch"`, or a number of steps as an int."""
    if isinstance(value, str):
        if value != "epoch":
            refuse(name, "be 'epoch' or a number of steps", value)
        return value
    return count(name, value, 1)


def truth(name: str, value: Any) -> bool:
    """Returns `value` as a bool if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        refuse(name, "be True or False", value, TypeError)
    return bool(value)


def verbosity(name: str, value: Any) -> int:
    """Returns `value` as an int if it is a level of verbosity."""
    return int(value) if isinstance(value, bool) else count(name, value, 0)


# `gs://bucket`, or `gs:/bucket`, as `pathlib` writes it, but no Windows drive.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):[/:]")
_WHOLE = "whose characters can all be encoded"


def path(name: str, value: Any) -> pathlib.Path:
    """Returns `value` as an absolute path on this machine; `~` is the home folder.

    A relative path starts from the folder that is current now. If the program changes
    it later, the run must still write to one place.
    """
    if not isinstance(value, (str, os.PathLike)):
        refuse(name, "be a path", value, TypeError)
    text = os.fsdecode(value)
    url = _URL.match(text)
    if url is not None and url[1].lower() == "file":
        text = _path_of_url(name, text, url[1])
    elif url is not None:
        refuse(name, f"be a local path: {_instead(url[1])}", text)
    if not text:
        refuse(name, "be a path, which is not empty", value)
    if "\0" in text:
        refuse(name, "be a path, which holds no null character", value)
    errors = sys.getfilesystemencodeerrors()  # It lets any bytes through.
    if not _is_encodable(text, sys.getfilesystemencoding(), errors):
        refuse(name, f"be a path, {_WHOLE}", value)
    try:
        return pathlib.Path(text).expanduser().absolute()
    except FileNotFoundError:
        bound = "be an absolute path, because the current folder has been removed"
        return refuse(name, bound, value)
    except RuntimeError as error:
        return refuse(name, f"be a path, and {error}", value)


def _path_of_url(name, url, protocol):
    """Returns the path in `file:///path`; `?` and `#` belong to the name of a file."""
    inside = url[len(protocol) + 1 :]
    host, begin, rest = inside[2:].partition("/")
    if not inside.startswith("//"):  # `file:/path`, as `pathlib` writes it.
        host, begin, rest = "", inside[:1], inside[1:]
    if begin != "/" or host not in ("", "localhost"):
        bound = (
            "have three slashes and an absolute path if it is the URL of a file, "
            "`file:///folder/run`"
        )
        refuse(name, bound, url)
    return urllib.request.url2pathname(begin + rest)


def any_path(name: str, value: Any) -> Any:
    """Returns `value` as a path on this machine or in a bucket, `s3://bucket`."""
    if isinstance(value, remote.RemotePath):
        return value
    text = os.fsdecode(value) if isinstance(value, (str, os.PathLike)) else ""
    url = _URL.match(text)
    protocol = "file" if url is None else url[1].lower()
    if url is None or protocol == "file":
        return path(name, value)
    inside = text[url.end() :].strip("/")
    if protocol not in remote.PACKAGES:
        known = ", ".join(f"`{key}://`" for key in remote.PACKAGES)
        bound = f"be a local path or begin with one of {known}"
        refuse(name, f"{bound}: {_instead(url[1])}", text)
    if (package := remote.missing(protocol)) is not None:
        bound = (
            f"be a local path, because `{package}`, which `{protocol}` storage needs, "
            f'is not installed: pip install "keras-lrs[remote]"'
        )
        refuse(name, bound, text)
    if not inside or "\0" in inside:
        refuse(name, "name a folder in the storage", text)
    if not _is_encodable(inside, "utf-8", "strict"):
        refuse(name, f"name a folder in the storage, {_WHOLE}", text)
    if posixpath.normpath(f"/{inside}").split("/")[1] != inside.split("/")[0]:
        refuse(name, "name a folder in its bucket, which no `..` leaves", text)
    return remote.RemotePath(protocol, inside)


def _is_encodable(text, encoding, errors):
    """Whether a text has bytes; half of a surrogate pair has none."""
    try:
        text.encode(encoding, errors)
    except UnicodeEncodeError:
        return False
    return True


def link_target(path: Any) -> Any:
    """Returns the file to which a symbolic link leads; other paths as they are."""
    return remote.resolved(path) if os.path.islink(str(path)) else path


def _instead(protocol):
    return (
        f"mount the `{protocol}` storage, or write to a local folder and copy it there"
    )


def model(name: str, value: Any) -> keras.Model:
    """Returns `value` if it is a built Keras model."""
    if not isinstance(value, keras.Model):
        refuse(name, "be a `keras.Model`", value, TypeError)
    if not value.built:
        bound = "be a built `keras.Model`: call it on a batch, or give it an `Input`"
        refuse(name, bound, value)
    return value


class Table(np.ndarray):
    """One value per cycle, in a field that otherwise holds a single value.

    `Restarts` binds its schedule to all cycles at once and gathers the fields of the
    current cycle when it is called. Users never see a table.
    """


def table(values: Any) -> Table:
    """Makes a table of integers (lengths) or floats (rates)."""
    return np.asarray(values).view(Table)


def validate(name: str, value: Any, specifier: Any) -> Any:
    """Checks `value` like a field with this specifier, and returns it normalised.

    This is for functions, whose arguments follow the same rules as schedules' fields:
    `validate("power", power, fields.number(above=0.0))`.
    """
    return specifier.metadata["check"](name, value)


# --- Field specifiers -----------------------------------------------------------------


def checked(default: Any, check: Callable[[str, Any], Any], kind: str = "plain") -> Any:
    """A field whose value `check(name, value)` normalises or rejects."""

    def unless_table(name, value):
        if not isinstance(value, Table):
            return check(name, value)
        # Lengths are bound in exact arithmetic, in object arrays.
        return value.astype(np.int64) if value.dtype == object else value

    metadata = {"check": unless_table, "kind": kind}
    return dataclasses.field(default=default, metadata=metadata)


def unchecked(default: Any = REQUIRED) -> Any:
    """A field of a schedule that users never construct."""
    return checked(default, lambda name, value: value)


def number(
    default: Any = REQUIRED,
    *,
    above: float = -math.inf,
    at_least: float = -LARGEST_NUMBER,
    below: float = math.inf,
    at_most: float = LARGEST_NUMBER,
) -> Any:
    """A float within bounds, or None if that is the default."""

    def check(name, value):
        if value is None and default is None:
            return None
        result = real(name, value)
        if not result > above:
            refuse(name, f"be > {above:g}", value)
        if not result >= at_least:
            refuse(name, f"be >= {at_least:g}", value)
        if not result < below:
            refuse(name, f"be < {below:g}", value)
        if not result <= at_most:
            refuse(name, f"be <= {at_most:g}", value)
        return result

    return checked(default, check)


def exponent(default: Any) -> Any:
    """An exponent of a fraction, > 0, within the precision of float32."""
    return number(default, at_least=1e-6, at_most=1000.0)


def rate(default: Any = REQUIRED, *, positive: bool = False) -> Any:
    """A learning rate, >= 0; with `positive`, one that suits exponentials."""
    bounded = number(default, at_least=0.0)
    if not positive:
        return bounded

    def check(name, value):
        result = validate(name, value, bounded)
        check_positive(name, result)
        return result

    return checked(default, check)


def rates(default: Any = REQUIRED) -> Any:
    """A list of learning rates."""
    each = rate()

    def check(name, value):
        return tuple(validate(name, item, each) for item in items(name, value))

    return checked(default, check)


def integer(default: Any = REQUIRED, *, at_least: int, at_most: int = LONGEST) -> Any:
    """A whole number within bounds, or None if that is the default."""

    def check(name, value):
        if value is None and default is None:
            return None
        result = whole(name, value)
        if result < at_least:
            refuse(name, f"be >= {at_least}", value)
        if result > at_most:
            refuse(name, f"be <= {at_most}", value)
        return result

    return checked(default, check)


def choice(options: Sequence[str], default: Any = REQUIRED) -> Any:
    """One of a few strings."""
    return checked(default, lambda name, value: one_of(name, value, options))


def flag(default: Any = REQUIRED) -> Any:
    """True or False."""
    return checked(default, truth)


# --- Objects made of checked fields ---------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Configured:
    """Checks its fields, and derives `==` and its config from them."""

    _instead = (
        "This is a schedule: give it to the optimizer as its `learning_rate`, or to "
        "`keras_lrs.callbacks.HyperparameterScheduler(learning_rate=...)`."
    )

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        if "__init__" in vars(cls):
            raise TypeError(
                f"`{cls.__name__}` must not define `__init__`: make it a frozen "
                "dataclass, whose fields are compared and saved."
            )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if "check" in field.metadata:
                value = validate(field.name, getattr(self, field.name), field)
                object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Raises `ValueError` if fields that are valid do not fit together."""

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, as JSON."""
        return {
            field.name: _to_config(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        """Makes the object whose `get_config` returned `config`."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in config:
            if name not in known:
                raise ValueError(
                    f"{cls.__name__} has no argument `{name}`. It has: "
                    f"{', '.join(known)}"
                )
        return cls(**{name: _from_config(value) for name, value in config.items()})

    def __getstate__(self):
        # Cached values are derived from the fields again after a copy.
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def __getattr__(self, name):
        # Keras asks each item in a list of callbacks for these attributes.
        if name in ("async_safe", "set_model"):
            raise TypeError(
                f"Argument `callbacks` must hold callbacks. {self._instead} "
                f"Received: {self!r}"
            )
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def __eq__(self, other):
        if type(self) is not type(other):
            return NotImplemented
        pairs = (
            (getattr(self, field.name), getattr(other, field.name))
            for field in dataclasses.fields(self)
        )
        return all(x is y or identity(x) == identity(y) for x, y in pairs)

    def __hash__(self):
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        plain = tuple(v for v in values if isinstance(v, (int, float, str, Configured)))
        return hash((type(self), plain))


def _to_config(value):
    if isinstance(value, tuple):
        return [_to_config(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return keras.saving.serialize_keras_object(value)


def _from_config(value):
    if isinstance(value, list):
        return [_from_config(item) for item in value]
    if isinstance(value, dict):
        try:
            return keras.saving.deserialize_keras_object(value)
        except RecursionError:
            raise ValueError("The config is nested too deeply.") from None
    return value


@dataclass_transform(
    frozen_default=True, eq_default=False, field_specifiers=(number, integer)
)
def serializable(cls: type[T]) -> type[T]:
    """Makes a class an immutable dataclass that Keras can save and load."""
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    cls.__init__ = names.hinted(cls.__init__)  # type: ignore[method-assign]
    return keras.saving.register_keras_serializable(package="keras_lrs")(cls)
