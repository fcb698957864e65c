"""Percentiles against NumPy and against hand-computed answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbench_lab.results import distribution, percentile

samples = st.lists(st.floats(min_value=-1e9, max_value=1e9), min_size=1, max_size=60)


@given(samples, st.floats(min_value=0, max_value=100))
def test_percentile_is_numpys_default(values: list[float], q: float):
    # Both interpolate between the same two samples; they round the position differently, by a few ulp of the spread.
    spread = max(abs(value) for value in values)
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q)), rel=1e-9, abs=1e-12 * spread)


@given(samples)
def test_distribution_is_numpys(values: list[float]):
    summary = distribution(values)
    assert summary is not None
    spread = max(abs(value) for value in values)
    tolerance = {"rel": 1e-9, "abs": 1e-9 * spread}
    assert summary.n == len(values)
    assert summary.mean == pytest.approx(float(np.mean(values)), **tolerance)
    assert summary.std == pytest.approx(float(np.std(values)), **tolerance)
    assert [summary.min, summary.max] == [min(values), max(values)]
    expected = np.percentile(values, [50, 90, 95, 99])
    assert [summary.p50, summary.p90, summary.p95, summary.p99] == pytest.approx(list(expected), **tolerance)


def test_hand_computed():
    # n = 5: h = 4·0.9 = 3.6, so p90 = 40 + 0.6·(100 − 40) = 76; p99: h = 3.96, 40 + 0.96·60 = 97.6.
    summary = distribution([100, 10, 40, 30, 20])
    assert summary is not None
    assert (summary.p50, summary.p90) == (30, 76)
    assert summary.p99 == pytest.approx(97.6)
    assert summary.mean == 40
    assert summary.std == pytest.approx(1000**0.5)  # squares of −30 −20 −10 0 60 sum to 5000
    assert (summary.n, summary.method) == (5, "linear")


def test_no_samples_are_not_zero():
    assert distribution([]) is None
    assert percentile([], 50) is None


def test_a_true_zero_is_kept():
    summary = distribution([0.0])
    assert summary is not None
    assert (summary.n, summary.mean, summary.p99, summary.std) == (1, 0.0, 0.0, 0.0)


def test_one_sample_is_every_percentile():
    assert [percentile([7.5], q) for q in (0, 50, 99, 100)] == [7.5] * 4


def test_a_percentile_beyond_100_is_refused():
    with pytest.raises(ValueError, match="q is 101"):
        percentile([1.0], 101)


def test_metric_names_carry_tag_and_statistic():
    summary = distribution([1.0, 3.0])
    assert summary is not None
    flat = summary.as_metrics("ttft_ms")
    assert flat["ttft_ms_p50"] == 2.0
    assert flat["ttft_ms_n"] == 2
