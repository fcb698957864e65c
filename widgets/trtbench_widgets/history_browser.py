"""`HistoryBrowser`: stored runs to filter, sort, tag, compare, delete (and take back), and open again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import traitlets

from trtbench_lab.errors import ResultsError
from trtbench_lab.reports import figures_for
from trtbench_lab.reports.comparison import comparison_view
from trtbench_lab.reports.html_figure import theme_payload
from trtbench_lab.results import Comparison, Result, ResultsDatabase, metric_of
from trtbench_lab.results.history import HistoryRow
from trtbench_lab.results.render import format_value

from .board import panel_of
from .page import Page, heading_html, script, style

_LISTED = 300  # rows in the page: more are found by filters
_ID_LETTERS = 4  # from here on words are sought in ids too: two letters of hex stand in every twentieth of them
_SORTS: dict[str, Callable[[HistoryRow], Any]] = {
    "when": lambda row: row.created_at,
    "kind": lambda row: row.kind,
    "model": lambda row: (row.model or "").lower(),
    "backend": lambda row: row.backend,
    "name": lambda row: (row.name or "").lower(),
}


class HistoryBrowser(Page):
    """The history as a table; what is opened or compared is drawn below it and at hand in Python.

    Parameters
    ----------
    database
        Path of the history; None for the person's own.
    theme
        ``"auto"``, ``"light"`` or ``"dark"``.

    Attributes
    ----------
    filters
        ``text``, ``kind``, ``backend``, ``model``, ``tag``, ``since`` (``"7d"``), and ``metric``: a column of its own.
    sort
        ``[column, direction]``, for example ``["when", "desc"]``; ``metric`` sorts by the metric column.
    selected
        Ids of the ticked runs.
    opened
        The run that was opened last, or the comparison; None before.
    """

    _esm = script("history_browser")
    _css = style("history_browser")

    rows = traitlets.List(traitlets.Dict()).tag(sync=True)
    summary = traitlets.Unicode("").tag(sync=True)
    choices = traitlets.Dict().tag(sync=True)
    filters = traitlets.Dict().tag(sync=True)
    sort = traitlets.List(traitlets.Unicode(), default_value=["when", "desc"]).tag(sync=True)
    selected = traitlets.List(traitlets.Unicode()).tag(sync=True)
    detail = traitlets.Dict().tag(sync=True)
    templates = traitlets.Dict().tag(sync=True)
    undo_text = traitlets.Unicode("").tag(sync=True)

    def __init__(self, *, database: Path | str | None = None, theme: str = "auto") -> None:
        self.database = ResultsDatabase(database)
        self.opened: Result | Comparison | None = None
        self._deleted: list[tuple[Result, tuple[str, ...]]] = []
        super().__init__(
            theme=theme,
            templates={name: theme_payload(name) for name in ("light", "dark")},
            filters=dict.fromkeys(("text", "kind", "backend", "model", "tag", "since", "metric"), ""),
        )
        self.reload()

    # ---- what the buttons do -----------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the history again, through the filters and in the chosen order."""
        everything = self.database.query(limit=None)
        found = self._found()
        shown = found[:_LISTED]
        metric = self.filters["metric"]
        with self.hold_sync():
            self.choices = _choices(everything, found)
            self.rows = [_row(row, metric) for row in shown]
            kept = {row.id for row in found}
            self.selected = [id for id in self.selected if id in kept]
            more = f", the first {len(shown)} are listed" if len(found) > len(shown) else ""
            self.summary = f"{len(found):,} of {len(everything):,} runs{more}"

    def reopen(self, id: str) -> Result:
        """Show a stored run below the table, with its figures; returns it."""
        result = self.database.get(id)
        self.opened = result
        figures = figures_for(result)
        self._show_detail(result.title, result._repr_html_(), figures, id=id)
        return result

    def compare(self, ids: Iterable[str] | None = None) -> Comparison:
        """Set the ticked runs (or those named) side by side; ratios are against the first of them in the table."""
        chosen = list(ids) if ids is not None else self._in_order(self.selected)
        comparison = self.database.compare(chosen)
        self.opened = comparison
        self._show_detail("Comparison", comparison._repr_html_(), [comparison_view(comparison)], id="")
        return comparison

    def delete(self, ids: Iterable[str] | None = None) -> int:
        """Delete the ticked runs (or those named); `undo` brings them back as long as this browser lives."""
        chosen = list(ids) if ids is not None else list(self.selected)
        tags = {row.id: row.tags for row in self.database.query(limit=None)}
        # Read first: what cannot be read could not be brought back.
        self._deleted = [(self.database.get(id), tags.get(id, ())) for id in chosen]
        self.database.delete(chosen)
        self.undo_text = f"{len(chosen)} run{'s' if len(chosen) != 1 else ''} deleted." if chosen else ""
        if self.detail.get("id") in chosen:
            self.close_detail()
        self.reload()
        return len(chosen)

    def undo(self) -> None:
        """Bring back what was deleted last, tags included."""
        for result, tags in self._deleted:
            self.database.add(result)
            self.database.tag(result.id, *tags)
        self._deleted = []
        self.undo_text = ""
        self.reload()

    def tag(self, tag: str, ids: Iterable[str] | None = None) -> None:
        """Put a tag on the ticked runs, or on those named."""
        self.database.tag(list(ids) if ids is not None else list(self.selected), tag)
        self.reload()

    def untag(self, tag: str, ids: Iterable[str]) -> None:
        """Take a tag off runs."""
        self.database.untag(list(ids), tag)
        self.reload()

    def close_detail(self) -> None:
        """Take away what was opened."""
        self.detail = {}

    def on_message(self, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        self.notice = ""
        if kind == "open":
            self.reopen(message["id"])
        elif kind == "compare":
            self.compare()
        elif kind == "delete":
            self.delete()
        elif kind == "undo":
            self.undo()
        elif kind == "tag":
            self.tag(message["tag"])
        elif kind == "untag":
            self.untag(message["tag"], [message["id"]])
        elif kind == "close":
            self.close_detail()
        elif kind == "reload":
            self.reload()

    # ---- what stands in its place ------------------------------------------------------------------------------

    def fallback_html(self) -> str:
        view = self.database.query(limit=20)
        return heading_html("History", self.summary) + view._repr_html_()

    def fallback_text(self) -> str:
        return repr(self.database.query(limit=20))

    # ---- inside ------------------------------------------------------------------------------------------------

    @traitlets.observe("filters", "sort")
    def _on_choice(self, change: Any) -> None:
        if not change["old"] or change["old"] == change["new"]:
            return
        try:
            self.reload()
            self.notice = ""
        except ResultsError as error:
            self.notice = str(error)

    def _found(self) -> list[HistoryRow]:
        wanted = self.filters
        exact = {name: wanted[name] for name in ("kind", "backend", "model", "tag", "since") if wanted[name]}
        words = wanted["text"].strip().lower()
        rows = [
            row
            for row in self.database.query(limit=None, **exact)
            if words in _text_of(row) or (len(words) >= _ID_LETTERS and row.id.startswith(words))
        ]
        column, direction = self.sort
        down = direction == "desc"
        if column == "metric":
            name = wanted["metric"]
            known = [row for row in rows if row.metrics.get(name) is not None]
            rest = [row for row in rows if row.metrics.get(name) is None]
            # Runs without the number stand last, whichever way it is sorted.
            return [*sorted(known, key=lambda row: float(row.metrics[name] or 0), reverse=down), *rest]
        return sorted(rows, key=_SORTS.get(column, _SORTS["when"]), reverse=down)

    def _in_order(self, ids: Iterable[str]) -> list[str]:
        wanted = set(ids)
        return [row["id"] for row in self.rows if row["id"] in wanted]

    def _show_detail(self, title: str, body: str, figures: list[Any], *, id: str) -> None:
        panels = [panel_of(figure, key=f"{id or 'comparison'}-{i}") for i, figure in enumerate(figures)]
        self.detail = {"id": id, "title": title, "html": body, "panels": panels}


def _row(row: HistoryRow, metric: str) -> dict[str, Any]:
    value = row.metrics.get(metric) if metric else None
    return {
        "id": row.id,
        "when": row.created_at[:16].replace("T", " "),
        "kind": row.kind,
        "model": row.model or "",
        "backend": row.backend,
        "name": row.name or "",
        "tags": list(row.tags),
        "numbers": row.headline(),
        "metric": format_value(value) if metric else "",
    }


def _choices(everything: Iterable[HistoryRow], found: Iterable[HistoryRow]) -> dict[str, Any]:
    rows = list(everything)
    names = dict.fromkeys(name for row in found for name in row.metrics)
    return {
        "kind": sorted({row.kind for row in rows}),
        "backend": sorted({row.backend for row in rows}),
        "model": sorted({row.model for row in rows if row.model}),
        "tag": sorted({tag for row in rows for tag in row.tags}),
        "metric": [[name, _metric_label(name)] for name in sorted(names)],
    }


def _metric_label(name: str) -> str:
    known = metric_of(name)
    return f"{name} ({known.unit})" if known and known.unit else name


def _text_of(row: HistoryRow) -> str:
    return " ".join([row.kind, row.backend, row.model or "", row.name or "", *row.tags]).lower()
