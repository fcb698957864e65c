"""One self-contained HTML file of results and figures: opens anywhere, asks no server, and can be read back as data."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import ResultsError
from ..results import Result, Table
from ..results.base import utc_now
from ..results.environment import machine_of
from ..storage import staged_file
from .figures import figures_for
from .html_figure import CONFIG, figure_payload, plotly_script, script_json, theme_payload
from .sections import Highlight, Section, Untitled, highlights_html, is_figure, item_html, table_html

FORMAT_VERSION = 1
_DATA_ID = "trtbench-report"
# Nothing may be fetched from anywhere: not by this page, and not by anything that is ever put into it.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


@dataclass(frozen=True, kw_only=True)
class StoredReport:
    """What a report file holds as data.

    Attributes
    ----------
    title, created_at, version
        As written; `version` is the release that wrote it.
    results
        Every result shown, raw samples included: each figure can be drawn again.
    """

    title: str
    created_at: str
    version: str
    results: list[Result]


def write_report(
    path: Path | str,
    title: str,
    sections: Iterable[Section | Result],
    *,
    subtitle: str | None = None,
    highlights: Sequence[Highlight] = (),
    data: Iterable[Result] = (),
) -> Path:
    """Write a report, as a whole or not at all.

    Parameters
    ----------
    path
        The file, ``.html``.
    title, subtitle
        What it is about.
    sections
        Parts in order; a bare result becomes a section with its tables and the figures that suit it.
    highlights
        The few numbers that a person should see first.
    data
        Results that figures were drawn from and that no section shows; they are kept in the file too.

    Returns
    -------
    pathlib.Path
        The written file: about 5 MB, because plotly.js is in it, once.

    Raises
    ------
    StorageError
        When it cannot be written.
    MissingPackageError
        When Plotly is not installed.
    """
    path = Path(path).expanduser()
    parts = [_section_of(part) for part in sections]
    results = _distinct([*(result for part in parts for result in part.results), *data])
    created_at = utc_now()
    if results:
        parts.append(Section(title="Environment", items=_environment_tables(results)))
    body, figures = _body(parts)
    content = {
        "format_version": FORMAT_VERSION,
        "title": title,
        "created_at": created_at,
        "version": __version__,
        "results": [result.to_dict() for result in results],
    }
    page = _PAGE.format(
        policy=_POLICY,
        title=html.escape(title),
        css=_asset("report.css"),
        subtitle=f'<p class="subtitle">{html.escape(subtitle)}</p>' if subtitle else "",
        chips=_chips(results, created_at),
        toc="".join(
            f'<li><a href="#{_anchor(i)}">{html.escape(p.title)}</a></li>' for i, p in enumerate(parts, start=1)
        ),
        highlights=highlights_html(highlights),
        body=body,
        created=html.escape(created_at),
        version=html.escape(__version__),
        scripts=_scripts(figures, content),
    )
    with staged_file(path) as staging:
        staging.write_text(page, encoding="utf-8")
    return path


def read_report(path: Path | str) -> StoredReport:
    """Read the results back from a report that `write_report` wrote.

    Raises
    ------
    ResultsError
        When the file is no such report, is damaged, or was written by a newer version.
    """
    path = Path(path).expanduser()
    try:
        page = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"The report cannot be read: {error}.", where=str(path), remedy="Check the path.") from error
    found = re.search(rf'<script type="application/json" id="{_DATA_ID}">(.*?)</script>', page, re.DOTALL)
    if found is None:
        raise ResultsError(
            "There is no report data in this file.",
            where=str(path),
            remedy="Give a file that write_report wrote, whole.",
        )
    try:
        data = json.loads(found[1])
        version = data["format_version"]
        if version > FORMAT_VERSION:
            raise ResultsError(
                f"The report has format version {version}; this release reads up to {FORMAT_VERSION}.",
                where=str(path),
                remedy="Upgrade trtbench-lab to read it.",
            )
        return StoredReport(
            title=str(data["title"]),
            created_at=str(data["created_at"]),
            version=str(data["version"]),
            results=[Result.from_dict(item) for item in data["results"]],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            f"The report's data is damaged: {error}.",
            where=str(path),
            remedy="Write the report again from the database.",
        ) from error


def _section_of(part: Section | Result) -> Section:
    if isinstance(part, Section):
        return part
    if isinstance(part, Result):
        return Section(title=part.title, items=[Untitled(part), *figures_for(part)])
    raise ResultsError(
        f"A {type(part).__name__} is no part of a report.", where="sections", remedy="Pass Section or Result objects."
    )


def _body(parts: Sequence[Section]) -> tuple[str, dict[str, Any]]:
    """Return the sections' HTML and the figures by element id."""
    figures: dict[str, Any] = {}
    blocks = []
    for number, part in enumerate(parts, start=1):
        items = []
        for item in part.items:
            figure_id = f"figure-{len(figures) + 1}"
            if is_figure(item):
                figures[figure_id] = figure_payload(item)
            items.append(item_html(item, figure_id))
        heading = f'<h2 class="title"><span class="n">{number}</span>{html.escape(part.title)}</h2>'
        blocks.append(f'<section id="{_anchor(number)}">{heading}{"".join(items)}</section>')
    return "".join(blocks), figures


