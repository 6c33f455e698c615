"""The documentation: nothing public is missing, code runs, links lead somewhere."""

import importlib
import pathlib
import pkgutil
import re
import tomllib

import pytest

import keras_lrs as lrs
from tests.programs import load_program

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PACKAGES = [
    lrs,
    *(
        importlib.import_module(f"keras_lrs.{module.name}")
        for module in pkgutil.iter_modules(lrs.__path__)
        if module.ispkg and not module.name.startswith("_")
    ),
]

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_the_reference_has_every_public_name_once(package):
    _, _, name = package.__name__.partition(".")
    text = (DOCS / "reference" / f"{name or 'index'}.md").read_text()
    described = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    subpackages = {package.__name__ for package in PACKAGES}
    public = {f"{package.__name__}.{name}" for name in package.__all__}
    public -= subpackages | {"keras_lrs.__version__"}
    assert sorted(described) == sorted(public)


def prose(page):
    """The text without code, in which `a[0](t)` is no link."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return re.sub(r"`[^`]*`", "``", text)


@pages
def test_every_link_leads_to_a_file(page):
    for link in re.findall(r"\]\(([^)#\s]+)", prose(page)):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def headings(page):
    """What MkDocs and GitHub make of the headings of a page."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in found}


@pages
def test_every_link_within_a_page_leads_to_a_heading(page):
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", prose(page)):
        target = page.parent / link if link else page
        if anchor.startswith("keras_lrs."):
            assert f"::: {anchor}\n" in target.read_text() + "\n", anchor
        else:
            assert anchor in headings(target), anchor


def blocks(page):
    return re.findall(r"```py\w*\n(.*?)```", page.read_text(), re.DOTALL)


@pages
def test_every_block_of_code_is_run(page):
    """As doctests; those of the gallery by its own tests."""
    if page == DOCS / "gallery" / "index.md":
        return
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["pytest"]["ini_options"]["testpaths"]
    tested = {path for pattern in patterns for path in ROOT.glob(pattern)}
    for block in blocks(page):
        assert block.startswith(">>> "), block
        assert page in tested or page.parent in tested


@pages
def test_every_block_of_code_can_be_pasted(page):
    """The site shows it without prompts, and what it prints as comments."""
    if page == DOCS / "gallery" / "index.md":
        return
    program = load_program("docs/sessions").program
    code = "".join(program(block) for block in blocks(page))
    compile(code, page.name, "exec")
    pasted = [line for line in code.splitlines() if line and not line.startswith("#")]
    shown = re.findall(r"^(?:>>>|\.\.\.) (.+)$", page.read_text(), re.MULTILINE)
    assert pasted == [line for line in shown if not line.startswith("#")]


def test_what_a_session_prints_becomes_comments():
    session = """\
>>> for name in "ab":
...     print(name)
a
b
>>> def double(x):
...     return 2 * x
>>> double(
...     4,
... )  # Twice.
8
>>> 1 + 1
2

"""
    assert (
        load_program("docs/sessions").program(session)
        == """\
for name in "ab":
    print(name)
# a
# b

def double(x):
    return 2 * x

double(
    4,
)  # Twice.
# 8

1 + 1
# 2
"""
    )


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_comparison_says_yes_only_with_a_test():
    text = (DOCS / "comparison.md").read_text()
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    heads = [line for line in tables if line.startswith("| | keras_lrs |")]
    rows = [cells(line) for line in tables if line not in heads]
    assert len(heads) == 3
    assert len(rows) > 50
    said = {"yes", "part", "no", "by hand", "-", "separate model"}
    for name, ours, *others in rows:
        assert len(others) == 9, name
        assert set(others) <= said, name
        assert ours == "no" or re.fullmatch(r"\[(yes|part)\]\(\.\./tests/\S+\)", ours)


def test_the_front_page_leads_to_what_people_come_for():
    text = (DOCS / "index.md").read_text()
    cards = re.findall(r"^- \[\*\*.+\*\*\]\((\S+)\)$", text, re.MULTILINE)
    assert len(cards) == 9
