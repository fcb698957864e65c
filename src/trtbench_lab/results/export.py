"""Stored runs as one flat table: pandas, CSV, Parquet."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import require
from ..storage import staged_file
from .history import HistoryRow

if TYPE_CHECKING:
    import pandas

_FIELDS = ("id", "kind", "created_at", "backend", "model", "name")
LABELS = (*_FIELDS, "tags")


def columns_of(rows: Sequence[HistoryRow]) -> dict[str, list[Any]]:
    """Return the table by columns: the labels, then every metric that any run has (None where a run has it not)."""
    table: dict[str, list[Any]] = {label: [getattr(row, label) for row in rows] for label in _FIELDS}
    table["tags"] = [", ".join(row.tags) for row in rows]
    for name in dict.fromkeys(name for row in rows for name in row.metrics):
        table[name] = [row.metrics.get(name) for row in rows]
    return table


def dataframe(rows: Sequence[HistoryRow]) -> pandas.DataFrame:
    """Return a DataFrame: `created_at` as time in UTC, metrics as float64 with NaN for a missing number."""
    pd = require("pandas", extra="lab", purpose="export results as a DataFrame")
    table = columns_of(rows)
    series = {name: table[name] for name in LABELS}
    series.update({name: pd.array(table[name], dtype="float64") for name in table if name not in LABELS})
    frame = pd.DataFrame(series)
    frame["created_at"] = pd.to_datetime(frame["created_at"], utc=True, format="ISO8601")
    return frame


def write_csv(rows: Sequence[HistoryRow], path: Path) -> Path:
    """Write CSV in UTF-8; a missing number is an empty cell. Needs nothing but the standard library."""
    table = columns_of(rows)
    with staged_file(path) as staging, open(staging, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path


def write_parquet(rows: Sequence[HistoryRow], path: Path) -> Path:
    """Write Parquet: text columns, `created_at` as timestamp in UTC, metrics as float64 with nulls."""
    pa = require("pyarrow", extra="lab", purpose="export results as Parquet")
    parquet = require("pyarrow.parquet", extra="lab", purpose="export results as Parquet")
    from datetime import datetime

    arrays = {}
    for name, values in columns_of(rows).items():
        if name == "created_at":
            moments = [datetime.fromisoformat(value) for value in values]
            arrays[name] = pa.array(moments, type=pa.timestamp("ms", tz="UTC"))
        else:
            arrays[name] = pa.array(values, type=pa.string() if name in LABELS else pa.float64())
    with staged_file(path) as staging:
        parquet.write_table(pa.table(arrays), staging)
    return path