def _scripts(figures: dict[str, Any], data: dict[str, Any]) -> str:
    """Return the page's data and code; without a figure neither plotly.js nor the drawing code is needed."""

    def block(identifier: str, payload: Any) -> str:
        return f'<script type="application/json" id="{identifier}">{script_json(payload)}</script>\n'

    blocks = [block(_DATA_ID, data)]
    if figures:
        blocks += [block(identifier, payload) for identifier, payload in figures.items()]
        blocks.append(block("trtbench-themes", {name: theme_payload(name) for name in ("light", "dark")}))
        blocks.append(block("trtbench-plot-config", CONFIG))
        blocks.append(f"<script>{plotly_script()}</script>\n<script>{_asset('report.js')}</script>")
    return "".join(blocks)


def _chips(results: Sequence[Result], created_at: str) -> str:
    backends = dict.fromkeys(result.backend for result in results)
    machines = dict.fromkeys(machine_of(result.environment) for result in results)
    chips = [f'<span class="chip backend">backend {html.escape(backend)}</span>' for backend in backends]
    chips += [f'<span class="chip">{html.escape(machine)}</span>' for machine in machines]
    chips.append(f'<span class="chip">{html.escape(created_at[:16].replace("T", " "))} UTC</span>')
    return f'<div class="chips">{"".join(chips)}</div>'


def _environment_tables(results: Sequence[Result]) -> list[Any]:
    """One table for each distinct environment, headed by the results that were made in it."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(json.dumps(result.to_dict()["environment"], sort_keys=True), []).append(result)
    tables: list[Any] = []
    for members in groups.values():
        environment = members[0].environment
        machine = environment.get("machine") or {}
        rows: list[tuple[str, Any]] = [
            ("machine", machine_of(environment)),
            ("memory (GiB)", machine["memory_bytes"] / 2**30 if machine.get("memory_bytes") else None),
            ("GPU", ", ".join(_gpu(gpu) for gpu in machine.get("gpus") or ()) or "none"),
            ("platform", environment.get("platform")),
            ("Python", environment.get("python")),
            *sorted((environment.get("packages") or {}).items()),
            *sorted((environment.get("threads") or {}).items()),
        ]
        made = ", ".join(f"{result.kind} {result.id} [{result.backend}]" for result in members)
        shown = [(name, value if not isinstance(value, float) else f"{value:.1f}") for name, value in rows]
        tables.append(Table(("what", "value"), shown, note=f"Results made here: {made}."))
    return tables


def _gpu(gpu: dict[str, Any]) -> str:
    details = [f"driver {gpu['driver']}" if gpu.get("driver") else "", f"sm {gpu.get('compute_capability', '?')}"]
    return f"{gpu.get('name', 'GPU')} ({', '.join(detail for detail in details if detail)})"


def _distinct(results: Iterable[Result]) -> list[Result]:
    return list({result.id: result for result in results}.values())


def _anchor(number: int) -> str:
    return f"section-{number}"


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<div class="shell">
<header class="top"><h1>{title}</h1>{subtitle}{chips}<button class="switch" type="button" hidden>Dark</button></header>
<nav class="toc" aria-label="Contents"><div><h2>Contents</h2><ol>{toc}</ol></div></nav>
<main>{highlights}{body}</main>
<footer>Written by trtbench-lab {version} at {created}. Self-contained: nothing is loaded from a network. The results,
raw samples included, are in this file as data: <code>trtbench_lab.reports.read_report(path)</code>.</footer>
</div>
{scripts}
</body>
</html>
"""

__all__ = ["Highlight", "Section", "StoredReport", "read_report", "table_html", "write_report"]
