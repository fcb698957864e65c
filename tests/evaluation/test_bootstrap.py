"""The bootstrap against rouge-score's own aggregator, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.scoring import BootstrapAggregator, Score

from trtbench_lab.errors import EvaluationError
from trtbench_lab.evaluation.bootstrap import bootstrap_interval

VALUES = [12.0, 30.5, 22.25, 41.0, 18.75, 27.5, 9.0]


@pytest.mark.parametrize("seed", [0, 1, 123])
@pytest.mark.parametrize("resamples", [10, 1000])
def test_resamples_are_those_of_the_aggregator(seed, resamples):
    aggregator = BootstrapAggregator(n_samples=resamples)
    for value in VALUES:
        aggregator.add_scores({"x": Score(0.0, 0.0, value)})
    np.random.seed(seed)  # noqa: NPY002 - the aggregator has no other seed
    theirs = aggregator.aggregate()["x"]
    ours = bootstrap_interval(VALUES, resamples=resamples, seed=seed)
    assert (ours.low, ours.median, ours.high) == pytest.approx(
        (theirs.low.fmeasure, theirs.mid.fmeasure, theirs.high.fmeasure), rel=1e-12
    )


def test_one_value_has_an_interval_of_no_width():
    interval = bootstrap_interval([7.0])
    assert (interval.low, interval.mean, interval.median, interval.high, interval.n) == (7.0, 7.0, 7.0, 7.0, 1)


def test_a_true_zero_is_kept():
    assert bootstrap_interval([0.0, 0.0]).score == 0.0


def test_without_resampling_there_is_the_mean_alone():
    interval = bootstrap_interval(VALUES, resamples=0)
    assert interval.score == interval.mean == pytest.approx(23.0)
    assert interval.low is None
    assert interval.high is None
    assert str(interval) == "23.00 (n 7)"


def test_the_interval_covers_its_share_of_the_means():
    """The standard error of 7 values' mean is about 3.9, so a 95 % interval is about 15 wide and holds the mean."""
    interval = bootstrap_interval(VALUES)
    assert interval.low < interval.mean < interval.high
    assert 12 < interval.high - interval.low < 18
    narrow = bootstrap_interval(VALUES, confidence=0.5)
    assert interval.low < narrow.low < narrow.high < interval.high
    assert "95 % interval" in str(interval)


def test_numpys_global_state_is_left_alone():
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    bootstrap_interval(VALUES)
    assert np.random.rand() == expected  # noqa: NPY002


@pytest.mark.parametrize("settings", [{"confidence": 1.0}, {"confidence": 0.0}, {"resamples": -1}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(EvaluationError, match="not possible"):
        bootstrap_interval(VALUES, **settings)


def test_no_values_are_refused():
    with pytest.raises(EvaluationError, match="no values"):
        bootstrap_interval([])
