"""The notebook: it is that of the page, and its cells run."""

import json
import pathlib

import pytest

from tests.programs import load_program

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "getting_started.ipynb"


def test_the_notebook_is_that_of_the_page():
    program = load_program("docs/notebook")
    page = program.PAGE.read_text("utf-8")
    assert NOTEBOOK.read_text("utf-8") == program.notebook(page)


@pytest.mark.program
def test_all_cells_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    magic, code = code[0], code[1:]
    assert magic.splitlines()[-1].startswith("%pip install")
    assert len(code) > 8
    names: dict = {}
    for cell in code:
        exec(cell, names)
    assert names["accuracy"] > 0.9
    assert names["history"].epoch == list(range(10))
