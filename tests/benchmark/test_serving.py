"""The serving benchmark: arrivals, exact token counts, every metric by its definition, faults of single requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.runtime.inflight.fakes import VOCAB_SIZE, fake_runner

from trtbench_lab.benchmark.serving import ServingRequest, arrival_times_s, random_workload, run_serving
from trtbench_lab.benchmark.serving_result import ServedRequest, ServingResult
from trtbench_lab.errors import RequestError
from trtbench_lab.results import Result, direction_of, metric_of
from trtbench_lab.runtime import EngineLimits
from trtbench_lab.runtime.inflight.batcher import InflightBatcher
from trtbench_lab.specs import BenchConfig

MS = 1_000_000


@pytest.fixture
def batcher() -> Iterator[InflightBatcher]:
    limits = EngineLimits(vocab_size=VOCAB_SIZE, max_batch_size=4, max_input_len=40, max_seq_len=60)
    made = InflightBatcher(fake_runner(2), limits)
    yield made
    made.close()


def served(sent_ms: float, *tokens_ms: float, asked: int | None = None, **more: Any) -> ServedRequest:
    return ServedRequest(
        input_length=10,
        output_length=len(tokens_ms) if asked is None else asked,
        sent_ns=int(sent_ms * MS),
        token_ns=[int(token * MS) for token in tokens_ms],
        **more,
    )


def result_of(*requests: ServedRequest, **more: Any) -> ServingResult:
    return ServingResult(backend="torch", model="m", requests=list(requests), **more)


def test_metrics_by_hand() -> None:
    result = result_of(
        served(0, 100, 110, 130),
        served(50, 250),
        served(60, 300, 400, asked=3, error="it failed"),  # not completed: counted nowhere
        slo_ms={"ttft": 150.0, "itl": 15.0},
    )
    assert result.series("request_ttft_ms") == [100, 200]
    assert result.series("request_latency_ms") == [130, 200]
    assert result.series("request_tpot_ms") == [15]
    assert result.series("request_itl_ms") == [10, 20]
    assert result.duration_s == pytest.approx(0.25)
    metrics = result.metrics
    assert metrics["output_tokens_per_second"] == pytest.approx(4 / 0.25)
    assert metrics["total_tokens_per_second"] == pytest.approx((20 + 4) / 0.25)
    assert metrics["requests_per_second"] == pytest.approx(2 / 0.25)
    assert metrics["completed_requests"] == 2
    assert metrics["peak_concurrency"] == 2
    assert metrics["goodput_per_second"] == 0.0  # the first has a gap of 20 ms, the second a TTFT of 200
    assert result_of(served(0, 100, 110, 130)).metrics["goodput_per_second"] is None


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        ({"ttft": 100}, True),
        ({"ttft": 99.9}, False),
        ({"tpot": 15}, True),
        ({"itl": 19}, False),
        ({"latency": 130}, True),
    ],
)
def test_a_service_level_is_kept_up_to_its_limit(slo: dict[str, float], good: bool) -> None:
    assert served(0, 100, 110, 130).meets(slo) is good


def test_a_single_token_has_no_gap_and_keeps_those_levels() -> None:
    assert served(0, 5).meets({"tpot": 0.001, "itl": 0.001})
    assert not served(0, 5, asked=2).meets({"ttft": 100})
    assert served(0, 5).tpot_ms is None


def test_nothing_completed_gives_no_numbers_rather_than_zeros() -> None:
    result = result_of(served(0, asked=3, error="no"), slo_ms={"ttft": 1.0})
    assert result.duration_s is None
    assert result.metrics["output_tokens_per_second"] is None
    assert result.metrics["goodput_per_second"] is None
    assert "n/a" in result.line
    assert "no" in repr(result)


def test_serving_metrics_have_names_of_their_own_so_that_they_never_meet_a_static_batchs() -> None:
    names = result_of(served(0, 100, 110)).metrics
    static = {"latency_ms", "ttft_ms", "itl_ms", "tpot_ms", "tokens_per_sec", "generation_tokens_per_second"}
    assert not {metric.tag for name in names if (metric := metric_of(name))} & static
    assert direction_of("request_ttft_ms_p99") == "lower"


def test_arrivals_are_poisson_repeatable_and_begin_at_once() -> None:
    moments = arrival_times_s(4000, 8.0, seed=3)
    assert moments[0] == 0.0
    assert moments == arrival_times_s(4000, 8.0, seed=3) != arrival_times_s(4000, 8.0, seed=4)
    gaps = np.diff(moments)
    # Exponential gaps: mean and standard deviation are both 1/rate; their standard errors over 4,000 are 1.6 %.
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.08)
    assert gaps.std() == pytest.approx(1 / 8, rel=0.12)
    assert arrival_times_s(3, None, seed=0) == [0.0, 0.0, 0.0]


def test_workload_takes_the_lengths_in_turn() -> None:
    config = BenchConfig(mode="serving", num_requests=5, input_output_len="3,4;7,2")
    workload = random_workload(config, VOCAB_SIZE)
    assert [(len(r.token_ids), r.output_length) for r in workload] == [(3, 4), (7, 2), (3, 4), (7, 2), (3, 4)]
    assert workload == random_workload(config, VOCAB_SIZE)
    assert all(0 <= token < VOCAB_SIZE for request in workload for token in request.token_ids)


@pytest.mark.parametrize("options", [{}, {"request_rate": 400.0}, {"concurrency": 2}, {"top_k": 0, "top_p": 0.9}])
def test_every_request_gives_exactly_the_tokens_asked_for(batcher: InflightBatcher, options: dict[str, Any]) -> None:
    config = BenchConfig(mode="serving", num_requests=11, input_output_len="9,6;3,9", goodput="ttft:60000", **options)
    result = run_serving(batcher, config, random_workload(config, VOCAB_SIZE), model="m")
    assert [len(request.token_ns) for request in result.requests] == [6, 9] * 5 + [6]
    assert len(result.completed) == 11
    assert result.goodput_per_second == result.requests_per_second
    assert result.peak_concurrency <= (options.get("concurrency") or 11)
    sent = [request.sent_ns for request in result.requests]
    assert sent == sorted(sent)
    assert sent[0] == 0
    assert all(request.sent_ns < request.token_ns[0] for request in result.requests)
    steps = result.steps
    made = sum(steps.decode_rows)
    assert made == sum(request.output_length - 1 for request in result.requests)
    assert max(steps.running) <= 4
    assert all(a < b for a, b in zip(steps.submitted_ns, steps.known_ns, strict=True))
    assert Result.from_dict(result.to_dict()) == result


def test_what_the_engine_cannot_take_is_named_before_anything_runs(batcher: InflightBatcher) -> None:
    workload = [ServingRequest([1, 2], 3), ServingRequest([1] * 41, 3)]
    with pytest.raises(RequestError, match="request 1: The prompt has 41 tokens"):
        run_serving(batcher, BenchConfig(mode="serving"), workload)
    assert batcher.num_unfinished == 0


def test_a_failed_request_is_kept_with_its_error_and_the_rest_count(batcher: InflightBatcher) -> None:
    batcher.runner.executor.poison = 60  # type: ignore[attr-defined]
    workload = [ServingRequest([n, 1], 4) for n in (1, 60, 2)]
    result = run_serving(batcher, BenchConfig(mode="serving", warm_up=0), workload)
    assert [request.error is None for request in result.requests] == [True, False, True]
    assert "NaN" in (result.requests[1].error or "")
    assert len(result.completed) == 2
