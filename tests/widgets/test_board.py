"""Boards: what the page gets of a figure, what stands in the place of a widget, which runs and figures are shown."""

from __future__ import annotations

import base64
import json
import re

import plotly.graph_objects as go
import pytest
from tests.engine.conftest import tiny_config
from tests.reports.samples import bench, comparison, serving
from tests.widgets.messages import Wire, press

from trtbench_lab.checkpoint.plan import shard_plan
from trtbench_lab.errors import ResultsError
from trtbench_lab.evaluation.layers_result import LayerDifference, LayersResult
from trtbench_lab.reports.figure import MAX_SVG_POINTS, described, fluid, new_figure
from trtbench_lab.results import ResultsDatabase, Table
from trtbench_lab.specs import Mapping
from trtbench_widgets.board import SHOWN_ROWS, Board, panel_of
from trtbench_widgets.dashboard import Dashboard
from trtbench_widgets.layer_errors import LayerErrors
from trtbench_widgets.shard_plan import ShardPlan


def layers(backend: str = "torch", **facts) -> LayersResult:
    """Hidden states of three layers, the last of them beyond the tolerance."""
    entries = [
        LayerDifference(
            name=f"transformer.layers.{i}" + ("" if part == "output" else f".{part}"),
            layer=i,
            part=part,
            relative_error=10.0 ** (i - 4) * (1 + 0.3 * j),
            max_abs=0.1 * (i + 1),
            mean_abs=0.01,
            reference_largest=4.0,
            worst_token=0,
        )
        for i in range(3)
        for j, part in enumerate(("attention", "mlp", "output"))
    ]
    return LayersResult(
        backend=backend,
        model="gpt2",
        layers=entries,
        reference="gpt2 [huggingface]",
        tolerance=5e-3,
        first_beyond="transformer.layers.2.attention",
        **facts,
    )


# ---- panels ------------------------------------------------------------------------------------------------------


def test_a_panel_is_plain_data_with_the_words_apart_from_the_drawing():
    (panel, *_) = Dashboard([bench()]).panels
    assert json.loads(json.dumps(panel)) == panel
    assert panel["title"] == "Inter-token latency: distribution over gaps"
    assert "title" not in panel["layout"]
    assert panel["rows"]
    assert panel["name"] == "inter-token-latency-distribution-over-gaps"


def test_ten_thousand_points_go_to_webgl_and_filled_areas_stay():
    figure = new_figure("Many", "points")
    figure.add_trace(go.Scatter(x=list(range(10_000)), y=[0] * 10_000, mode="lines"))
    figure.add_trace(go.Scatter(x=[0, 1], y=[0, 1], fill="toself"))
    assert [trace.type for trace in fluid(figure).data] == ["scattergl", "scatter"]
    assert panel_of(figure, key="k")["data"][0]["type"] == "scattergl"
    few = new_figure("Few", "points").add_trace(go.Scatter(x=list(range(MAX_SVG_POINTS)), y=[0] * MAX_SVG_POINTS))
    assert fluid(few) is few


def test_long_tables_are_cut_and_say_so():
    figure = described(new_figure("T", ""), "c", Table(("n",), [(i,) for i in range(500)]))
    panel = panel_of(figure, key="k")
    assert (len(panel["rows"]), panel["more"]) == (SHOWN_ROWS, 300)


def test_plotly_comes_from_the_kernel_when_the_page_asks():
    board = Dashboard([bench()])
    wire = Wire(board)
    press(board, "plotly")
    ((message, buffers),) = wire.messages
    assert message["content"] == {"kind": "plotly"}
    assert b"plotly.js v" in buffers[0][:200]


def test_scripts_ask_no_network_and_hold_no_address():
    for kind in (Dashboard, ShardPlan, LayerErrors):
        assert not re.search(r"https?://(?!www\.w3\.org/)", kind._esm + kind._css)


# ---- what stands in its place ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dashboard([bench(), serving()]),
        lambda: ShardPlan(tiny_config(), tp_size=2),
        lambda: LayerErrors(layers()),
    ],
    ids=["dashboard", "shards", "layers"],
)
def test_every_board_leaves_pictures_numbers_and_text_behind(make):
    board: Board = make()
    data, _ = board._repr_mimebundle_()
    assert set(data) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', data["text/html"])
    assert len(pictures) == len(board.figures) > 0
    assert all(base64.b64decode(picture).startswith(b"<svg") for picture in pictures)
    assert "<script" not in data["text/html"]
    assert "<table" in data["text/html"]
    assert board.heading in data["text/plain"]


# ---- the dashboard -----------------------------------------------------------------------------------------------


def test_engine_only_and_serving_are_never_in_one_figure():
    static, served = [bench(), bench("torch")], [serving(), serving("torch")]
    board = Dashboard([*static, *served])
    board.shown = [result.id for result in (*static, *served)]
    runs = {"engine": {r.id for r in static}, "serving": {r.id for r in served}}
    drawn = {"engine": 0, "serving": 0}
    for panel in board.panels:
        owners = {trace["meta"]["run"] for trace in panel["data"] if "meta" in trace}
        assert owners <= runs[panel["group"]]
        drawn[panel["group"]] += 1
        if panel["data"]:
            assert panel["group"] in panel["subtitle"] or "engine-only" in panel["subtitle"]
    assert drawn["engine"] >= 6
    assert drawn["serving"] >= 4
    assert board.groups["engine"].startswith("engine-only")


