"""The magics in a real Jupyter kernel: progress in place, rich results, errors that stop a notebook."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

SET_UP = """
import time
from trtbench_lab import workbench
from trtbench_lab.errors import BuildError
from trtbench_lab.progress import phase

class Result:
    def __repr__(self): return "plain result"
    def _repr_html_(self): return "<b>rich result</b>"

def build(spec, progress=None):
    with phase("export", progress, total=16, unit="layer") as current:
        for _ in range(16):
            time.sleep(0.1)
            current.advance()
    return Result()

def doctor(spec, progress=None):
    raise BuildError("It ended.", remedy="Try again.")

vars(workbench).update(build=build, doctor=doctor)
%load_ext trtbench_lab
"""


def run_cells(*cells: str, path: Path, **options: Any) -> list[Any]:
    """Execute cells in a fresh kernel and return their outputs."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(path)}}, **options
    )
    client.execute()
    return [cell["outputs"] for cell in notebook["cells"]]


@pytest.fixture(autouse=True)
def kernel_finds_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


def test_a_notebook_sees_progress_result_and_error(tmp_path: Path) -> None:
    outputs = run_cells(
        SET_UP, "%trt_build demo", "%trt_doctor", "print('the kernel lives')", path=tmp_path, allow_errors=True
    )
    progress = [output for output in outputs[1] if output["output_type"] == "display_data"]
    assert len(progress) == 1, "updates must change one output in place"
    assert "export · 16 of 16 layers" in progress[0]["data"]["text/plain"]
    assert "<pre" in progress[0]["data"]["text/html"]
    (result,) = [output for output in outputs[1] if output["output_type"] == "execute_result"]
    assert result["data"] == {"text/plain": "plain result", "text/html": "<b>rich result</b>"}
    (error,) = outputs[2]
    assert error["output_type"] == "error"
    assert error["traceback"] == ["\x1b[31mIt ended.\x1b[0m", "\x1b[31m  → Try again.\x1b[0m"]
    assert outputs[3][0]["text"] == "the kernel lives\n"


def test_an_error_stops_a_notebook_that_runs_on_its_own(tmp_path: Path) -> None:
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="It ended"):
        run_cells(SET_UP, "%trt_doctor", path=tmp_path)
