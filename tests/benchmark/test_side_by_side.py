"""Two benchmarks together, with numbers worked out by hand."""

from __future__ import annotations

import csv
import io

import pytest

from trtbench_lab.benchmark import BenchPoint, BenchResult
from trtbench_lab.benchmark.side_by_side import BenchCsv, BenchPair

MS = 1_000_000


def result(backend: str, *runs: list[int]) -> BenchResult:
    """One configuration: batch 2, 4 in, 2 out; each run gives milliseconds from t0 to its two tokens."""
    token_ns = [[moment * MS for moment in run] for run in runs]
    point = BenchPoint(batch_size=2, input_length=4, output_length=2, token_ns=token_ns)
    return BenchResult(backend=backend, points=[point])


@pytest.fixture
def pair() -> BenchPair:
    return BenchPair(
        engine=result("onnxruntime", [10, 30], [10, 50], [20, 40]),
        huggingface=result("huggingface", [40, 120], [50, 120], [60, 120]),
    )


def test_ratios_are_of_medians(pair: BenchPair):
    (row,) = pair.tables()[0].rows
    # Medians: latency 40 and 120 ms, time to first token 10 and 50 ms.
    assert row == (2, 4, 2, pytest.approx(40), pytest.approx(120), pytest.approx(3), pytest.approx(10),
                   pytest.approx(50), pytest.approx(5))  # fmt: skip


def test_both_views_name_both_backends(pair: BenchPair):
    for text in (repr(pair), pair._repr_html_()):
        assert "onnxruntime" in text
        assert "huggingface" in text


def test_csv_has_a_line_a_side(pair: BenchPair):
    rows = list(csv.DictReader(io.StringIO(repr(BenchCsv(result=pair)))))
    assert [row["backend"] for row in rows] == ["onnxruntime", "huggingface"]
    # Mean latency of the engine: (30 + 50 + 40) / 3 = 40 ms, so 2 · 2 tokens / 0.04 s = 100 tokens/s.
    assert float(rows[0]["latency mean (ms)"]) == pytest.approx(40)
    assert float(rows[0]["tokens/s"]) == pytest.approx(100)


def test_dictionary_holds_both_results(pair: BenchPair):
    payload = BenchCsv(result=pair).to_dict()
    assert BenchResult.from_dict(payload["engine"]) == pair.engine
    assert BenchResult.from_dict(payload["huggingface"]) == pair.huggingface
