"""The planner without a browser: each change is planned as `%trt_plan` plans it, and mistakes leave the last plan."""

from __future__ import annotations

import shlex

import pytest

pytest.importorskip("anywidget")

from trtbench_lab.benchmark.planner import PlanCheck
from trtbench_lab.benchmark.planner import plan as plan_model
from trtbench_lab.demo import demo_model_dir
from trtbench_lab.results import ResultsDatabase
from trtbench_lab.specs.command_line import parse
from trtbench_widgets.planner import Planner, facts_of

from .messages import Wire, press


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path / "home"))


def planner(**values) -> Planner:
    return Planner("demo:llama", **{"gpu": "H200", **values})


def test_it_shows_what_the_planner_says():
    board = planner(batch_size="1;8", tp_size=2, quant="int8_wo", input_len=256, output_len=64)
    expected = plan_model(
        demo_model_dir("llama"), gpu="H200", tp_size=2, quantization="int8_wo", batch_size=(1, 8),
        input_len=256, output_len=64,
    )  # fmt: skip
    assert board.plan.memory == expected.memory
    assert board.plan.predictions == expected.predictions
    assert len(board.table["rows"]) == 2
    facts = {fact["label"]: fact for fact in board.facts}
    assert facts["Memory of a rank"]["state"] == "good"
    assert facts["Time to first token, batch 1"]["value"] == f"{expected.prediction.ttft_ms:,.3g} ms"
    assert [panel["key"] for panel in board.panels] == ["memory", "roofline"]


def test_a_change_is_planned_anew_and_a_mistake_leaves_the_last_plan():
    board = planner()
    first = board.plan
    board.values = {**board.values, "batch_size": "64"}
    assert board.plan.prediction.batch_size == 64
    assert board.plan.part("K/V cache") > first.part("K/V cache")
    good, kept = dict(board.values), board.plan
    for name, value, words in (
        ("batch_size", "many", "batch sizes such as"),
        ("target", "speed=3", "There is no target"),
        ("model", "/no/such/folder", "no model folder"),
    ):
        board.values = {**good, name: value}
        assert words in board.notice
        assert board.plan is kept
        board.values = good
        assert board.notice == ""
        kept = board.plan


def test_what_does_not_fit_or_divide_is_said_with_its_reason():
    board = planner(tp_size=16)
    state = {fact["label"]: fact for fact in board.facts}
    assert state["Can be built and run"]["state"] == "bad"
    assert "do not divide" in state["Can be built and run"]["note"]
    board.values = {**board.values, "tp_size": "1", "gpu": "T4", "batch_size": "100000"}
    state = {fact["label"]: fact for fact in board.facts}
    assert (state["Memory of a rank"]["state"], board.plan.fits) == ("bad", False)


def test_the_cheapest_choice_for_a_target_is_named():
    board = planner(target="itl_ms=5")
    assert board.plan.cheapest is not None
    assert any(fact["label"] == "Cheapest for itl_ms=5" and fact["state"] == "good" for fact in board.facts)
    assert "choices" in [panel["key"] for panel in board.panels]
    board.values = {**board.values, "target": "itl_ms=1e-9"}
    assert board.facts[-1]["state"] == "bad"


def test_its_lines_ask_for_the_same_plan():
    board = planner(batch_size="1;8", kv_cache_dtype="fp8", target="itl_ms=5 gpus=2")
    words = shlex.split(board.lines["shell"])
    assert words[:2] == ["trtbench", "plan"]
    assert parse("plan", words[2:])[0] == board.spec


def test_nothing_is_kept_before_it_is_asked_for():
    board = planner()
    assert list(ResultsDatabase().query(kind="plan")) == []
    press(board, "keep")
    (row,) = ResultsDatabase().query(kind="plan")
    assert board.actions == [{"kind": "keep", "label": f"Kept as {row.id}", "disabled": True}]
    board.values = {**board.values, "input_len": 64}
    assert not board.actions[0]["disabled"]


def test_measurements_of_the_same_stand_beside_their_predictions():
    plan = planner().plan
    check = PlanCheck(bench_id="3f9a", label="b1_i512_o128", metric="itl_ms_p50", predicted=2.0, measured=2.5)
    fact = facts_of(plan.replace(checks=[check]))[-1]
    assert (fact["value"], fact["note"]) == ("2.5", "predicted 2, off by -20 %")


def test_one_change_is_one_message_of_state():
    board = planner()
    wire = Wire(board)
    board.values = {**board.values, "input_len": 100}
    assert len(wire.updates("facts")) == len(wire.updates("panels")) == 1


def test_a_name_that_is_no_control_is_refused():
    with pytest.raises(TypeError, match="no batchsize"):
        Planner(batchsize=3)


def test_it_reads_well_without_a_kernel():
    data = planner()._repr_mimebundle_()[0]
    assert "Memory of a rank" in data["text/plain"]
    assert "%trt_plan" in data["text/html"]
    assert "<svg" in data["text/html"] or "data:image/svg" in data["text/html"]
