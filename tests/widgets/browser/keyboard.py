"""A view worked by keyboard alone: Tab reaches every control in the order of the page, the focus seen on each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .lab import Notebook

_WALK = Path(__file__).with_name("walk.js").read_text(encoding="utf-8").partition("\n")[2].strip()
_MOST_STOPS = 300
_NATIVE = (
    "a",
    "button",
    "input",
    "select",
    "textarea",
    "summary",
)  # the browser acts on Enter and Space itself
_READ = ("region", "log", "tabpanel", "listbox")  # to scroll or read in; a list box has keys of its own


def walk(notebook: Notebook, selector: str) -> list[dict[str, Any]]:
    """Press Tab from before a view's first control until the focus leaves it; return every stop, checked."""
    view = json.dumps(selector)
    controls = notebook.page.evaluate(f"{_WALK}.begin({view})")
    stops: list[dict[str, Any]] = []
    while True:
        notebook.page.keyboard.press("Tab")
        stop = notebook.page.evaluate(f"{_WALK}.stop({view})")
        if stop is None:
            break
        stops.append(stop)
        assert len(stops) < _MOST_STOPS, f"The focus does not leave {selector}: {stops[-5:]}"
    reached = [stop for stop in stops if stop["at"] >= 0]
    assert [stop["at"] for stop in reached] == list(range(controls)), stops
    for stop in stops:
        assert stop["ring"], f"The focus is not seen on {stop}"
        assert stop["shown"], f"Out of sight: {stop}"
    for stop in reached:
        assert stop["name"], f"Without a name: {stop}"
        assert stop["tag"] in _NATIVE or stop["role"] in _READ, f"Keys do nothing on {stop}"
    return stops
