"""The same sections as Markdown: tables and captions, for a repository or a chat; figures stand as their numbers."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import ResultsError
from ..results import Result, Table
from ..results.base import utc_now
from ..results.environment import machine_of
from ..results.render import format_value, is_numeric_column
from ..storage import staged_file
from .figure import caption_of, numbers_of
from .sections import Code, Folded, Highlight, Section, Untitled, is_figure

_MOST_ROWS = 40  # of a figure's numbers or a folded table; the HTML report has them all


def write_markdown(
    path: Path | str,
    title: str,
    sections: Iterable[Section],
    *,
    subtitle: str | None = None,
    highlights: Sequence[Highlight] = (),
) -> Path:
    """Write a report as one Markdown file, as a whole or not at all; parameters as for `write_report`."""
    path = Path(path).expanduser()
    parts = list(sections)
    results = [result for part in parts for result in part.results]
    lines = [f"# {_text(title)}", "", *([_text(subtitle), ""] if subtitle else [])]
    if highlights:
        lines += [_table(_highlights(highlights)), ""]
    for part in parts:
        lines += [f"## {_text(part.title)}", ""]
        for item in part.items:
            lines += [_item(item), ""]
    machines = dict.fromkeys(machine_of(result.environment) for result in results)
    if machines:
        lines += ["## Environment", "", *(f"- {_text(machine)}" for machine in machines), "", _versions(results), ""]
    lines.append(f"Written by trtbench-lab {__version__} at {utc_now()}.")
    with staged_file(path) as staging:
        staging.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _highlights(highlights: Sequence[Highlight]) -> Table:
    rows = [
        (
            item.label,
            f"{item.value if isinstance(item.value, str) else format_value(item.value)} {item.unit}",
            item.note,
        )
        for item in highlights
    ]
    return Table(("what", "value", "note"), rows)


def _item(item: Any) -> str:
    if isinstance(item, str):
        return _text(item)
    if isinstance(item, Code):
        return f"```\n{item.text}\n```"
    if isinstance(item, Folded):
        return _table(item.table, most=_MOST_ROWS)
    if isinstance(item, Table):
        return _table(item)
    if isinstance(item, Untitled):
        return _result(item.result)
    if isinstance(item, Result):
        return f"### {_text(item.title)}\n\n{_result(item)}"
    if is_figure(item):
        numbers = numbers_of(item)
        caption = f"*Figure: {_text(_without_tags(item.layout.title.text))}.* {_text(caption_of(item))}"
        return caption if numbers is None or not numbers.rows else f"{caption}\n\n{_table(numbers, most=_MOST_ROWS)}"
    raise ResultsError(
        f"A {type(item).__name__} cannot stand in a Markdown report.",
        where="Section.items",
        remedy="Pass text, Code, Table, a result or a figure.",
    )


def _result(result: Result) -> str:
    tables = [_table(table, most=_MOST_ROWS) for table in result.tables() if table.rows]
    return "\n\n".join([f"`{result.id}` · {result.created_at} · backend {result.backend}", *tables])


def _table(table: Table, *, most: int | None = None) -> str:
    rows = list(table.rows)[:most]
    lines = [f"**{_text(table.title)}**", ""] if table.title else []
    lines.append("| " + " | ".join(_cell(name) or " " for name in table.columns) + " |")
    numeric = [is_numeric_column(table, column) for column in range(len(table.columns))]
    lines.append("|" + "|".join("---:" if right else "---" for right in numeric) + "|")
    lines += ["| " + " | ".join(_cell(format_value(cell)) for cell in row) + " |" for row in rows]
    left = len(table.rows) - len(rows)
    notes = [note for note in (table.note, f"{left} more rows are left out here." if left else None) if note]
    return "\n".join([*lines, *(["", _text(" ".join(notes))] if notes else [])])


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|").replace("\n", "<br>")


def _text(text: str) -> str:
    """Return text that Markdown shows as it is: no tags, no emphasis by chance."""
    return re.sub(r"([\\`*_\[\]#<>])", r"\\\1", text) if re.search(r"[\\`*_\[\]#<>]", text) else text


def _without_tags(text: Any) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", str(text or "Figure"))).strip()


def _versions(results: Sequence[Result]) -> str:
    found: dict[str, str] = {}
    for result in results:
        found.update(result.environment.get("packages") or {})
    return "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(found.items())) + "."
