"""A figure as HTML that draws offline: its data, its caption, and its numbers as a table where nothing can be drawn."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

from ..errors import require
from ..results import Table
from ..results.render import html_table
from .figure import caption_of, numbers_of
from .theme import PURPOSE, template

if TYPE_CHECKING:
    import plotly.graph_objects as go

CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}


def plotly_script() -> str:
    """Return plotly.js as text (4.8 MB), to be inlined once a page."""
    offline = require("plotly.offline", extra="lab", purpose=PURPOSE)
    return str(offline.get_plotlyjs())


def script_json(payload: Any) -> str:
    """Return JSON that may stand inside a ``<script>`` element: nothing in it can close the element."""
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return (
        text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )


def figure_payload(figure: go.Figure) -> dict[str, Any]:
    """Return data and layout as plain JSON-ready data, the template left out (it is the page's to choose)."""
    payload: dict[str, Any] = json.loads(figure.to_json())
    payload["layout"].pop("template", None)
    payload["layout"].pop("meta", None)
    return payload


def theme_payload(name: str) -> Any:
    """Return a theme's template as plain JSON-ready data."""
    return json.loads(json.dumps(template(name).to_plotly_json()))


def fallback_html(figure: go.Figure) -> str:
    """Return the figure's numbers as an HTML table, for readers without scripts and for machines."""
    numbers = numbers_of(figure)
    return html_table(Table(numbers.columns, numbers.rows)) if numbers is not None else html.escape(caption_of(figure))
