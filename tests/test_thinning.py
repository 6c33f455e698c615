"""Every test function runs on every backend that it is for."""

import types

import pytest

from tests import thinning


class Item:
    def __init__(self, nodeid, *marks):
        self.nodeid, self.marks = nodeid, {mark.name: mark for mark in marks}
        self.path = nodeid.partition("::")[0]

    def get_closest_marker(self, name):
        return self.marks.get(name)


def items(*marks, functions=20, parameters=10):
    names = [f"tests/test_a.py::test_{letter}" for letter in range(functions)]
    return [Item(f"{f}[{n}-x[0]]", *marks) for f in names for n in range(parameters)]


def test_one_set_of_parameters_of_each_function_is_kept():
    kept = thinning.thinned(items())
    assert [thinning.function(item) for item in kept] == [
        f"tests/test_a.py::test_{number}" for number in range(20)
    ]


def test_functions_with_the_same_parameters_keep_different_ones():
    kept = {item.nodeid.partition("[")[2] for item in thinning.thinned(items())}
    assert len(kept) > 5


def test_the_choice_depends_on_no_order():
    there = {item.nodeid for item in thinning.thinned(items())}
    back = {item.nodeid for item in thinning.thinned(items()[::-1])}
    assert there == back


def test_tests_without_parameters_and_those_marked_are_kept_whole():
    plain = [Item("README.md::README.md"), Item("tests/test_a.py::test_a")]
    for mark in (pytest.mark.every_backend, pytest.mark.only("jax")):
        marked = items(mark)
        assert thinning.thinned(plain + marked) == plain + marked


def test_files_with_slow_tests_come_first_and_stay_together():
    names = ["a.py::one", "b.py::two", "b.py::three", "c.py::four", "d.py::five"]
    found = [Item(name) for name in names]
    found[2].marks = found[4].marks = {"slow": pytest.mark.slow}
    ordered = [item.nodeid for item in thinning.ordered(found)]
    assert ordered == [*names[1:3], names[4], names[0], names[3]]


def test_a_few_sets_of_parameters_are_kept_where_the_marker_says_how_many():
    few = items(pytest.mark.every_backend(3))
    kept = [thinning.function(item) for item in thinning.thinned(few)]
    assert kept == [f"tests/test_a.py::test_{n}" for n in range(20) for _ in range(3)]
    assert len(thinning.thinned(items(pytest.mark.every_backend(99)))) == 200


def test_a_test_of_one_backend_runs_there():
    item = Item("tests/test_a.py::test_a", pytest.mark.only("jax"))
    assert [thinning.runs_on(item, backend) for backend in thinning.BACKENDS] == [
        False,
        True,
        False,
    ]


def test_programs_and_what_is_slow_are_not_quick():
    marks = [[], [pytest.mark.program], [pytest.mark.slow], [pytest.mark.only("jax")]]
    quick = [thinning.is_quick(Item("tests/test_a.py::test_a", *m)) for m in marks]
    assert quick == [True, False, False, True]


def test_programs_and_what_is_slow_run_elsewhere_only_if_they_are_marked():
    for mark in (pytest.mark.program, pytest.mark.slow):
        assert thinning.thinned(items(mark)) == []
        for kept in (pytest.mark.every_backend, pytest.mark.only("jax")):
            marked = items(mark, kept)
            assert thinning.thinned(marked) == marked
        assert len(thinning.thinned(items(mark, pytest.mark.every_backend(3)))) == 60


@pytest.mark.parametrize(
    ("named", "keyword", "expected"),
    [
        (["tests", "keras_lrs", "docs/index.md"], "", False),
        (["tests/callbacks"], "", False),
        (["tests", "tests/test_laws.py"], "", True),
        (["tests/test_laws.py::test_a_step"], "", True),
        (["tests"], "growing", True),
    ],
)
def test_who_names_files_or_tests_gets_all_of_them(named, keyword, expected):
    option = types.SimpleNamespace(keyword=keyword)
    config = types.SimpleNamespace(args=named, option=option)
    assert thinning.asks_for_all(config) == expected


def test_no_quick_function_of_this_session_is_left_out(request):
    collected = request.config.stash[thinning.collected]
    run = {thinning.function(item) for item in request.session.items}
    for item in collected:
        only = item.get_closest_marker("only")
        if only is not None:
            assert only.args in {(backend,) for backend in thinning.BACKENDS}
        elif thinning.is_quick(item) or item.get_closest_marker("every_backend"):
            assert thinning.function(item) in run
