"""What the pages write goes into a folder of its own."""

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder for the files of a page, which is removed."""
    monkeypatch.chdir(tmp_path)
