"""The benchmark's loop on a runner with a written clock: what is asked of it, what is kept, what is refused."""

from __future__ import annotations

import json
import time

import pytest
from tests.benchmark.fakes import FakeRunner, Limits

from trtbench_lab.benchmark import BenchResult, random_prompts, run_static
from trtbench_lab.errors import RequestError
from trtbench_lab.results import Result, ResultsDatabase
from trtbench_lab.specs import BenchConfig


def config(**changes) -> BenchConfig:
    values = {"batch_size": "1", "input_output_len": "60,20", "num_runs": 3, "duration_s": 0.0, "warm_up": 1}
    return BenchConfig(**{**values, **changes})


def test_the_line_that_people_know():
    # 39.47 ms: 10 ms to the first token, then 19 gaps that sum to 29.47 ms.
    runner = FakeRunner(lambda call, length: [10.0] + [29.47 / (length - 1)] * (length - 1))
    result = run_static(runner, config())
    assert result.lines == [
        "[BENCHMARK] batch_size 1 input_length 60 output_length 20 latency(ms) 39.47 tokensPerSec 506.71 "
        "gpu_peak_mem(gb) n/a"
    ]
    assert repr(result).startswith("[BENCHMARK] batch_size 1 ")


def test_hand_computed_numbers_reach_the_flat_view():
    # Runs after one warm-up take 10 + 2·3, 20 + 3·3 and 30 + 4·3 ms for 4 tokens: 16, 29, 42 ms, mean 29.
    runner = FakeRunner(lambda call, length: [10.0 * call] + [1.0 + call] * (length - 1))
    flat = run_static(runner, config(batch_size="2", input_output_len="8,4")).metrics
    assert flat["b2_i8_o4.latency_ms_mean"] == pytest.approx(29.0)
    assert flat["b2_i8_o4.latency_ms_n"] == 3
    assert flat["b2_i8_o4.ttft_ms_p50"] == pytest.approx(20.0)
    assert flat["b2_i8_o4.ttft_ms_p90"] == pytest.approx(28.0)  # h = 2·0.9: 20 + 0.8·10
    assert flat["b2_i8_o4.itl_ms_n"] == 9
    assert flat["b2_i8_o4.itl_ms_p50"] == pytest.approx(3.0)
    assert flat["b2_i8_o4.tpot_ms_mean"] == pytest.approx(3.0)
    assert flat["b2_i8_o4.tokens_per_sec"] == pytest.approx(2 * 4 / 0.029)
    assert flat["b2_i8_o4.generation_tokens_per_second"] == pytest.approx(2 * 3 / 0.009)
    assert flat["b2_i8_o4.share_of_read_bandwidth"] is None


def test_raw_samples_are_kept_for_each_token_of_each_run():
    result = run_static(FakeRunner(), config(input_output_len="8,4"))
    assert result.points[0].token_ns == [[10_000_000, 12_000_000, 14_000_000, 16_000_000]] * 3
    assert result.points[0].series("itl_ms") == [2.0] * 9


def test_the_whole_grid_is_measured_in_order():
    runner = FakeRunner()
    result = run_static(runner, config(batch_size="1;8", input_output_len="60,20;16,5"))
    assert [point.label for point in result.points] == ["b1_i60_o20", "b8_i60_o20", "b1_i16_o5", "b8_i16_o5"]
    assert [len(call["prompts"]) for call in runner.calls] == [1] * 4 + [8] * 4 + [1] * 4 + [8] * 4
    assert {len(row) for row in runner.calls[-1]["prompts"]} == {16}


def test_rows_never_end_early():
    runner = FakeRunner()
    run_static(runner, config(top_k=5, top_p=0.9, random_seed=3))
    assert {call["end_id"] for call in runner.calls} == {-1}
    assert {(call["top_k"], call["top_p"], call["random_seed"]) for call in runner.calls} == {(5, 0.9, 3)}


def test_a_runner_that_stops_early_is_not_credited_with_tokens():
    runner = FakeRunner(lambda call, length: [1.0] * (length - 1))
    with pytest.raises(RequestError, match="made 19 of 20 tokens"):
        run_static(runner, config())


def test_warm_up_runs_are_not_kept():
    runner = FakeRunner(lambda call, length: [1000.0 if call < 2 else 1.0] * length)
    result = run_static(runner, config(warm_up=2))
    assert len(runner.calls) == 5
    assert max(result.points[0].series("latency_ms")) == 20.0


def test_without_warm_up_memory_is_watched_in_a_run_of_its_own():
    runner = FakeRunner()
    result = run_static(runner, config(warm_up=0))
    assert len(runner.calls) == 4
    assert result.points[0].num_runs == 3
    assert result.points[0].memory.process_rss_peak_bytes > 1 << 20


