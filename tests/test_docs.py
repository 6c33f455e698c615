"""The documentation: nothing public is missing, code runs, links lead somewhere."""

import importlib
import io
import itertools
import pathlib
import pkgutil
import re
import tokenize
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


@pages
def test_every_row_of_a_table_has_a_cell_for_each_column(page):
    for above, line in itertools.pairwise(prose(page).splitlines()):
        if above.startswith("|") and line.startswith("|"):
            columns = [re.findall(r"(?<!\\)\|", one) for one in (above, line)]
            assert len(columns[0]) == len(columns[1]), line


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
>>> import keras
>>> class Half(keras.layers.Layer):
...     rate = 0.5

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

import keras

class Half(keras.layers.Layer):
    rate = 0.5
"""
    )


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def comparison_tables():
    """The heads, the rows, and what is said below, of each table of the comparison."""
    text = (DOCS / "comparison.md").read_text()
    for section in text.split("\n## ")[1:]:
        lines = [line for line in section.splitlines() if line.startswith("|")]
        (_, ours, *others), _, *rows = map(cells, lines)
        assert ours == "keras_lrs"
        left_out = re.search(r"^Without any of these: (.+)\.$", section, re.MULTILINE)
        yield others, rows, left_out[1].split(", ") if left_out else []


def test_the_comparison_says_yes_only_with_a_test():
    rows = [row for _, rows, _ in comparison_tables() for row in rows]
    assert len(rows) > 60
    assert len({name for name, *_ in rows}) == len(rows)
    said = {"yes", "part", "no", "by hand", "-", "separate model"}
    for _, ours, *others in rows:
        assert set(others) <= said
        assert ours == "no" or re.fullmatch(r"\[(yes|part)\]\(\.\./tests/\S+\)", ours)


def test_each_table_of_the_comparison_names_all_libraries():
    everyone = {
        *("Keras", "PyTorch", "optax", "timm", "transformers", "fastai", "Composer"),
        *("TF-Addons", "schedulefree"),
    }
    for others, rows, left_out in comparison_tables():
        assert sorted([*others, *left_out]) == sorted(everyone)
        assert {len(row) for row in rows} == {len(others) + 2}
        # A column is there for something.
        for column in list(zip(*rows, strict=True))[2:]:
            assert set(column) - {"no", "-"}, others


def test_the_front_page_leads_to_what_people_come_for():
    text = (DOCS / "index.md").read_text()
    cards = re.findall(r"^- \[\*\*.+\*\*\]\((\S+)\)$", text, re.MULTILINE)
    assert len(cards) == 9


# --- The English ----------------------------------------------------------------------

# A noun after "training" makes it an adjective, as in "the training data".
NOUN = (
    r"(?! (?:accuracy|batch|curve|data|dynamics|example|function|image|label|loop|loss|"
    r"metric|mode|program|rate|run|sample|script|set|state|step|time|weight)(?:e?s)?\b)"
)
# Phrases that read as a translation, and what to write instead.
PHRASES = {
    rf"(?:a|the|each|every|another|whole) training\b{NOUN}": "the run",
    r"trainings\b": "runs",
    r"(?:go|goes|going|gone|went) on\b": "continue, or resume",
    r"anew\b": "again, or start over",
    r"signs? of life\b": "a heartbeat",
    r"exchang(?:e|ed|es|ing)\b": "swap",
    r"(?:can|could) be told\b": "differs detectably",
    r"be told from\b|told apart\b": "be distinguished from",
    r"(?:break|breaks|broke|broken) off\b": "is interrupted",
    r"(?:die|dies|died) with an?\b": "raises",
    r"in the place of\b|(?:take|takes|took) the place\b": "replaces, or instead of",
    r"whoever\b": "say who",
    r"meanwhile\b": "during it",
    r"(?:not|does) tell its\b": "is of unknown length",
    r"(?:of ours|of yours|of theirs) (?:is|are|does|do)\b": "our, or your",
    r"mends?\b|mended\b": "repair, or fix",
    r"and what not\b": "say both",
    r"every published schedule\b": "every schedule of the five sources",
    r"costs little that\b": "the overhead is within noise",
    r"in Python's eyes\b": "say what Python does",
    r"when things go otherwise\b": "Troubleshooting",
    r"no row\b": "Without an equivalent",
    r"(?:take|takes|took|taken) up\b(?! (?:memory|space))": "use, or resume from",
    r"(?:bring|brings|brought) along\b": "include, or come with",
    r"(?:is|are|was|were|been) told\b": "is passed, or is known",
    r"(?:may|can|could|to) be had\b": "is available",
    r"loops? of (?:your|our) own\b": "a custom loop",
    r"drop-in for\b": "a drop-in replacement for",
    r"None is all\b": "None means all",
    r"and the like\b": "and similar, or name them",
    r"on and on\b": "endlessly",
}
# What `make claims` and the benchmarks write; their templates are read by people, too,
# but a measurement is repeated to change a word of them.
WRITTEN = {DOCS / "evidence.md"}


def translated(text):
    """The phrases in a text with some words around each, and what to write instead."""
    text = re.sub(r"\s+", " ", text)
    return [
        f"{text[max(match.start() - 40, 0) : match.end() + 20]}: {instead}"
        for phrase, instead in PHRASES.items()
        for match in re.finditer(rf"\b(?:{phrase})", text, re.IGNORECASE)
    ]


def test_no_page_reads_as_a_translation():
    found = {}
    for page in [ROOT / "README.md", *sorted(set(PAGES) - WRITTEN)]:
        quoted = r"<!-- evidence: .*?<!-- end of evidence -->"
        found[page.name] = translated(re.sub(quoted, "", prose(page), flags=re.DOTALL))
    assert {name: said for name, said in found.items() if said} == {}


def test_no_docstring_comment_or_message_reads_as_a_translation():
    found = {}
    for path in sorted(pathlib.Path(lrs.__path__[0]).rglob("*.py")):
        read = io.StringIO(path.read_text(encoding="utf-8")).readline
        # Comments and messages of several lines are joined.
        words = [
            re.sub(r"^#+ ?|^[bfr]*[\"']+|[\"']+$", "", token.string)
            for token in tokenize.generate_tokens(read)
            if tokenize.tok_name[token.type] in ("COMMENT", "STRING", "FSTRING_MIDDLE")
        ]
        found[path] = translated(" ".join(words))
    assert {path: said for path, said in found.items() if said} == {}


def test_the_phrases_are_found_where_they_stand():
    assert translated("It resumes the training, and\ngoes on with it.") != []
    assert translated("The training data are read anew.") != []
    assert translated("The callback is told of each step.") != []
    assert translated("The copies take up memory.") == []
    assert translated("The training data are read again in the training loop.") == []


def test_the_changelog_and_the_citation_are_of_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    (version, date), *_ = re.findall(
        r"^## \[([\d.]+)\] - (\S+)$", changelog, re.MULTILINE
    )
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert version == lrs.__version__
    assert f"\nversion: {version}\n" in citation
    assert f"\ndate-released: {date}\n" in citation


def test_the_source_distribution_builds_the_site_and_runs_the_commands():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {"Makefile", "mkdocs.yml", "docs", "tests"} <= set(included)


def test_the_reference_leaves_out_what_users_do_not_call():
    griffe = pytest.importorskip("griffe")
    extensions = griffe.load_extensions(str(DOCS / "signatures.py"))
    package = griffe.load("keras_lrs", search_paths=[ROOT], extensions=extensions)
    callbacks = package["callbacks"]

    def described(cls):
        members = callbacks[cls].members.items()
        return {name for name, one in members if one.docstring and name[0] != "_"}

    assert described("HyperparameterScheduler") == {"bound", "describe"}
    assert described("ReduceOnPlateau") == {"state"}
    hooks = {"prepare", "fit_begins", "epoch_ends", "get_state"}
    assert hooks <= described("FitCallback")
    assert "set_model" not in described("FitCallback")
    # The function, not the module of the same name.
    assert package["tuning"]["sweep"].is_function
    # A class returns an object, which is not said again of each.
    decay = package["schedules"]["LinearDecay"].docstring.value
    assert "\nArgs:\n" in decay
    assert "\nRaises:\n" in decay
    assert "Returns:" not in decay
