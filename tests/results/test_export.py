"""Exports hold the same table whichever way they leave."""

from __future__ import annotations

import csv
import subprocess
import sys

import pandas
import pytest
from tests.results.samples import school

from trtbench_lab.results import ResultsDatabase


@pytest.fixture
def database(tmp_path):
    database = ResultsDatabase(tmp_path / "results.sqlite")
    database.add(
        school(created_at="2026-01-01T00:00:00.000Z", latency_ms=None, name='with "quotes", commas\nand lines')
    )
    database.add(school(created_at="2026-01-02T00:00:00.000Z", latency_ms=0.1 + 0.2, backend="torch"))
    return database


def test_pandas_has_one_row_a_run_and_typed_columns(database):
    frame = database.to_pandas()
    assert list(frame["backend"]) == ["torch", "onnxruntime"]
    assert frame["latency_ms_mean"].dtype == "float64"
    assert frame["latency_ms_mean"][0] == 0.1 + 0.2
    assert frame["latency_ms_mean"].isna().tolist() == [False, True]
    assert frame["created_at"][0] == pandas.Timestamp("2026-01-02", tz="UTC")


def test_csv_reads_back_exactly(database, tmp_path):
    path = database.to_csv(tmp_path / "runs.csv")
    with open(path, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert float(rows[0]["latency_ms_mean"]) == 0.1 + 0.2
    assert rows[1]["latency_ms_mean"] == ""
    assert rows[1]["name"] == 'with "quotes", commas\nand lines'


def test_parquet_reads_back_exactly(database, tmp_path):
    frame = pandas.read_parquet(database.to_parquet(tmp_path / "runs.parquet"))
    expected = database.to_pandas()
    assert list(frame.columns) == list(expected.columns)
    assert frame["latency_ms_mean"][0] == 0.1 + 0.2
    assert frame["latency_ms_mean"].isna().tolist() == [False, True]
    assert list(frame["id"]) == list(expected["id"])
    assert frame["created_at"][1] == pandas.Timestamp("2026-01-01", tz="UTC")


def test_filters_narrow_an_export(database, tmp_path):
    assert list(database.to_pandas(backend="torch")["backend"]) == ["torch"]
    lines = database.to_csv(tmp_path / "one.csv", backend="torch").read_text().splitlines()
    assert len(lines) == 2


def test_empty_databases_export_their_columns(tmp_path):
    database = ResultsDatabase(tmp_path / "empty.sqlite")
    assert list(database.to_pandas().columns) == ["id", "kind", "created_at", "backend", "model", "name", "tags"]
    assert database.to_csv(tmp_path / "a.csv").read_text().strip() == "id,kind,created_at,backend,model,name,tags"
    assert len(pandas.read_parquet(database.to_parquet(tmp_path / "a.parquet"))) == 0


def test_without_pandas_csv_works_and_the_others_name_the_extra(database, tmp_path):
    code = f"""
import sys
sys.modules["pandas"] = sys.modules["pyarrow"] = None
from trtbench_lab.results import ResultsDatabase
from trtbench_lab.errors import MissingPackageError
database = ResultsDatabase({str(database.path)!r})
print(database.to_csv({str(tmp_path / "b.csv")!r}).exists())
for export in (database.to_pandas, lambda: database.to_parquet({str(tmp_path / "b.parquet")!r})):
    try:
        export()
    except MissingPackageError as error:
        print(error.remedy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True", *["Install it with: pip install 'trtbench-lab[lab]'"] * 2]
