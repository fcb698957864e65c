"""The base of these views: their scripts and styles, a theme, what stands in their place where no widget runs."""

from __future__ import annotations

import html
from functools import cache
from importlib import resources
from typing import Any

import anywidget
import traitlets

from trtbench_lab.errors import TrtbenchError
from trtbench_lab.reports.html_figure import plotly_script

THEMES = ("auto", "light", "dark")
_SHARED = ("parts",)  # stands before every view's own files: browsers get one script, and there is no build step


@cache
def script(*names: str) -> str:
    """Return the views' scripts as one module: the shared parts first, the view's own last."""
    return "\n".join(_asset(f"{name}.js") for name in (*_SHARED, *names))


@cache
def style(*names: str) -> str:
    """Return the views' styles as one sheet.

    Pages hold the shared part once a view, in any order: a view's own rules begin with both of its classes
    (``.tb.tb-board``), so that they win wherever they stand.
    """
    return "\n".join(_asset(f"{name}.css") for name in (*_SHARED, *names))


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


class Page(anywidget.AnyWidget):
    """A view that answers for plotly.js, says what went wrong in its notice, and leaves HTML behind.

    Attributes
    ----------
    theme
        ``"auto"`` follows the page; ``"light"`` or ``"dark"`` does not.
    notice
        What a person should know now, an error with its remedy above all; empty for nothing.
    """

    theme = traitlets.Enum(THEMES, default_value="auto").tag(sync=True)
    notice = traitlets.Unicode("").tag(sync=True)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.on_msg(self._receive)

    def fallback_html(self) -> str:
        """Return what stands in the widget's place in exported pages and viewers without a kernel."""
        raise NotImplementedError  # pragma: no cover - every view has its own

    def fallback_text(self) -> str:
        """Return the same as plain text."""
        return f"{type(self).__name__} of trtbench-lab (open the notebook in Jupyter to use it)"

    def on_message(self, message: dict[str, Any]) -> None:
        """Do what the page asks; views override it."""

    def _receive(self, _: Any, message: dict[str, Any], buffers: list[Any]) -> None:
        if message.get("kind") == "plotly":
            self.send({"kind": "plotly"}, [plotly_script().encode()])
            return
        try:
            self.on_message(message)
        except TrtbenchError as error:
            self.notice = str(error)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/plain"] = self.fallback_text()
        data["text/html"] = f'<div style="font-family:system-ui,sans-serif;font-size:13px">{self.fallback_html()}</div>'
        return bundle


def heading_html(title: str, summary: str) -> str:
    """Return a fallback's first lines."""
    return (
        f'<div style="font-weight:600;font-size:1.15em">{html.escape(title)}</div>'
        f'<div style="opacity:.72">{html.escape(summary)}</div>'
    )
