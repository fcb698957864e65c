"""Metrics are found by the flat names of results."""

from __future__ import annotations

import pytest

from trtbench_lab.results import direction_of, metric_of


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("latency_ms", "latency_ms"),
        ("latency_ms_mean", "latency_ms"),
        ("b1_i60_o20.ttft_ms_p50", "ttft_ms"),
        ("b1_i60_o20.generation_tokens_per_second", "generation_tokens_per_second"),
        ("engine_latency_ms_p99", "latency_ms"),
        ("hf.tokens_per_sec", "tokens_per_sec"),
        ("rougeLsum", "rougeLsum"),
        ("engine_rouge1_low", "rouge1"),
        ("b8_i1_o1.process_gpu_peak_bytes", "process_gpu_peak_bytes"),
        ("nothing_of_the_kind", None),
        ("", None),
    ],
)
def test_flat_names_find_their_metric(name: str, tag: str | None):
    metric = metric_of(name)
    assert (metric.tag if metric else None) == tag


def test_directions():
    assert direction_of("b1_i60_o20.latency_ms_p99") == "lower"
    assert direction_of("tokens_per_sec") == "higher"
    assert direction_of("latency_ms_n") == "neither"
    assert direction_of("made_up") == "neither"