def test_runs_go_on_until_number_and_duration_are_reached(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    # Every look at the clock is a second later, so 20 s take far more than 3 runs and 0 s exactly 3.
    assert run_static(FakeRunner(), config(duration_s=20.0)).points[0].num_runs > 3
    assert run_static(FakeRunner(), config(duration_s=0.0)).points[0].num_runs == 3


def test_the_same_seed_gives_the_same_prompts():
    first, second, third = FakeRunner(), FakeRunner(), FakeRunner()
    run_static(first, config(batch_size="4"))
    run_static(second, config(batch_size="4"))
    run_static(third, config(batch_size="4", random_seed=1))
    prompts = [runner.calls[0]["prompts"] for runner in (first, second, third)]
    assert prompts[0] == prompts[1] != prompts[2]
    assert len({tuple(row) for row in prompts[0]}) == 4
    assert {call["prompts"][0][0] for call in first.calls} == {prompts[0][0][0]}


def test_prompts_lie_in_the_vocabulary():
    rows = random_prompts(50, 100, vocab_size=3, seed=0)
    assert {token for row in rows for token in row} == {0, 1, 2}
    assert random_prompts(2, 5, vocab_size=1000, seed=7) == random_prompts(9, 5, vocab_size=1000, seed=7)[:2]


def test_configurations_beyond_the_engine_are_refused_before_any_runs():
    runner = FakeRunner()
    with pytest.raises(RequestError) as caught:
        run_static(runner, config(batch_size="1;16", input_output_len="60,20;64,64;80,8"))
    message = str(caught.value)
    assert runner.calls == []
    assert "batch size 16, input 60, output 20 needs max_batch_size 16 and the engine has 8" in message
    assert "batch size 1, input 64, output 64 needs max_seq_len 128 and the engine has 96" in message
    assert "input 80, output 8 needs max_input_len 80 and the engine has 64" in message
    assert "build with max_batch_size=16, max_seq_len=128, max_input_len=80" in message


def test_beams_beyond_the_engine_are_refused():
    with pytest.raises(RequestError, match="needs max_beam_width 4 and the engine has 1"):
        run_static(FakeRunner(), config(num_beams=4))


def test_a_side_without_limits_takes_everything():
    limits = Limits(max_batch_size=None, max_input_len=None, max_seq_len=None, max_beam_width=None)
    result = run_static(FakeRunner(limits=limits), config(batch_size="64", input_output_len="500,2"))
    assert result.points[0].label == "b64_i500_o2"


def test_one_new_token_has_no_decode_numbers():
    result = run_static(FakeRunner(), config(input_output_len="8,1"))
    flat = result.metrics
    assert flat["b1_i8_o1.latency_ms_mean"] == flat["b1_i8_o1.ttft_ms_mean"] == 10.0
    assert flat["b1_i8_o1.itl_ms_mean"] is None
    assert flat["b1_i8_o1.generation_tokens_per_second"] is None
    assert "n/a" in repr(result)


def test_a_result_is_stored_and_read_back(own_home):
    facts = {
        "quantization": "W8A16",
        "engine_load_s": 0.5,
        "decode_read_bytes": 1000,
        "read_bandwidth_bytes_per_s": 1e6,
    }
    result = run_static(FakeRunner(), config(), model="gpt2", name="first", facts=facts)
    again = Result.from_dict(json.loads(json.dumps(result.to_dict())))
    assert isinstance(again, BenchResult)
    assert again == result
    assert again.metrics == result.metrics
    database = ResultsDatabase()
    database.add(result)
    row = database.query(kind="bench")[0]
    assert (row.backend, row.model, row.name) == ("fake", "gpt2", "first")
    assert "Latency 48.00 ms" in row.headline()
    # 1000 bytes in 2 ms are 500 kB/s, of 1 MB/s 50 %.
    assert row.metrics["b1_i60_o20.share_of_read_bandwidth"] == pytest.approx(50.0)


def test_views_name_backend_clock_method_and_sample_size():
    result = run_static(FakeRunner(), config(), model="gpt2")
    for view in (repr(result), result._repr_html_()):
        for words in ("backend fake", "perf_counter_ns", "linear interpolation over n samples", "Time to first token"):
            assert words in view


def test_progress_is_told_run_by_run():
    events = []
    run_static(FakeRunner(), config(num_runs=2), progress=events.append)
    assert events[-1].state == "done"
    assert events[-1].done == 2
    assert events[0].phase == "benchmark batch 1, input 60, output 20"
