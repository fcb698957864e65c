"""Every probe ends: what hangs is left alone, what breaks is told; a bare machine gets its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.test_doctor import EXAMINE_WITHOUT

from trtbench_lab.doctor import DoctorRow
from trtbench_lab.doctor.probes import child_output, rows_of


def test_a_probe_that_hangs_is_left_alone() -> None:
    def hangs() -> Iterator[DoctorRow]:
        yield DoctorRow("first", "x", "ok", "y.")
        time.sleep(30)

    begun = time.monotonic()
    first, second = rows_of("a disk", hangs, seconds=0.2)
    assert time.monotonic() - begun < 10
    assert (first.component, second.component, second.status) == ("first", "a disk", "warning")
    assert "within 0.2 s" in second.meaning
    assert second.remedy


def test_a_probe_that_breaks_keeps_its_rows() -> None:
    def breaks() -> Iterator[DoctorRow]:
        yield DoctorRow("first", "x", "ok", "y.")
        raise RuntimeError("the driver is gone")

    first, second = rows_of("a driver", breaks)
    assert first.component == "first"
    assert "the driver is gone" in second.meaning


def test_children_answer_fail_and_time_out() -> None:
    assert child_output("print('here')") == ("here", "")
    assert child_output("import no_such_module")[1] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert child_output("import os; os._exit(7)")[1] == "the process ended with status 7"
    assert child_output("import time; time.sleep(30)", seconds=0.3)[1] == "it takes over 0.3 s"


def test_a_machine_with_nothing_installed() -> None:
    blocked = (
        "torch transformers tokenizers safetensors huggingface_hub numpy onnx onnxscript onnx_ir rouge_score "
        "sentencepiece psutil xxhash onnxruntime IPython ipykernel ipywidgets anywidget plotly pandas pyarrow "
        "jupyterlab mpi4py tensorrt triton"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PATH": ""}
    command = [sys.executable, "-c", EXAMINE_WITHOUT, blocked.replace(" ", ",")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {row["component"]: row for row in report["rows"]}
    assert report["ok"] is False
    assert rows["torch"]["status"] == "error"
    assert "pip install 'torch>=2.11'" in rows["torch"]["remedy"]
    assert rows["GPU"]["status"] == rows["triton"]["status"] == rows["MPI"]["status"] == "missing"
    assert rows["torch"]["needed_for"] == "everything"
    assert rows["Python"]["status"] == "ok"
    assert all(row["remedy"] for row in report["rows"] if row["status"] in ("warning", "error"))
