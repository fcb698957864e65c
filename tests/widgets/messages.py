"""Counts what a widget would send to its page; there is no page and no kernel."""

from __future__ import annotations

from typing import Any

import ipywidgets


class Wire:
    """Stands where the comm stands: every message of one widget, in order."""

    def __init__(self, widget: ipywidgets.Widget) -> None:
        self.messages: list[tuple[dict[str, Any], list[Any]]] = []
        widget._send = lambda message, buffers=None: self.messages.append((message, list(buffers or [])))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Custom messages of a kind."""
        contents = [message["content"] for message, _ in self.messages if message["method"] == "custom"]
        return [content for content in contents if content["kind"] == kind]

    def updates(self, trait: str) -> list[Any]:
        """Values of a trait that were sent."""
        states = [message["state"] for message, _ in self.messages if message["method"] == "update"]
        return [state[trait] for state in states if trait in state]


def press(widget: Any, kind: str, **values: Any) -> None:
    """Do what a click does: a custom message from the page."""
    widget._receive(widget, {"kind": kind, **values}, [])
