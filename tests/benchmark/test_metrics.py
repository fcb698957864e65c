"""Each metric on synthetic timestamps, against answers computed by hand."""

from __future__ import annotations

import pytest

from trtbench_lab.benchmark import metrics
from trtbench_lab.results.catalogue import METRICS
from trtbench_lab.runtime.timing import GenerationTiming

MS = 1_000_000


def run(*token_ms: float, t0_ms: float = 100.0, rows: int = 1) -> GenerationTiming:
    """Timestamps of one run: tokens at t0 + token_ms."""
    stamps = tuple(round((t0_ms + at_ms) * MS) for at_ms in token_ms)
    return GenerationTiming(round(t0_ms * MS), stamps, (len(stamps),) * rows)


# Tokens 10, 12, 15 and 19 ms after the call; and 20, 21 ms after it.
LONG, SHORT = run(10, 12, 15, 19), run(20, 21, t0_ms=7.0)


def test_latency_is_call_to_last_token():
    assert metrics.latency_ms([LONG, SHORT]) == [19.0, 21.0]


def test_ttft_is_call_to_first_token():
    assert metrics.ttft_ms([LONG, SHORT]) == [10.0, 20.0]


def test_itl_pools_every_gap():
    assert metrics.itl_ms([LONG, SHORT]) == [2.0, 3.0, 4.0, 1.0]


def test_tpot_is_one_value_a_run():
    # (19 − 10) / 3 and (21 − 20) / 1
    assert metrics.tpot_ms([LONG, SHORT]) == [3.0, 1.0]


def test_generation_time_is_first_to_last_token():
    assert metrics.generation_time_ms([LONG, SHORT]) == [9.0, 1.0]


def test_tokens_per_sec_is_batch_times_output_over_mean_latency():
    # mean latency (19 + 21) / 2 = 20 ms; 3 rows · 4 tokens / 0.020 s
    assert metrics.tokens_per_sec([LONG, SHORT], batch_size=3, output_length=4) == pytest.approx(600.0)


def test_generation_tokens_leave_out_the_first():
    # mean generation time (9 + 1) / 2 = 5 ms; 3 · (4 − 1) / 0.005 s
    assert metrics.generation_tokens_per_second([LONG, SHORT], batch_size=3, output_length=4) == pytest.approx(1800.0)


def test_share_of_read_bandwidth():
    # 500 MB in 25 ms are 20 GB/s, of 25 GB/s 80 %.
    share = metrics.share_of_read_bandwidth(25.0, read_bytes=500_000_000, bandwidth_bytes_per_s=25e9)
    assert share == pytest.approx(80.0)
    assert metrics.share_of_read_bandwidth(None, read_bytes=1, bandwidth_bytes_per_s=1.0) is None
    assert metrics.share_of_read_bandwidth(1.0, read_bytes=None, bandwidth_bytes_per_s=1.0) is None
    assert metrics.share_of_read_bandwidth(1.0, read_bytes=1, bandwidth_bytes_per_s=None) is None
    assert metrics.share_of_read_bandwidth(1.0, read_bytes=0, bandwidth_bytes_per_s=1.0) == 0.0


def test_one_token_has_latency_and_no_decode():
    one = [run(5)]
    assert metrics.latency_ms(one) == metrics.ttft_ms(one) == [5.0]
    assert metrics.itl_ms(one) == metrics.tpot_ms(one) == metrics.generation_time_ms(one) == []
    assert metrics.tokens_per_sec(one, batch_size=2, output_length=1) == pytest.approx(400.0)
    assert metrics.generation_tokens_per_second(one, batch_size=2, output_length=1) is None


@pytest.mark.parametrize("runs", [[], [run()]], ids=["no run", "a run without tokens"])
def test_no_token_has_no_number(runs):
    assert all(item.values(runs) == [] for item in metrics.SERIES)
    assert metrics.tokens_per_sec(runs, batch_size=1, output_length=0) is None
    assert metrics.generation_tokens_per_second(runs, batch_size=1, output_length=0) is None


def test_true_zeros_are_kept():
    instant = [run(0, 0, 0)]
    assert metrics.ttft_ms(instant) == [0.0]
    assert metrics.itl_ms(instant) == [0.0, 0.0]
    assert metrics.tpot_ms(instant) == metrics.generation_time_ms(instant) == [0.0]
    assert metrics.tokens_per_sec(instant, batch_size=1, output_length=3) is None  # no rate out of no time


def test_every_series_is_defined():
    for item in metrics.SERIES:
        assert item.metric is METRICS[item.tag]
        assert item.metric.unit == "ms"
