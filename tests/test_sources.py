"""The page of the five sources: their words are found, and lead somewhere."""

import re

import pytest

import keras_lrs as lrs
from tests.programs import ROOT, load_program

PAGE = ROOT / "docs" / "sources.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ")]
# Words of the sources that people search for.
WORDS = (
    "ExpLR",
    "TEXP",
    "tapered exponential",
    "1.481",
    "annihilation",
    "Pareto",
    "grid search",
    "guess and check",
    "w_{B+1}",
    "w_2",
    "33-66",
    "25-50-75",
    "unstable",
    "trajectory",
    "scale invariance",
    "anytime performance",
    "1/(2H)",
    "Lemma 1",
    "norm(w)^2 / rate",
    "super-convergence",
    "top-1",
    "schedule-free",
)
SECTIONS = {
    "Cutkosky, Lecture Notes 5: tuning and learning rate schedules",
    "Wolfe, The Best Learning Rate Schedules",
    "The tutorial on learning rate scheduling",
    "Exponential learning rate schedules",
    "Reverse engineering a step decay",
}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_a_source_leads_somewhere(word):
    rows = [row for row in ROWS if word.lower() in row.lower()]
    assert any("](" in row or "`python " in row for row in rows), word


@pytest.mark.parametrize("word", ["ExpLR", "TEXP", "1.481", "annihilation", "unstable"])
def test_a_word_that_names_a_thing_is_explained_in_a_guide(word):
    pages = [*(ROOT / "docs" / "guides").glob("*.md"), ROOT / "docs/which_schedule.md"]
    assert any(word in page.read_text(encoding="utf-8") for page in pages)


def test_each_source_has_a_section():
    assert set(re.findall(r"^## (.*)$", TEXT, re.MULTILINE)) > SECTIONS


def test_each_source_is_cited_with_a_link():
    for section in SECTIONS:
        citation = TEXT.split(f"\n## {section}\n")[1].split("\n|")[0]
        assert "](https://" in citation, section


def test_every_paper_that_it_links_to_is_a_reference_in_the_package():
    docstrings = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "keras_lrs").rglob("*.py")
    )
    linked = re.findall(r"\[(\S+)\]\(https://arxiv\.org/abs/(\S+)\)", TEXT)
    assert len(linked) == 8
    for name, number in linked:
        assert name == f"arXiv:{number}"
        assert name in docstrings


def test_every_item_is_shown_by_something():
    rows = [row.strip().split("|")[1:-1] for row in ROWS if row.count("|") == 5]
    items = [[cell.strip() for cell in row] for row in rows]
    heads = [item for item in items if item[0] == "the source says"]
    assert len(heads) == len(SECTIONS)
    assert len(items) > 50
    for words, _, shown, *_ in items:
        assert words
        assert shown


def test_every_class_that_it_names_exists():
    code = " ".join(re.findall(r"`([^`]+)`", " ".join(ROWS)))
    named = set(re.findall(r"\b([A-Z][a-z]+(?:[A-Z][A-Za-z]+)*)\b(?=\(|\.|$| )", code))
    known = {
        *lrs.schedules.__all__,
        *lrs.callbacks.__all__,
        *lrs.averages.__all__,
        *lrs.optimizers.__all__,
        *lrs.tuning.__all__,
        *lrs.__all__,
    }
    assert len(named) > 20
    assert named - {"True", "Sweep"} <= known


@pytest.mark.only("torch")
@pytest.mark.program
def test_every_recipe_is_listed():
    listed = re.findall(r"`python examples/reproduce (\w+)", TEXT)
    recipes = load_program("examples/reproduce.command").RECIPES
    assert set(listed) == set(recipes)
    for command in re.findall(r"`python examples/reproduce ([^`]+)`", TEXT):
        if "--help" not in command:
            name, *options = command.split()
            flags = {option for option in options if option.startswith("--")}
            assert flags <= {"--data", "--literal"}, name


@pytest.mark.only("jax")
@pytest.mark.program
def test_what_was_not_run_is_a_claim_that_can_be():
    page = load_program("examples/claims.page")
    titles = {row.title for row, _ in page.all_rows()}
    outcome = r'\[([^\]]+)\]\(evidence\.md(?:#[\w-]+)?\)(?:, "[^"]*")?: \*'
    linked = re.findall(outcome, TEXT)
    assert len(linked) > 30
    assert set(linked) <= titles
    # And no claim is left out.
    assert set(linked) == titles
