"""The embedded database of runs: one SQLite file that several notebooks write at once and nothing is lost from."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ResultsError
from ..storage import home_dir
from .base import Result
from .comparison import Comparison, compare_results
from .history import HistoryRow, HistoryView
from .sqlite_file import SqliteFile

if TYPE_CHECKING:
    import pandas

COLUMNS = "id, kind, created_at, backend, model, name"


class ResultsDatabase:
    """All runs of a person on a machine.

    Each call opens the file, does one transaction and closes it, so an instance may be shared between threads, kept
    across a fork and used from several processes at once (write-ahead log; writers queue for up to 30 s).

    Parameters
    ----------
    path
        The SQLite file; ``results.sqlite`` in `storage.home_dir` by default. Made on the first write.

    Raises
    ------
    ResultsError
        From any method, when the file is damaged, locked, of a newer version or not a database of results. The file
        is left as it is in each of these cases.
    """

    def __init__(self, path: Path | str | None = None):
        self.path = Path(path).expanduser() if path is not None else home_dir() / "results.sqlite"
        self._file = SqliteFile(self.path)

    # ---- write ------------------------------------------------------------------------------------------------

    def add(self, result: Result) -> str:
        """Store a result and return its id; storing the same result again replaces it."""
        payload = json.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        row = (
            result.id,
            result.kind,
            result.schema_version,
            result.created_at,
            result.backend,
            result.model,
            result.name,
        )
        numbers = [(result.id, i, name, value) for i, (name, value) in enumerate(result.metrics.items())]
        with self._file.transaction(write=True) as connection:
            tags = _tags(connection, result.id)
            connection.execute("DELETE FROM results WHERE id = ?", (result.id,))
            connection.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, payload))
            connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?)", numbers)
            connection.executemany("INSERT INTO tags VALUES (?, ?)", [(result.id, tag) for tag in tags])
        return result.id

    def delete(self, ids: str | Iterable[str]) -> int:
        """Delete runs by id and return how many were there."""
        with self._file.transaction(write=True) as connection:
            return sum(connection.execute("DELETE FROM results WHERE id = ?", (key,)).rowcount for key in _listed(ids))

    def tag(self, ids: str | Iterable[str], *tags: str) -> None:
        """Put words of a person's own on runs, by which they find them again; a tag that is there already stays.

        Raises
        ------
        ResultsError
            For an empty tag, one with a comma or a line break, or a run that is not stored.
        """
        words = [_checked_tag(tag) for tag in tags]
        with self._file.transaction(write=True) as connection:
            for key in _listed(ids):
                if connection.execute("SELECT 1 FROM results WHERE id = ?", (key,)).fetchone() is None:
                    raise self._unknown(key)
                connection.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(key, word) for word in words])

    def untag(self, ids: str | Iterable[str], *tags: str) -> None:
        """Take tags off runs; one that is not there is passed over."""
        with self._file.transaction(write=True) as connection:
            pairs = [(key, tag) for key in _listed(ids) for tag in tags]
            connection.executemany("DELETE FROM tags WHERE result_id = ? AND tag = ?", pairs)

    # ---- read -------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Result:
        """Return a stored result; the first digits of its id are enough when no other run begins with them."""
        with self._file.transaction() as connection:
            found = connection.execute(
                "SELECT id, payload FROM results WHERE substr(id, 1, ?) = ? ORDER BY id LIMIT 3", (len(id), id)
            ).fetchall()
        exact = [row for row in found if row["id"] == id]
        if not found or not id:
            raise self._unknown(id)
        if len(found) > 1 and not exact:
            several = ", ".join(row["id"] for row in found)
            raise ResultsError(f"{id!r} begins several ids: {several}.", remedy="Give more digits.")
        row = (exact or found)[0]
        try:
            payload = json.loads(row["payload"])
        except json.JSONDecodeError as error:
            raise self._file.damaged(error) from error
        return Result.from_dict(payload)

    def query(
        self,
        *,
        kind: str | None = None,
        backend: str | None = None,
        model: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        since: str | datetime | timedelta | None = None,
        limit: int | None = 50,
    ) -> HistoryView:
        """List runs, newest first.

        Parameters
        ----------
        kind, backend, model, name
            Exact values, or patterns with ``*`` and ``?``.
        tag
            Only runs that carry this tag.
        since
            An ISO date or time (``"2026-03-01"``), a datetime, or how long back: a timedelta, ``"90m"``, ``"36h"``,
            ``"7d"``, ``"2w"``.
        limit
            At most so many; None for all.
        """
        clauses, values = [], []
        for column, wanted in (("kind", kind), ("backend", backend), ("model", model), ("name", name)):
            if wanted is not None:
                clauses.append(f"{column} GLOB ?" if set("*?") & set(wanted) else f"{column} = ?")
                # A square bracket is a set of characters to GLOB; here it is itself.
                values.append(wanted.replace("[", "[[]") if set("*?") & set(wanted) else wanted)
        if tag is not None:
            clauses.append("id IN (SELECT result_id FROM tags WHERE tag = ?)")
            values.append(tag)
        if since is not None:
            clauses.append("created_at >= ?")
            values.append(_moment(since))
        if limit is not None and limit < 0:
            raise ResultsError(f"limit is {limit}.", where="limit", remedy="Give 0 or more, or None for all.")
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        # Column names are the literals above and every value is bound, so no text of a person becomes SQL.
        statement = f"SELECT {COLUMNS} FROM results {where} ORDER BY created_at DESC, id LIMIT ?"  # noqa: S608
        with self._file.transaction() as connection:
            total = connection.execute("SELECT count(*) FROM results").fetchone()[0]
            found = connection.execute(statement, (*values, -1 if limit is None else limit)).fetchall()
            rows = [
                HistoryRow(**dict(row), metrics=_metrics(connection, row["id"]), tags=_tags(connection, row["id"]))
                for row in found
            ]
        return HistoryView(rows, self, total)

    def compare(self, ids: Sequence[str], metrics: Iterable[str] | None = None) -> Comparison:
        """Set stored runs side by side; ratios are against the first."""
        if isinstance(ids, str):
            raise ResultsError("One id cannot be compared.", where="ids", remedy="Pass a list of two ids or more.")
        return compare_results([self.get(key) for key in ids], metrics)

    # ---- export -----------------------------------------------------------------------------------------------

    def to_pandas(self, **filters: Any) -> pandas.DataFrame:
        """Return one row a run and one column a metric, newest first; `filters` are those of `query`, without limit."""
        from .export import dataframe

        return dataframe(self._exported(filters))

    def to_csv(self, path: Path | str, **filters: Any) -> Path:
        """Write the same table as CSV, as a whole or not at all."""
        from .export import write_csv

        return write_csv(self._exported(filters), Path(path))

    def to_parquet(self, path: Path | str, **filters: Any) -> Path:
        """Write the same table as Parquet, as a whole or not at all."""
        from .export import write_parquet

        return write_parquet(self._exported(filters), Path(path))

    def _unknown(self, id: str) -> ResultsError:
        return ResultsError(
            f"There is no run {id!r}.", where=str(self.path), remedy="List the runs with %trt_history or query()."
        )

    def _exported(self, filters: dict[str, Any]) -> HistoryView:
        return self.query(**{"limit": None, **filters})


def _metrics(connection: sqlite3.Connection, id: str) -> dict[str, float | None]:
    rows = connection.execute("SELECT name, value FROM metrics WHERE result_id = ? ORDER BY position", (id,))
    return {row["name"]: row["value"] for row in rows}


def _tags(connection: sqlite3.Connection, id: str) -> tuple[str, ...]:
    rows = connection.execute("SELECT tag FROM tags WHERE result_id = ? ORDER BY tag", (id,))
    return tuple(row["tag"] for row in rows)


def _listed(ids: str | Iterable[str]) -> list[str]:
    return [ids] if isinstance(ids, str) else list(ids)


def _checked_tag(tag: str) -> str:
    word = tag.strip()
    if not word or "," in word or "\n" in word:
        raise ResultsError(
            f"{tag!r} is no tag.", where="tag", remedy="Use a word or a few, without commas and line breaks."
        )
    return word


def _moment(since: str | datetime | timedelta) -> str:
    """Return the ISO text in UTC that `since` means."""
    units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    if isinstance(since, str):
        span = re.fullmatch(r"(\d+)\s*([mhdw])", since.strip())
        if span:
            since = timedelta(**{units[span[2]]: int(span[1])})
        else:
            try:
                since = datetime.fromisoformat(since.strip())
            except ValueError:
                raise ResultsError(
                    f"{since!r} is neither a date nor a span of time.",
                    where="since",
                    remedy="Give a date such as 2026-03-01, or a span such as 90m, 36h, 7d or 2w.",
                ) from None
    if isinstance(since, timedelta):
        since = datetime.now(UTC) - since
    return since.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
