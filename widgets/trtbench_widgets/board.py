"""A board: labelled controls, runs to choose from, and a grid of figures with downloads and linked selection."""

from __future__ import annotations

import html
import json
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import traitlets

from trtbench_lab.errors import TrtbenchError
from trtbench_lab.reports.figure import caption_of, fluid, min_width_of, numbers_of
from trtbench_lab.reports.html_figure import fallback_html, figure_payload, theme_payload
from trtbench_lab.reports.static_svg import figure_image
from trtbench_lab.results import Table
from trtbench_lab.results.render import html_table

from .page import Page, heading_html, script, style

if TYPE_CHECKING:
    import plotly.graph_objects as go

_WIDE_PX = 500  # a figure that needs more has a row of the grid to itself
SHOWN_ROWS = 200  # of a figure's table: the rest is in its CSV


class Board(Page):
    """Controls above, figures below; both faces of every value are traits, so a click and an assignment do the same.

    Attributes
    ----------
    heading, summary
        What it is, and what is shown now.
    controls
        One dictionary a control: ``name``, ``label``, ``kind`` (``"select"``, ``"number"``, ``"text"``, or ``"line"``:
        a text that counts once it is left or Enter is pressed), ``options`` (pairs of value and label),
        ``suggestions``, ``min``, ``max``, ``help``.
    values
        Value of each control by name.
    runs
        One dictionary a run that may be chosen: ``id``, ``label``, ``kind``, ``group``, ``when``, ``numbers``.
    shown, highlighted
        Ids of the runs that are drawn, and of those that stand out in every figure.
    facts
        Numbers above the figures: ``label``, ``value``, ``note`` and ``state`` (``"good"``, ``"bad"`` or empty).
    table
        ``columns`` and ``rows`` below them; empty for none.
    lines
        ``magic``, ``python`` and ``shell``: the same request to copy; empty for none.
    actions
        Buttons: ``kind`` of the message that each sends, ``label``, ``disabled``.
    panels
        The figures, as `panel_of` makes them.
    """

    _esm = script("forms", "board")
    _css = style("forms", "board")

    heading = traitlets.Unicode("").tag(sync=True)
    summary = traitlets.Unicode("").tag(sync=True)
    controls = traitlets.List(traitlets.Dict()).tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    runs = traitlets.List(traitlets.Dict()).tag(sync=True)
    shown = traitlets.List(traitlets.Unicode()).tag(sync=True)
    highlighted = traitlets.List(traitlets.Unicode()).tag(sync=True)
    facts = traitlets.List(traitlets.Dict()).tag(sync=True)
    table = traitlets.Dict().tag(sync=True)
    lines = traitlets.Dict().tag(sync=True)
    actions = traitlets.List(traitlets.Dict()).tag(sync=True)
    groups = traitlets.Dict().tag(sync=True)
    panels = traitlets.List(traitlets.Dict()).tag(sync=True)
    templates = traitlets.Dict().tag(sync=True)

    def __init__(self, **values: Any) -> None:
        self._figures: list[go.Figure] = []
        super().__init__(templates={name: theme_payload(name) for name in ("light", "dark")}, **values)

    @property
    def figures(self) -> list[go.Figure]:
        """The Plotly figures that are shown, in order."""
        return list(self._figures)

    def show(self, figures: Sequence[tuple[str, str, go.Figure]]) -> None:
        """Draw figures, each with its key and group; a figure whose key stays keeps its place in the page."""
        self._figures = [figure for _, _, figure in figures]
        self.panels = [panel_of(figure, key=key, group=group) for key, group, figure in figures]

    def refresh(self) -> None:
        """Make the figures anew from the controls' values; an error is said and leaves the last figures."""
        try:
            self.redraw()
            self.notice = ""
        except TrtbenchError as error:
            self.notice = str(error)

    def redraw(self) -> None:
        """Make the figures anew; boards override it."""

    def fallback_html(self) -> str:
        return (
            heading_html(self.heading, self.summary)
            + self._facts_html()
            + "".join(
                f'<figure style="margin:12px 0">{figure_image(figure)}'
                f'<figcaption style="opacity:.72;max-width:70em">{html.escape(caption_of(figure))}</figcaption>'
                f"<details><summary>The numbers</summary>{fallback_html(figure)}</details></figure>"
                for figure in self._figures
            )
        )

    def _facts_html(self) -> str:
        if not self.facts:
            return ""
        rows = [(fact["label"], fact["value"], fact["note"]) for fact in self.facts]
        code = f"<pre>{html.escape(self.lines['magic'])}</pre>" if self.lines else ""
        return html_table(Table(("", "", ""), rows)) + code

    def fallback_text(self) -> str:
        titles = [html.unescape(str(figure.layout.title.text or "")) for figure in self._figures]
        facts = [f"  {fact['label']}: {fact['value']} ({fact['note']})" for fact in self.facts]
        return "\n".join([f"{self.heading}: {self.summary}", *facts, *(f"  {title}" for title in titles)])

    @traitlets.observe("values")
    def _on_values(self, change: Any) -> None:
        if change["old"] and change["old"] != change["new"]:
            self.refresh()


def panel_of(figure: go.Figure, *, key: str, group: str = "") -> dict[str, Any]:
    """Return a figure as the page takes it: its words apart from its drawing, so that they wrap and can be read out."""
    payload = figure_payload(fluid(figure))
    layout = payload["layout"]
    title = layout.pop("title", {})
    under = (title.get("subtitle") or {}).get("text") or ""
    # The title's room above the drawing is not needed; figures with words of their own up there keep some.
    layout["margin"] = {"l": 64, "r": 24, "b": 48, **layout.get("margin", {}), "t": 2 if _is_tree(payload) else 16}
    height = int(layout.get("height") or 400) - 40
    for trace in payload["data"]:
        if trace.get("type") == "bar" and trace.get("orientation") == "h":
            trace["y"] = [_wrapped(name) for name in trace["y"]]
    table = numbers_of(figure)
    rows = [[str(cell) for cell in row] for row in table.rows] if table is not None else []
    plain = html.unescape(title.get("text") or "Figure")
    return {
        "key": key,
        "group": group,
        "title": plain,
        "subtitle": html.unescape(under),
        "titleHtml": title.get("text") or "",
        "subtitleHtml": under,
        "caption": caption_of(figure),
        "data": payload["data"],
        "layout": layout,
        "height": height,
        "columns": list(table.columns) if table is not None else [],
        "rows": rows[:SHOWN_ROWS],
        "wide": min_width_of(figure) >= _WIDE_PX,
        "more": max(0, len(rows) - SHOWN_ROWS),
        "name": re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "figure",
    }


def _wrapped(name: Any) -> Any:
    """Return a bar's name in lines, so that the bars keep most of a narrow column."""
    return "<br>".join(textwrap.wrap(name, 22)) if isinstance(name, str) and len(name) > 24 else name


def _is_tree(payload: dict[str, Any]) -> bool:
    return any(trace.get("type") == "treemap" for trace in payload["data"])


def plain_json(value: Any) -> Any:
    """Return a value as JSON leaves it, so that a trait compares equal to what comes back from the page."""
    return json.loads(json.dumps(value))
