"""The real runners under the benchmark: engine and Hugging Face, measured by the same loop and clock."""

from __future__ import annotations

import itertools

import pytest
from tests.runtime.tiny_models import tiny_llama, tiny_runner

from trtbench_lab.benchmark import run_static
from trtbench_lab.errors import RequestError
from trtbench_lab.reports import figures_for
from trtbench_lab.reports.figures import side_by_side
from trtbench_lab.runtime import HFRunner
from trtbench_lab.specs import BenchConfig

CONFIG = BenchConfig(batch_size="1;3", input_output_len="9,6", num_runs=2, duration_s=0.0, warm_up=1)


@pytest.fixture(scope="module")
def sides():
    model = tiny_llama()
    return [HFRunner(model, name="tiny"), tiny_runner(model, name="tiny")]


@pytest.mark.parametrize("side", [0, 1], ids=["huggingface", "engine"])
def test_every_step_of_every_run_is_timed_on_the_host(sides, side):
    runner = sides[side]
    result = run_static(runner, CONFIG, model="tiny")
    assert result.backend == runner.backend
    for point in result.points:
        assert [len(run) for run in point.token_ns] == [6, 6]
        assert all(0 < a < b for run in point.token_ns for a, b in itertools.pairwise(run))
        assert point.tokens_per_sec > 0
        assert point.memory.process_rss_peak_bytes > 100 << 20  # torch alone is larger


def test_an_end_token_does_not_shorten_a_run(sides):
    # Top-k sampling over all tokens of a small vocabulary meets any end token soon; both sides must run on.
    config = CONFIG.replace(batch_size=(4,), input_output_len=((4, 30),), top_k=0, top_p=1.0, num_runs=1)
    for runner in sides:
        assert len(run_static(runner, config).points[0].token_ns[0]) == 30


def test_the_engines_limits_are_named(sides):
    engine = sides[1]
    beyond = engine.limits.max_batch_size + 1
    with pytest.raises(RequestError, match=f"needs max_batch_size {beyond}"):
        run_static(engine, CONFIG.replace(batch_size=(beyond,)))


def test_both_sides_are_drawn_together(sides):
    results = [run_static(runner, CONFIG, model="tiny") for runner in sides]
    figure = side_by_side(results)
    assert list(figure.data[0].y) == ["tiny [huggingface]", f"tiny [{sides[1].backend}]"]
    assert len(figures_for(results[1])) == 4
