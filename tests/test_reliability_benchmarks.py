"""The reliability programs keep finished cases, resume, and publish what there is."""

import functools
import re

import pytest

from tests.programs import ROOT, load_program

kept = load_program("benchmarks/kept")
page = load_program("benchmarks/reliability_page")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
CASE = {"call": "`fit`", "backend": "torch", "first": 0}


@pytest.fixture
def source(tmp_path):
    """A program that measures."""
    path = tmp_path / "program.py"
    path.write_text("1")
    return path


def measured(path, source, case, found, resume=True):
    """Runs a program that finds something; whether it was run, and what it returns."""
    calls = []
    store = kept.Kept(path, [source], resume)
    result = store.measure(case, lambda: calls.append(case) or found)
    return len(calls), result


def test_a_finished_case_is_not_run_again_with_the_same_code(tmp_path, source):
    path = tmp_path / "results" / "kept.jsonl"
    assert measured(path, source, CASE, 1) == (1, 1)
    assert measured(path, source, dict(reversed(CASE.items())), 2) == (0, 1)
    assert measured(path, source, CASE | {"first": 100}, 3) == (1, 3)
    assert measured(path, source, CASE, 4, resume=False) == (1, 4)
    source.write_text("2")
    assert measured(path, source, CASE, 5) == (1, 5)
    assert [line["found"] for line in kept.read(path)] == [1, 3, 4, 5]


def test_half_a_line_of_a_killed_process_does_not_spoil_others(tmp_path, source):
    path = tmp_path / "kept.jsonl"
    measured(path, source, CASE, 1)
    whole = path.read_text()
    path.write_text(whole + whole[:50])
    assert measured(path, source, CASE | {"first": 100}, 2) == (1, 2)
    assert [line["found"] for line in kept.read(path)] == [1, 2]


def test_the_versions_of_the_backends_belong_to_the_code(tmp_path, source, monkeypatch):
    path = tmp_path / "kept.jsonl"
    measured(path, source, CASE, 1)
    monkeypatch.setattr(kept, "versions", lambda: {"keras": "99"})
    assert measured(path, source, CASE, 2) == (1, 2)


def test_a_job_that_fails_does_not_stop_the_others(tmp_path, source):
    path = tmp_path / "kept.jsonl"
    store = kept.Kept(path, [source], resume=True)

    def fail():
        raise OSError("the disk is full")

    functions = [fail, lambda: 2]
    jobs = [
        functools.partial(store.measure, CASE | {"first": number}, function)
        for number, function in enumerate(functions)
    ]
    with pytest.raises(SystemExit, match="1 cases failed:\nthe disk is full"):
        kept.run_all(jobs, workers=1)
    assert [line["found"] for line in kept.read(path)] == [2]


def test_a_result_outlives_other_comments_but_no_other_code(tmp_path):
    path = tmp_path / "program.py"

    def digest(text):
        path.write_text(text, encoding="utf-8")
        return kept.origin([path])["digest"]

    first = digest('"""A program."""\n\ndef f(x):\n    """Adds."""\n    return x + 1\n')
    assert digest('"""Another."""\n\ndef f(x):  # One.\n    return x + 1\n') == first
    assert digest("def f(x):\n    return x + 2\n") != first
    source = tmp_path / "source.c"
    source.write_text("int one = 1;", encoding="utf-8")
    before = kept.origin([source])["digest"]
    source.write_text("int one = 2;", encoding="utf-8")
    assert kept.origin([source])["digest"] != before
    # A text that is a value is no docstring.
    assert digest('def f(x):\n    return "Adds."\n') != digest(
        'def f(x):\n    return "Subtracts."\n'
    )


# --- The page -------------------------------------------------------------------------


def line(case, found, digest="new", commit="abc1234"):
    """A line as a program keeps it."""
    packages = {"keras": "3.15.1", "torch": "2.13.0", "jax": "0.10.2"}
    python = {"python": "3.11.7", "system": "Linux", "packages": packages}
    origin = {**python, "digest": digest, "commit": commit}
    return {"case": {"backend": "torch"} | case, "found": found, "origin": origin}


def test_kills_in_parts_add_up_and_those_of_other_code_do_not_count():
    case = {"mode": "epoch", "signal": "SIGTERM", "kind": "restarts", "kills": 10}
    hits = {"during training": 9, "at the end of an epoch": 1}
    found = {"kills": 10, "survived": 10, "runs": 4, "hits": hits}
    found["differences"] = []
    failed = found | {"survived": 7, "differences": ["plateau is 2 instead of 1"]}
    lines = [
        line(case | {"seed": 2}, failed, digest="old", commit="old"),
        line(case | {"seed": 0}, failed),
        line(case | {"seed": 0}, found),  # It was run again.
        line(case | {"seed": 1}, found),
    ]
    text = page.kills(lines)
    row = "| `ResumableTraining` | SIGTERM | restarts | torch | 20 of 20 | 8 |"
    assert row in text
    assert "| 18 during training, 2 at the end of an epoch | `abc1234` |" in text
    assert text.endswith("Nothing differed.")
    text = page.kills([*lines, line(case | {"seed": 1, "backend": "jax"}, failed)])
    assert "| SIGTERM | restarts | jax | 7 of 10 |" in text
    assert "jax, 1 x: plateau is 2 instead of 1" in text


def test_a_row_says_how_many_of_all_points_were_run():
    found = {"all": 250, "run": 100, "reached": 99, "wrong": {}}
    wrong = {"file.py:7 (time 1)": ["SIGINT has another handler"]}
    lines = [line(CASE, found), line(CASE | {"first": 100}, found | {"wrong": wrong})]
    text = page.interrupts(lines)
    assert "| `fit` | torch | 197 of 198 | 200 of 250 |" in text
    assert "- `fit`, torch, file.py:7 (time 1): SIGINT has another handler" in text
    lines.append(line(CASE | {"first": 200}, found | {"run": 50, "reached": 50}))
    assert "| `fit` | torch | 247 of 248 | all |" in page.interrupts(lines)


def test_what_was_not_run_is_a_dash():
    case = {"kind": "`Ours`", "fault": "torn", "sample": 8}
    found = {"operations": 83, "run": 8, "survived": 7, "failures": ["a saved ..."]}
    text = page.faults([line(case, found)])
    assert "| `Ours` | torch | - | 7 of 8 | - | - | - | - | 83 | `abc1234` |" in text
    assert "- `Ours`, torch, 1 x: a saved ..." in text


def test_all_parts_of_the_page_can_be_written_from_what_is_kept():
    lines = {
        name: kept.read(kept.RESULTS / f"{name}.jsonl")
        for name in ("reliability", "faults", "interrupted_lines", "endurance", "soak")
    }
    parts = (page.kills, page.faults, page.interrupts, page.endurance, page.soak)
    for found, part in zip(lines.values(), parts, strict=True):
        if found:
            assert part(found) in PAGE, "run `make reliability ARGS=--publish`"
    assert any(lines.values())


def test_all_runs_that_were_killed_recovered_as_the_readme_says():
    text = " ".join(README.split())
    sentence = (
        "A benchmark kills runs at random moments, and "
        "[all runs with `ResumableTraining` recover]"
    )
    assert sentence in text
    part = PAGE.partition("# Resuming killed runs")[2].partition("\n# ")[0]
    rows = re.findall(r"^\| `ResumableTraining.* (\d+) of (\d+) \|", part, re.MULTILINE)
    assert len(rows) >= 2 * 3  # Modes and backends.
    for survived, kills in rows:
        assert survived == kills
