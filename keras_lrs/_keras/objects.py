"""Finds the objects that a user's data holds, and their attributes."""

import collections
import contextlib
import functools
import itertools
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

from keras_lrs._keras.states import LEAVES, LIBRARIES, is_loader, kind_of

_MOST = 5000  # Objects that are searched; of a longer list or dict only the first ones.
_WITHOUT_DATA = ("concurrent.futures", "multiprocessing.pool", "logging")


def walked(data: Any) -> list:
    """Returns the objects that some data holds, each once, itself first."""
    return [one for part in walked_in_parts(data) for one in part]


def walked_in_parts(data: Any) -> tuple[list, list]:
    """Returns what version 0.2.0 found, in its order, and everything else."""
    found: list = []
    seen, queue = {id(data)}, collections.deque([data])
    later: collections.deque = collections.deque()

    def enqueue(to, children):
        for child in children:
            if id(child) not in seen and not isinstance(child, LEAVES):
                seen.add(id(child))
                to.append(child)

    def walk():
        while queue and len(found) < _MOST:
            one = queue.popleft()
            if is_loader(one, "_BaseDataLoaderIter"):
                continue  # There is a new one in every epoch.
            if type(one).__module__.startswith(_WITHOUT_DATA):
                continue
            found.append(one)
            if not kind_of(one):
                enqueue(queue, _until_error(_children(one)))
                enqueue(later, _until_error(_more_children(one)))

    walk()
    count = len(found)
    while later and len(found) < _MOST:
        queue.append(later.popleft())
        walk()
    return found[:count], found[count:]


def children(one: Any) -> list:
    """Returns what an object holds and what its functions refer to."""
    return [*_until_error(_children(one)), *_until_error(_more_children(one))]


def _until_error(items):
    """Returns the items of a user's object, which may raise any error."""
    found = []
    with contextlib.suppress(Exception):
        for item in items:
            # What a proxy refers to may be gone, and whatever holds it is elsewhere.
            if type(item) not in weakref.ProxyTypes:
                found.append(item)
    return found


def _children(one) -> Iterator:
    # Lists are made at once, because threads may change what they are made of.
    if isinstance(one, dict):
        yield from list(itertools.islice(one.values(), _MOST))
    elif isinstance(one, (list, tuple, set, frozenset, collections.deque)):
        yield from list(itertools.islice(one, _MOST))
    elif isinstance(one, types.MethodType):
        yield from (one.__self__, one.__func__)
    elif isinstance(one, functools.partial):
        yield from (one.func, one.args, one.keywords)
    else:
        if hasattr(one, "__dict__") and type(one) is not types.FunctionType:
            yield from list(vars(one).values())
        for function in _functions(one):
            yield from function.__defaults__ or ()
            for cell in function.__closure__ or ():
                content = _content(cell)
                if _is_wanted(content) or isinstance(content, types.FunctionType):
                    yield content
            yield from filter(_is_wanted, _globals(function, function.__code__))


def _more_children(one) -> Iterator:
    """Yields what is in slots, and in functions that functions call or hold."""
    for member in _members(one).values():
        with contextlib.suppress(AttributeError):  # It has no value.
            yield member.__get__(one)
    for function in _functions(one):
        for value in _globals(function, *_codes(function.__code__)):
            if _is_users_function(value) or _is_wanted(value):
                yield value


def _functions(one):
    if type(one) is types.FunctionType:
        return [one]
    if isinstance(one, (dict, list, tuple, set, frozenset, collections.deque)):
        return []
    held = [value for kind in own_classes(one) for value in vars(kind).values()]
    return [value for value in held if type(value) is types.FunctionType]


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # It is not assigned yet.
        return None


def _globals(function, *codes):
    """Yields the values of the global names in the code of a function."""
    for code in codes:
        for name in code.co_names:
            yield function.__globals__.get(name)


def _codes(code) -> Iterator:
    """Yields code and the code of the functions and comprehensions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _is_wanted(one):
    """Whether an object has a known state."""
    try:
        return kind_of(one) is not None
    except Exception:  # Asking a user's object for its class may raise any.
        return False


def _is_users_function(one):
    if type(one) is not types.FunctionType:
        return False
    package = (one.__module__ or "").partition(".")[0]
    return package not in LIBRARIES and package not in sys.stdlib_module_names


def attributes_of(one: Any) -> dict[str, Any]:
    """Returns the attributes of an object, also those in `__slots__`."""
    found = dict(vars(one)) if hasattr(one, "__dict__") else {}
    for name, member in _members(one).items():
        with contextlib.suppress(AttributeError):  # It has no value.
            found[name] = member.__get__(one)
    return found


def set_attributes(one: Any, attributes: dict[str, Any]) -> None:
    """Gives an object the attributes that `attributes_of` returned, and no others."""
    members = _members(one)
    for name in attributes_of(one).keys() - attributes.keys():
        if name in members:
            members[name].__delete__(one)
        else:
            del vars(one)[name]
    for name, value in attributes.items():
        if name in members:
            members[name].__set__(one, value)  # Works in frozen classes too.
        else:
            vars(one)[name] = value


def _members(one):
    """Returns what reads and writes the attributes in an object's `__slots__`."""
    return {
        name: member
        for kind in reversed(own_classes(one))
        if "__slots__" in vars(kind)  # Classes in C have such members for other uses.
        for name, member in vars(kind).items()
        if isinstance(member, types.MemberDescriptorType)
    }


def held_by_classes(found: list) -> list:
    """Returns what the user's classes of some objects hold."""
    return [
        value
        for one in found
        for kind in own_classes(one)
        for value in vars(kind).values()
        if not isinstance(value, LEAVES)
    ]


def own_classes(one: Any) -> list:
    """Returns the user's classes of an object."""
    return [
        kind
        for kind in type(one).__mro__
        if kind.__module__.partition(".")[0] not in LIBRARIES
    ]
