"""Pages are programs that write into a folder of their own."""

import pytest

from tests import thinning


def pytest_itemcollected(item):
    """A page that never asks for the backend does the same on each."""
    item.add_marker("program")
    if "backend.backend()" in item.path.read_text():
        item.add_marker("every_backend")
    else:
        item.add_marker(pytest.mark.only(thinning.WHOLE))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder for the files of a page, which is removed."""
    monkeypatch.chdir(tmp_path)
