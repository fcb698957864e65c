"""What an examination found, as plain data that prints and draws itself."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..results.fitted import fitted_columns
from ..results.render import Table, html_document, plain_document

STATUSES = ("ok", "warning", "missing", "error")
_MARKS = {"ok": "✓ ok", "warning": "! warning", "missing": "– missing", "error": "✗ error"}


@dataclass(frozen=True)
class DoctorRow:
    """One finding.

    Attributes
    ----------
    component
        What was looked at, for example ``"torch"``.
    found
        What was found: a version, a path, a number with its unit; ``"none"`` where there is nothing.
    status
        ``"ok"``; ``"warning"``: works, with a drawback; ``"missing"``: not there, and only what `meaning` names needs
        it; ``"error"``: something that everything needs is broken or absent.
    meaning
        What follows from it, as a sentence.
    remedy
        What to do, as a sentence with the command; None where nothing needs doing.
    needed_for
        The features that need it.
    """

    component: str
    found: str
    status: str
    meaning: str
    remedy: str | None = None
    needed_for: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status is {self.status!r}, not one of {', '.join(STATUSES)}")


# A check looks at one thing and yields its rows; it may raise, and the examination then says that it could not look.
Check = Callable[[], Iterable[DoctorRow]]


def ok(component: str, found: str, meaning: str) -> DoctorRow:
    """Return a row of something that is as it should be."""
    return DoctorRow(component, found, "ok", meaning)


def warning(component: str, found: str, meaning: str, remedy: str | None = None) -> DoctorRow:
    """Return a row of something that works with a drawback."""
    return DoctorRow(component, found, "warning", meaning, remedy)


def missing(component: str, meaning: str, remedy: str | None = None, *, found: str = "none") -> DoctorRow:
    """Return a row of something that is not there and that not everybody needs."""
    return DoctorRow(component, found, "missing", meaning, remedy)


def error(component: str, found: str, meaning: str, remedy: str | None = None) -> DoctorRow:
    """Return a row of something that must be mended first."""
    return DoctorRow(component, found, "error", meaning, remedy)


_WIDTHS = (20, 40, 10, 24, 62)  # characters of the columns in plain text, so that a line fits a wide terminal


def _narrow(table: Table) -> Table:
    """Break long cells, so that the table can be read in a terminal."""
    rows = [
        tuple("\n".join(textwrap.wrap(cell, width)) for cell, width in zip(row, _WIDTHS, strict=True))
        for row in table.rows
    ]
    return Table(table.columns, rows)


@dataclass(frozen=True, repr=False)
class DoctorReport:
    """All findings of one examination.

    Attributes
    ----------
    rows
        The findings, in the order of their importance to a first run.
    usable_backends
        Names of the backends that build and run here, the one that ``auto`` takes first.
    """

    rows: tuple[DoctorRow, ...]
    usable_backends: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the whole path can be walked here: no error, and at least one usable backend."""
        return bool(self.usable_backends) and not any(row.status == "error" for row in self.rows)

    @property
    def exit_code(self) -> int:
        """What a shell is told: 0, or 1 where something must be mended first."""
        return 0 if self.ok else 1

    @property
    def problems(self) -> tuple[DoctorRow, ...]:
        """The warnings and errors, errors first; what is merely not installed is not among them."""
        return tuple(row for status in ("error", "warning") for row in self.rows if row.status == status)

    def row(self, component: str) -> DoctorRow:
        """Return the first row of `component`; raises `KeyError` when nobody looked at it."""
        for row in self.rows:
            if row.component == component:
                return row
        raise KeyError(component)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "ok": self.ok,
            "usable_backends": list(self.usable_backends),
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }

    def __repr__(self) -> str:
        return plain_document(self._title, "", [self._table() if fitted_columns() else _narrow(self._table())])

    def _repr_html_(self) -> str:
        return html_document(self._title, "", [self._table()])

    @property
    def _title(self) -> str:
        if not self.ok:
            count = sum(row.status == "error" for row in self.rows)
            return f"Something must be mended first: {count} error{'s' if count != 1 else ''}."
        warnings = sum(row.status == "warning" for row in self.rows)
        remark = f", {warnings} warning{'s' if warnings != 1 else ''}" if warnings else ""
        return f"Ready: {' and '.join(self.usable_backends)} can build and run here{remark}."

    def _table(self) -> Table:
        rows = [
            (
                row.component,
                row.found,
                _MARKS[row.status],
                row.needed_for,
                f"{row.meaning} → {row.remedy}" if row.remedy else row.meaning,
            )
            for row in self.rows
        ]
        return Table(columns=("component", "found", "status", "needed for", "what it means, and what to do"), rows=rows)
