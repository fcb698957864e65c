"""Throughput against latency, and the share of the machine's limit, are the results' own numbers."""

from __future__ import annotations

import pytest
from tests.reports.samples import bench, serving

from trtbench_lab.errors import SpecError
from trtbench_lab.reports.figure import caption_of, numbers_of
from trtbench_lab.reports.figures import serving_throughput_latency, share_of_limit, throughput_latency
from trtbench_lab.reports.throughput_latency import pareto_front


def test_each_dot_is_a_batch_size_with_its_own_numbers():
    result = bench(batch_size="1;2;4")
    (trace,) = throughput_latency(result, metric="latency_ms").data
    assert list(trace.text) == ["1", "2", "4"]
    assert list(trace.x) == [point.distributions["latency_ms"].mean for point in result.points]
    assert list(trace.y) == [point.tokens_per_sec for point in result.points]
    assert trace.meta == {"run": result.id}


def test_the_front_is_what_no_other_beats_in_both():
    assert pareto_front([(1, 10), (2, 30), (3, 20), (3, 40)]) == {(1, 10), (2, 30), (3, 40)}
    assert pareto_front([(1, 10), (1, 10)]) == {(1, 10)}  # equals do not beat each other
    assert pareto_front([]) == set()


def test_a_runner_that_is_slower_everywhere_is_off_the_front():
    slow, fast = bench("huggingface", itl_ms=4.0), bench(itl_ms=2.0)
    rows = numbers_of(throughput_latency([slow, fast])).rows
    assert {row[-1] for row in rows if "huggingface" in row[0]} == {"no"}
    assert any(row[-1] == "yes" for row in rows if "onnxruntime" in row[0])


def test_engine_only_and_serving_figures_say_which_they_are():
    assert "engine-only" in throughput_latency(bench()).layout.title.subtitle.text
    assert "serving" in serving_throughput_latency(serving()).layout.title.subtitle.text


def test_serving_dots_are_median_and_p99_at_the_throughput():
    result = serving(requests=9)
    (trace,) = serving_throughput_latency(result).data
    summary = result.distributions["request_ttft_ms"]
    assert list(trace.x) == [summary.p50, summary.p99]
    assert set(trace.y) == {result.output_tokens_per_second}


def test_unknown_metrics_are_plain_errors():
    with pytest.raises(SpecError, match="itl_ms"):
        throughput_latency(bench(), metric="itl")
    with pytest.raises(SpecError, match="request_ttft_ms"):
        serving_throughput_latency(serving(), metric="ttft_ms")


def test_the_share_is_the_benchmarks_own_and_the_line_is_the_limit():
    result = bench(decode_read_bytes=10_000_000, read_bandwidth_bytes_per_s=1e10)
    figure = share_of_limit(result)
    assert list(figure.data[0].x) == [result.share_of_read_bandwidth(point) for point in result.points]
    assert figure.layout.shapes[0].x0 == 100


def test_what_is_not_known_is_said():
    assert "not recorded" in caption_of(share_of_limit(bench()))
    assert "No run" in caption_of(throughput_latency([]))
    assert "No request" in caption_of(serving_throughput_latency([]))