def test_runs_come_from_the_history_the_newest_kind_first(tmp_path):
    database = ResultsDatabase(tmp_path / "r.sqlite")
    for i in range(6):
        database.add(bench(name=f"run {i}", created_at=f"2026-01-0{i + 1}T00:00:00.000Z"))
    database.add(serving(created_at="2025-12-31T00:00:00.000Z"))
    database.add(comparison())  # no dashboard draws it
    board = Dashboard(database=tmp_path / "r.sqlite")
    assert len(board.runs) == 7
    assert [result.name for result in board.results] == ["run 5", "run 4", "run 3", "run 2"]
    database.add(bench(name="later"))
    board.reload()
    assert board.runs[0]["label"] == "later [onnxruntime]"


def test_filters_narrow_the_list_and_keep_what_is_drawn():
    runs = [bench(name="fp16"), bench("torch", name="int8"), serving(model="llama")]
    board = Dashboard(runs, ids=[runs[0].id])
    board.values = {**board.values, "backend": "torch"}
    assert {run["id"] for run in board.runs} == {runs[0].id, runs[1].id}
    board.values = {**board.values, "backend": "", "text": "LLA"}
    assert {run["id"] for run in board.runs} == {runs[0].id, runs[2].id}
    board.values = {**board.values, "text": "", "show": "serving"}
    assert {run["id"] for run in board.runs} == {runs[0].id, runs[2].id}


def test_filters_do_not_draw_the_figures_anew():
    board = Dashboard([bench(), serving()])
    wire = Wire(board)
    board.values = {**board.values, "text": "x"}
    assert wire.updates("panels") == []
    board.values = {**board.values, "metric": "ttft_ms"}
    assert len(wire.updates("panels")) == 1
    assert board.panels[0]["title"].startswith("Time to first token")


def test_ticking_a_run_draws_it_and_unticking_takes_its_highlight_away():
    runs = [bench(name="a"), bench("torch", name="b")]
    board = Dashboard(runs, ids=[runs[0].id])
    board.shown = [run.id for run in runs]
    assert {t["meta"]["run"] for t in board.panels[0]["data"]} == {run.id for run in runs}
    board.highlighted = [runs[1].id]
    board.shown = [runs[0].id]
    assert board.highlighted == []
    assert board.results == [runs[0]]


def test_nothing_ticked_is_no_fault():
    board = Dashboard([bench()], ids=[])
    assert board.panels == []
    assert board.notice == ""


def test_a_run_that_was_deleted_meanwhile_is_said(tmp_path):
    database = ResultsDatabase(tmp_path / "r.sqlite")
    first, second = bench(name="a"), bench(name="b")
    database.add(first)
    database.add(second)
    board = Dashboard(database=tmp_path / "r.sqlite", ids=[first.id])
    database.delete(second.id)
    board.shown = [first.id, second.id]
    assert "There is no run" in board.notice
    assert len(board.panels) == 6  # the last figures stay


# ---- shard plan and layers ---------------------------------------------------------------------------------------


def test_any_division_is_tried_and_an_impossible_one_is_said_in_its_words():
    board = ShardPlan(tiny_config(), tp_size=2)
    assert board.plan.total_bytes() == shard_plan(tiny_config(mapping=Mapping(tp_size=2))).total_bytes()
    board.values = {**board.values, "pp_size": "2"}
    assert board.plan.world_size == 4
    assert "4 rank(s)" in board.summary
    board.values = {**board.values, "tp_size": "16"}
    assert "do not divide by tp_size 16" in board.notice
    board.values = {**board.values, "tp_size": "1"}
    assert board.notice == ""


def test_a_plan_that_is_given_cannot_be_divided_anew():
    board = ShardPlan(shard_plan(tiny_config(mapping=Mapping(tp_size=2))))
    assert [control["name"] for control in board.controls] == ["contains"]
    board.values = {**board.values, "contains": ".mlp."}
    assert all(".mlp." in row[2] for row in board.panels[0]["rows"])


def test_a_model_is_planned_without_writing_anything(own_home):
    board = ShardPlan("demo:gpt2", tp_size=2)
    assert board.plan.world_size == 2
    assert not list(own_home.rglob("*.safetensors"))


def test_layers_are_switched_by_value_and_by_result():
    first, second = layers(), layers("onnxruntime", name="int8")
    board = LayerErrors([first, second])
    assert [control["name"] for control in board.controls] == ["result", "value"]
    board.values = {"result": second.id, "value": "max_abs"}
    assert board.result == second
    assert "Largest difference" in board.panels[0]["subtitle"]
    board.values = {"result": second.id, "value": "no such value"}
    assert board.notice == ""  # another result may lack what was shown of the last: its first value is shown


def test_layers_come_from_the_history_and_its_absence_is_said(tmp_path):
    path = tmp_path / "r.sqlite"
    with pytest.raises(ResultsError, match="No stored run has layers"):
        LayerErrors(database=path)
    ResultsDatabase(path).add(layers())
    assert len(LayerErrors(database=path).panels) == 1
    with pytest.raises(ResultsError, match="'bench' has no layers"):
        LayerErrors(bench())
