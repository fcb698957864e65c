"""A plan finds its measurement, and a measurement its plan."""

from __future__ import annotations

import pytest

from trtbench_lab import workbench
from trtbench_lab.benchmark.planner import PlanResult
from trtbench_lab.benchmark.planner.checks import checks_of, predicted_for
from trtbench_lab.benchmark.result import BenchPoint, BenchResult
from trtbench_lab.results.database import ResultsDatabase
from trtbench_lab.specs.command_line import parse


def point(gap_ms: float, first_ms: float) -> BenchPoint:
    times = [int(1e6 * (first_ms + index * gap_ms)) for index in range(8)]
    return BenchPoint(batch_size=1, input_length=16, output_length=8, token_ns=[times, times])


def planned(monkeypatch, tmp_path, line: str) -> PlanResult:
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path))
    return workbench.verb("plan")(parse("plan", line.split()).spec)


def test_error_by_hand(monkeypatch, tmp_path):
    found = planned(monkeypatch, tmp_path, "demo:gpt2 --gpu L4 --input_len 16 --output_len 8")
    predictions = predicted_for(found.link, [found], ["b1_i16_o8", "b2_i16_o8"])
    assert set(predictions) == {"b1_i16_o8"}
    bench = BenchResult(backend="torch", points=[point(2.0, 10.0)], samples={"predicted": predictions})
    by_metric = {check.metric: check for check in checks_of(bench)}
    assert by_metric["itl_ms"].measured == pytest.approx(2.0)
    expected = 100 * (found.prediction.itl_ms - 2.0) / 2.0
    assert by_metric["itl_ms"].error_percent == pytest.approx(expected)
    assert bench.metrics["b1_i16_o8.itl_prediction_error"] == pytest.approx(expected)
    assert "Planned beforehand" in repr(bench)
    assert "Planned beforehand" not in repr(BenchResult(backend="torch", points=[point(2.0, 10.0)]))


def test_other_quantizations_and_gpus_are_other_plans(monkeypatch, tmp_path):
    lines = ("--gpu L4", "--gpu T4", "--gpu L4 --quant int8_wo", "--gpu L4 --tp 2", "--gpu L4 --dtype float32")
    links = {planned(monkeypatch, tmp_path, f"demo:gpt2 {line}").link for line in lines}
    assert len(links) == len(lines)
    assert planned(monkeypatch, tmp_path, "demo:gpt2 --gpu L4 --batch_size 8").link in links


def test_bench_stands_beside_the_plan_and_the_next_plan_beside_the_bench(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    first = planned(monkeypatch, tmp_path, "demo:gpt2 --dtype float32 --input_len 16 --output_len 8")

    def run(verb: str, line: str):
        return workbench.verb(verb)(parse(verb, line.split()).spec)

    run("convert", "demo:gpt2 --dtype float32 --output_dir checkpoint")
    run("build", "checkpoint engine --max_batch_size 2 --max_input_len 32 --max_seq_len 64 --backend onnxruntime")
    bench = run("bench", "engine --batch_size 1 --input_output_len 16,8 --num_runs 2 --duration 0")
    checks = {check.metric: check for check in bench.checks}
    assert checks["itl_ms"].predicted == pytest.approx(first.prediction.itl_ms)
    assert checks["itl_ms"].measured == pytest.approx(bench.points[0].distributions["itl_ms"].p50)
    assert bench.samples["predicted"]["b1_i16_o8"]["plan"] == first.id
    second = run("plan", "demo:gpt2 --dtype float32 --input_len 16 --output_len 8")
    assert [check.bench_id for check in second.checks] == [bench.id, bench.id]
    assert "Error of the prediction" in ResultsDatabase().query(kind="bench")[0].headline()
    # From the engine's own folder the plan is the same: it holds the configuration too.
    assert run("plan", "engine --dtype float32 --input_len 16 --output_len 8").link == first.link
