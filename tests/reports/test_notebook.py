"""Figures in a notebook draw in the live page and in an exported one, without a network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import plotly.io
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from tests.reports.samples import bench

from trtbench_lab.reports.figures import memory
from trtbench_lab.reports.notebook import notebook_html, use_offline_renderer

ROOT = Path(__file__).parents[2]


def test_a_figure_asks_for_nothing_and_has_its_numbers():
    # Larger than any process that runs this test, whose own memory is measured too: it decides the unit.
    page = notebook_html(memory(bench(weights_bytes=100 << 30)))
    assert "src=" not in page
    assert "http" not in page
    assert "100.0 GiB" in page
    assert "<table" in page


def test_figures_get_elements_of_their_own():
    figure = memory(bench())
    identifiers = {re.search(r'<div id="([^"]+)"', notebook_html(figure))[1] for _ in range(3)}  # type: ignore[index]
    assert len(identifiers) == 3


def test_text_in_a_figure_cannot_close_its_script():
    page = notebook_html(memory(bench(name="</script><script>alert(1)</script>")))
    assert page.count("<script>") == 1
    assert page.count("</script>") == 1


def test_the_renderer_is_set_when_asked_and_shows_plotly_once(monkeypatch: pytest.MonkeyPatch):
    import IPython.display

    shown: list[str] = []
    before = plotly.io.renderers.default
    monkeypatch.setattr(IPython.display, "display", lambda item: shown.append(item.data))
    try:
        assert use_offline_renderer() == "plotly_mimetype+trtbench"
        bundle = plotly.io.renderers["trtbench"].to_mimebundle(memory(bench()).to_dict())
    finally:
        plotly.io.renderers.default = before
    assert len(shown) == 1
    assert "plotly.js v" in shown[0][:2000]
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/plain"].startswith("Peak memory\n")


def test_an_executed_notebook_holds_both_forms_and_exports_self_contained():
    code = [
        "from trtbench_lab.reports import use_offline_renderer\nuse_offline_renderer();",
        "from tests.reports.samples import bench\nfrom trtbench_lab.reports.figures import memory\nmemory(bench())",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in code])
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    kernel = {"env": {**__import__("os").environ, **environment}}
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute(**kernel)
    outputs = notebook.cells[1].outputs[0]["data"]
    assert {"application/vnd.plotly.v1+json", "text/html", "text/plain"} <= set(outputs)
    assert json.loads(json.dumps(outputs["application/vnd.plotly.v1+json"]))["data"]
    page, _ = HTMLExporter().from_notebook_node(notebook)
    body = page[page.index("<body") :]
    assert "trtbench-figure-" in body
    assert body.count("plotly.js v") == 1
    assert "mathjax" not in outputs["text/html"].lower()


def test_without_ipython_the_extra_is_named():
    code = """
import sys
sys.modules["IPython"] = sys.modules["IPython.display"] = None
from trtbench_lab.errors import MissingPackageError
from trtbench_lab.reports import use_offline_renderer
try:
    use_offline_renderer()
except MissingPackageError as error:
    print(error.remedy)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "Install it with: pip install 'trtbench-lab[lab]'\n"
