"""The browser and the server, once a session; a notebook of all widgets over small stored runs, once a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .lab import Notebook, chromium_path, lab_server


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def lab(lab_folder: Path) -> Iterator[str]:
    with lab_server(lab_folder) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = chromium_path()
    assert path, "Browser tests need Chromium: install it with the system's packages."
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--use-gl=swiftshader"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def open_notebook(lab: str, browser: Any, lab_folder: Path) -> Iterator[Any]:
    """Open a notebook of these cells and run it; in the end its page must have said and asked nothing wrong."""
    opened: list[Notebook] = []

    def make(name: str, cells: list[str]) -> Notebook:
        opened.append(Notebook(browser, lab, lab_folder, name, cells))
        opened[-1].run_all()
        return opened[-1]

    yield make
    for notebook in opened:
        notebook.close()
