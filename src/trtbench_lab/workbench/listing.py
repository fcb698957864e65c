"""List, show, compare and export the results kept so far."""

from __future__ import annotations

from pathlib import Path

from ..errors import ResultsError
from ..progress import ProgressSink
from ..results import Result
from ..results.comparison import Comparison
from ..results.database import ResultsDatabase
from ..results.history import HistoryView
from ..specs.requests import HistorySpec


def history(spec: HistorySpec, *, progress: ProgressSink | None = None) -> HistoryView | Comparison | Result:
    """Return a list of runs, one run, or several side by side; with `export`, also write the list to a file.

    Raises
    ------
    ResultsError
        For an unknown id, a comparison of fewer than two runs, a file that is neither .csv nor .parquet, or a database
        that cannot be read.
    """
    database = named_database(spec.database)
    filters = {"kind": spec.kind, "backend": spec.backend, "name": spec.result_name}
    if spec.export is not None:
        _export(database, Path(spec.export).expanduser(), filters)
    if not spec.ids:
        view = database.query(**filters, limit=spec.last)
        return view.compare() if spec.compare else view
    if len(spec.ids) == 1 and not spec.compare:
        return database.get(spec.ids[0])
    if len(spec.ids) < 2:
        raise ResultsError("One run cannot be compared.", where="history", remedy="Name two ids or more.")
    return database.compare(spec.ids)


def named_database(path: str | None) -> ResultsDatabase:
    """Return the database that is read; one that was named must be there, so that a slip of the pen makes no file."""
    database = ResultsDatabase(path)
    if path is not None and not database.path.is_file():
        raise ResultsError(
            "There is no such database file.",
            where=str(database.path),
            remedy="Check the path, or leave it out for the one in this project's cache.",
        )
    return database


def _export(database: ResultsDatabase, path: Path, filters: dict[str, str | None]) -> None:
    writers = {".csv": database.to_csv, ".parquet": database.to_parquet}
    if path.suffix not in writers:
        raise ResultsError(
            f"A history is exported to .csv or .parquet, not to {path.suffix or 'a name without an ending'!r}.",
            where=str(path),
            remedy=f"Write it to {str(path.with_suffix('.csv'))!r}.",
        )
    writers[path.suffix](path, **filters)
