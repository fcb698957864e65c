"""`Dashboard`: figures of any set of runs from the history, engine-only, serving and quality kept apart."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import traitlets

from trtbench_lab.reports.dashboard import (
    ENGINE_METRICS,
    GROUPS,
    KINDS,
    SERVED_METRICS,
    dashboard_panels,
    shared_measures,
)
from trtbench_lab.results import METRICS, Result, ResultsDatabase
from trtbench_lab.results.comparison import label_of
from trtbench_lab.results.history import HistoryRow

from .board import Board

_GROUP_OF = {"bench": "engine", "serving": "serving", "quality": "quality"}
_KIND_WORDS = {"bench": "engine-only", "serving": "serving", "quality": "quality"}
_FIRST = 4  # runs of the newest kind that are drawn before anyone chose
_LISTED = 200


class Dashboard(Board):
    """Distribution, percentiles, position, timeline, memory, Pareto, limit and quality of the runs that are ticked.

    Parameters
    ----------
    results
        Runs to look at; None: all benchmarks, serving benchmarks and quality reports of the history.
    database
        Path of the history; None for the person's own.
    ids
        Which of them are drawn at first; None: the newest few of one kind.
    theme
        ``"auto"``, ``"light"`` or ``"dark"``.

    Examples
    --------
    >>> board = Dashboard()                              # doctest: +SKIP
    >>> board.shown = ["3f9a0c1b2d4e", "77c0a1b2c3d4"]   # doctest: +SKIP
    """

    def __init__(
        self,
        results: Iterable[Result] | None = None,
        *,
        database: Path | str | None = None,
        ids: Iterable[str] | None = None,
        theme: str = "auto",
    ) -> None:
        self._database = ResultsDatabase(database)
        self._given = None if results is None else {result.id: result for result in results}
        self._loaded: dict[str, Result] = {}
        self._rows = self._listed()
        super().__init__(
            heading="Dashboard",
            theme=theme,
            groups=dict(GROUPS),
            values={
                "show": "all",
                "model": "",
                "backend": "",
                "text": "",
                "metric": "itl_ms",
                "request_metric": "request_ttft_ms",
                "measure": "",
            },
        )
        self._list_runs()
        self.shown = list(ids) if ids is not None else self._newest()
        self.refresh()

    @property
    def results(self) -> list[Result]:
        """The runs that are drawn."""
        return [self._result(id) for id in self.shown]

    def reload(self) -> None:
        """Read the history again: runs that were added since appear in the list."""
        self._rows = self._listed()
        self._list_runs()
        known = {row.id for row in self._rows}
        self.shown = [id for id in self.shown if id in known]

    def redraw(self) -> None:
        values, results = self.values, self.results
        panels = dashboard_panels(
            results,
            metric=values["metric"],
            request_metric=values["request_metric"],
            measure=values["measure"] or None,
        )
        self.show([(panel.key, panel.group, panel.figure) for panel in panels])
        self.summary = f"{len(results)} of {len(self._rows)} runs drawn"
        self._controls(results)

    def _newest(self) -> list[str]:
        kind = next((row.kind for row in self._rows), None)
        return [row.id for row in self._rows if row.kind == kind][:_FIRST]

    def _listed(self) -> list[HistoryRow]:
        if self._given is not None:
            return [_row_of(result) for result in self._given.values()]
        rows = [row for kind in KINDS for row in self._database.query(kind=kind, limit=_LISTED)]
        return sorted(rows, key=lambda row: row.created_at, reverse=True)

    def _result(self, id: str) -> Result:
        if self._given is not None and id in self._given:
            return self._given[id]
        if id not in self._loaded:
            self._loaded[id] = self._database.get(id)
        return self._loaded[id]

    def _list_runs(self) -> None:
        """List the runs that pass the filters; those that are drawn stay in the list whatever the filters say."""
        values = self.values
        self.runs = [
            {
                "id": row.id,
                "label": f"{row.name or row.model or row.id} [{row.backend}]",
                "kind": _KIND_WORDS.get(row.kind, row.kind),
                "group": _GROUP_OF.get(row.kind, ""),
                "when": row.created_at[:16].replace("T", " "),
                "numbers": ", ".join([*row.tags, row.headline()]),
            }
            for row in self._rows
            if row.id in self.shown or _passes(row, values)
        ]

    def _controls(self, results: list[Result]) -> None:
        measures = shared_measures(results)
        kinds = {result.kind for result in results}
        models = sorted({row.model for row in self._rows if row.model})
        backends = sorted({row.backend for row in self._rows})
        controls: list[dict[str, Any]] = [
            _select("show", "Kind", [("all", "all kinds"), *((kind, _KIND_WORDS[kind]) for kind in KINDS)]),
            _select("model", "Model", [("", "any model"), *((name, name) for name in models)]),
            _select("backend", "Backend", [("", "any backend"), *((name, name) for name in backends)]),
            {"name": "text", "label": "Find", "kind": "text", "placeholder": "name, tag, id"},
        ]
        if "bench" in kinds:
            controls.append(_select("metric", "Engine-only latency", _metrics(ENGINE_METRICS)))
        if "serving" in kinds:
            controls.append(_select("request_metric", "Serving latency", _metrics(SERVED_METRICS)))
        if measures:
            controls.append(_select("measure", "Quality", [("", measures[0]), *((m, m) for m in measures[1:])]))
        self.controls = controls

    @traitlets.observe("shown")
    def _on_shown(self, _: Any) -> None:
        self.highlighted = [id for id in self.highlighted if id in self.shown]
        self._list_runs()
        self.refresh()

    @traitlets.observe("values")
    def _on_values(self, change: Any) -> None:
        if not change["old"] or change["old"] == change["new"]:
            return
        changed = {name for name in change["new"] if change["new"][name] != change["old"].get(name)}
        if changed & {"show", "model", "backend", "text"}:
            self._list_runs()
        if changed - {"show", "model", "backend", "text"}:
            self.refresh()


def _passes(row: HistoryRow, values: dict[str, Any]) -> bool:
    words = f"*{values['text'].strip().lower()}*"
    text = " ".join([row.id, row.name or "", row.model or "", *row.tags]).lower()
    return (
        values["show"] in ("all", row.kind)
        and values["model"] in ("", row.model)
        and values["backend"] in ("", row.backend)
        and fnmatch(text, words)
    )


def _row_of(result: Result) -> HistoryRow:
    return HistoryRow(
        id=result.id,
        kind=result.kind,
        created_at=result.created_at,
        backend=result.backend,
        model=result.model,
        name=result.name or label_of(result).rpartition(" [")[0],
        metrics=result.metrics,
    )


def _select(name: str, label: str, options: Iterable[tuple[str, str]]) -> dict[str, Any]:
    return {"name": name, "label": label, "kind": "select", "options": [list(pair) for pair in options]}


def _metrics(tags: Iterable[str]) -> list[tuple[str, str]]:
    return [(tag, METRICS[tag].label) for tag in tags]
