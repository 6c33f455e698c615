"""Whatever is passed: it is refused by name, or all that comes of it is finite.

`KERAS_LRS_FUZZ=10000` sets the number of examples of each class (`make fuzz`).
"""

import contextlib
import inspect
import os
import re
import signal
import warnings

import keras
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import values
from tests.fuzz.subjects import BASES, PACKAGES, RECORDS, SUBJECTS, Made

pytestmark = pytest.mark.only("torch")

ASKED = os.environ.get("KERAS_LRS_FUZZ")
EXAMPLES = int(ASKED or 12)
FEW = EXAMPLES if ASKED else 4  # Of what takes long.


def fuzzed(examples):
    """Settings of a search: the same examples every time, unless more are asked for."""
    return settings(
        max_examples=examples,
        derandomize=ASKED is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def in_time(seconds=60):
    """Raises where a call takes that much processor time, however busy others are."""

    def stop(*_):
        raise TimeoutError(f"not done in {seconds} seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def names(message):
    """The names of arguments that a message gives."""
    return set(re.findall(r"`(\w+)[`.\[]", message) + re.findall(r"(\w+)=", message))


def attempt(subject, arguments, changed, deep):
    """Calls it; accepted, refused, or an error that is neither."""
    try:
        made = {n: v.make() if isinstance(v, Made) else v for n, v in arguments.items()}
        result = subject.call(**made)
    except (ValueError, TypeError) as error:
        found = names(str(error))
        if "Received: " in str(error):  # What does not fit may be the other's fault.
            changed = changed | arguments.keys()
        assert found & changed, f"{changed} not named: {error}"
        return
    except subject.errors:
        return
    subject.check(result)
    if deep:
        subject.deep(result)


@st.composite
def calls(draw, subject):
    """Good arguments, of which some are exchanged for others."""
    base = draw(st.sampled_from(subject.bases))
    varied = [name for name in subject.names if name not in subject.unchecked]
    changed = set()
    if varied:
        some = st.lists(st.sampled_from(varied), min_size=1, max_size=4, unique=True)
        changed = set(draw(st.one_of(st.sampled_from(varied).map(lambda n: [n]), some)))
    arguments = dict(base)
    for name in sorted(changed):
        known = base.get(name, subject.default(name))
        near = st.just(known) if isinstance(known, Made) else values.near(known)
        arguments[name] = draw(st.one_of(values.nasty, near, near))
    return arguments, changed


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Paths that are accepted are those of a folder that is removed."""
    monkeypatch.chdir(tmp_path)


def test_everything_public_is_fuzzed():
    public = {
        name
        for package in PACKAGES
        for name in package.__all__
        if not inspect.ismodule(getattr(package, name)) and name != "__version__"
    }
    assert public == SUBJECTS.keys() | RECORDS | BASES


@pytest.mark.parametrize("name", SUBJECTS)
def test_good_arguments_are_accepted(name):
    subject = SUBJECTS[name]
    for base in subject.bases:
        attempt(subject, base, {"none"}, deep=not subject.is_costly)


@pytest.mark.parametrize("name", SUBJECTS)
def test_arguments_are_refused_by_name_or_all_is_finite(name):
    subject = SUBJECTS[name]

    @fuzzed(FEW if subject.is_costly else EXAMPLES)
    @given(calls(subject), st.integers(0, 19))
    def run(call, rare):
        with warnings.catch_warnings(), in_time():
            warnings.simplefilter("ignore")
            attempt(subject, *call, deep=rare == 0)

    run()
    keras.utils.clear_session(free_memory=False)
