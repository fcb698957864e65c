"""What every view leaves where no widget runs: a page exported as HTML, nbviewer, GitHub, mail."""

from __future__ import annotations

import re
from typing import Any

import nbformat
import pytest

pytest.importorskip("anywidget")

from nbconvert import HTMLExporter
from tests.evaluation.tiny_sides import disturbed_sides, word_tokenizer
from tests.reports.samples import bench
from tests.widgets.test_board import layers
from tests.widgets.test_build_monitor import Job
from tests.widgets.test_rank_monitor import World, rank

import trtbench_widgets
from trtbench_lab.results import ResultsDatabase
from trtbench_widgets.board import Board

WIDGET = "application/vnd.jupyter.widget-view+json"


def side_by_side() -> Any:
    engine, hf = disturbed_sides(1.2)
    view = trtbench_widgets.SideBySide([engine], hf=hf, tokenizer=word_tokenizer(), prompts=["w3 w14 w15"])
    view.run()
    return view


# View → one of it, and a word of its own that the static page has to show.
MAKERS = {
    "BuildMonitor": (lambda: trtbench_widgets.BuildMonitor(Job(), interval_s=3600.0), "export the network"),
    "Dashboard": (lambda: trtbench_widgets.Dashboard([bench()]), "Throughput against latency"),
    "Guide": (lambda: trtbench_widgets.Guide("path", estimate=False), "%trt_convert"),
    "HistoryBrowser": (lambda: trtbench_widgets.HistoryBrowser(), "History"),
    "LayerErrors": (lambda: trtbench_widgets.LayerErrors(layers()), "hidden states"),
    "Planner": (lambda: trtbench_widgets.Planner("demo:gpt2", gpu="H200"), "Memory of a rank"),
    "PluginSelector": (lambda: trtbench_widgets.PluginSelector(ask_backends=False), "gpt_attention_plugin"),
    "QuantSelector": (lambda: trtbench_widgets.QuantSelector(ask_backends=False), "qformat"),
    "RankMonitor": (lambda: trtbench_widgets.RankMonitor(World(rank(0, "busy", 1.0)), interval_s=3600.0), "busy"),
    "ShardPlan": (lambda: trtbench_widgets.ShardPlan("demo:gpt2", tp_size=2), "rank 1"),
    "SideBySide": (side_by_side, "w3"),
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ResultsDatabase().add(bench())


def test_every_view_is_here():
    assert set(MAKERS) == set(trtbench_widgets.__all__)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_an_exported_page_shows_it_without_scripts_and_asks_for_nothing(name: str):
    make, word = MAKERS[name]
    view = make()
    data = view._repr_mimebundle_()[0]
    view.close()
    assert WIDGET in data  # where widgets run it is one
    assert data["text/plain"].strip()
    output = nbformat.v4.new_output("execute_result", data, execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("view", outputs=[output])])
    page, _ = HTMLExporter().from_notebook_node(notebook)
    shown = page[page.index("<main") :]
    assert word in shown
    own = data["text/html"]
    assert "<script" not in own
    assert re.search(r"""(?:src|href)=["']?https?:""", own) is None
    if isinstance(view, Board):
        assert "data:image/svg+xml" in own  # pictures, in a form that GitHub leaves alone
