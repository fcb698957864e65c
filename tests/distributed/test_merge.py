"""One number from each rank's, by hand."""

from __future__ import annotations

import pytest

from trtbench_lab.distributed.merge import merge_metrics, rule_of
from trtbench_lab.distributed.rank import Failure, Outcome
from trtbench_lab.distributed.results import RankResults
from trtbench_lab.errors import SpecError


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("latency_ms", "max"),
        ("ttft_ms", "max"),
        ("itl_ms_p99", "max"),
        ("seconds", "max"),
        ("build_s", "max"),
        ("mean_latency", "max"),
        ("peak_bytes", "sum"),
        ("gpu_peak_mem_gb", "sum"),
        ("kv_cache_bytes", "sum"),
        ("tokens_per_sec", "rank 0"),
        ("tokens_per_s", "rank 0"),
        ("output_tokens", "rank 0"),
        ("perplexity", "rank 0"),
        ("rouge1", "rank 0"),
    ],
)
def test_rules_follow_from_names(name: str, rule: str) -> None:
    assert rule_of(name) == rule


def test_merged_numbers() -> None:
    merged = merge_metrics(
        [
            {"latency_ms": 3.0, "peak_bytes": 10, "tokens_per_s": 8.0, "ttft_ms": None},
            {"latency_ms": 5.0, "peak_bytes": 12, "tokens_per_s": 7.0, "ttft_ms": 0.0},
            {"latency_ms": 4.0, "peak_bytes": 11, "ttft_ms": None},
        ]
    )
    assert {name: metric.value for name, metric in merged.items()} == {
        "latency_ms": 5.0,
        "peak_bytes": 33,
        "tokens_per_s": 8.0,
        "ttft_ms": 0.0,  # a true zero is a number
    }
    assert merged["peak_bytes"].by_rank == (10, 12, 11)
    assert merged["tokens_per_s"].by_rank == (8.0, 7.0, None)
    assert merge_metrics([]) == {}


def test_results_by_rank() -> None:
    failure = Failure("ValueError", "no", ())
    results = RankResults(
        (Outcome(0, 1.0, {"latency_ms": 1.5}), Outcome(2, 2.5, {"latency_ms": 2.5}), Outcome(3, 0.1, failure=failure)),
        {0: "hello\n"},
    )
    assert results.ranks == (0, 2, 3)
    assert results[2] == {"latency_ms": 2.5}
    assert list(results) == results.values
    assert len(results) == 3
    assert results.seconds == 2.5
    assert results.merged["latency_ms"].value == 2.5
    assert "rank 3: ValueError: no" in repr(results)
    assert "<td>2.5</td><td>max</td>" in results._repr_html_()
    with pytest.raises(SpecError, match="no result of rank 1"):
        results[1]


def test_a_result_that_the_ranks_share_is_counted_once() -> None:
    class Result:
        id = "a1"
        metrics = {"written_bytes": 7, "latency_ms": 2.0}  # noqa: RUF012

    results = RankResults((Outcome(0, 0.0, Result()), Outcome(1, 0.0, Result())))
    assert results.merged["written_bytes"].value == 7
    assert results.merged["written_bytes"].by_rank == (7, 7)


def test_values_are_escaped() -> None:
    assert "<script>" not in RankResults((Outcome(0, 0.0, "<script>"),))._repr_html_()
