"""Writes the notebook of the page "Getting started".

    python docs/notebook.py

The page is the source: every block of code becomes a cell.
"""

import json
import pathlib
import re

import sessions

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "getting_started.md"
NOTEBOOK = ROOT / "examples" / "getting_started.ipynb"
SITE = "https://keras-lrs.github.io/keras-lrs/"
INSTALL = """\
# In Colab, where Keras and its backends are installed already.
%pip install --quiet git+https://github.com/keras-lrs/keras-lrs scikit-learn"""
BLOCK = re.compile(r"```pycon\n(.*?)\n```\n", re.DOTALL)


def notebook(page: str) -> str:
    """The notebook of a page in Markdown, as JSON."""
    pieces = BLOCK.split(_without_itself(page))  # Text and code in turn.
    cells = [_cell("code", INSTALL)]
    for index, piece in enumerate(pieces):
        if piece.strip():
            if index % 2:
                cells.append(_cell("code", sessions.program(piece).strip()))
            else:
                cells.append(_cell("markdown", _text(piece)))
    cells[:2] = cells[1::-1]  # The title comes before the installation.
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    found = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _without_itself(page):
    return re.sub(r" It is also available as a notebook:\s+\[.*?\]\(.*?\)\.", "", page)


def _text(piece):
    """Markdown whose links lead to the site."""
    return re.sub(r"\]\(([\w/]+)\.md", rf"]({SITE}\1.html", piece).strip()


def _cell(kind, text):
    cell = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text("utf-8")), encoding="utf-8")
