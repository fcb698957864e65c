"""The magic in a real kernel: folds, tracebacks, results, interrupts, and no orphan when the kernel is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from trtbench_lab.distributed.keeper import processes_of

from .conftest import wait_for

pytestmark = pytest.mark.mpi


class Notebook:
    """A kernel, and what its cells left."""

    def __init__(self, environment: dict[str, str]):
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env=environment)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, text: str, timeout: float = 120) -> list[dict[str, Any]]:
        """Return the outputs of a cell; updates replace what they update."""
        return self.outputs_of(self.client.execute(text), timeout)

    def outputs_of(self, message_id: str, timeout: float = 120) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = []
        until = time.monotonic() + timeout
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, until - time.monotonic()))
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return outputs
            if kind == "update_display_data":
                for output in outputs:
                    if output.get("transient", {}).get("display_id") == content["transient"]["display_id"]:
                        output["data"] = content["data"]
            elif kind in ("stream", "display_data", "execute_result", "error"):
                outputs.append({"kind": kind, **content})


@pytest.fixture
def notebook(child_environment: dict[str, str]) -> Iterator[Notebook]:
    opened = Notebook(child_environment)
    yield opened
    opened.client.stop_channels()
    opened.manager.shutdown_kernel(now=True)


def test_a_notebook_drives_two_ranks(notebook: Notebook) -> None:
    assert notebook.run("%load_ext trtbench_lab") == []
    # The cell starts a world by itself, folds what each rank prints, and brings the values back.
    outputs = notebook.run("%%trt_mpi -n 2 -o shares\nprint('<hello>', rank)\ncomm.allreduce(rank + 1) * (rank + 1)")
    folds = next(output for output in outputs if "<details" in output["data"].get("text/html", ""))
    assert folds["data"]["text/plain"].splitlines() == ["[0] <hello> 0", "[0] 3", "[1] <hello> 1", "[1] 6"]
    assert folds["data"]["text/html"].count("<details open>") == 2
    assert "&lt;hello&gt; 1" in folds["data"]["text/html"]
    (values,) = notebook.run("shares.values")
    assert values["data"]["text/plain"] == "[3, 6]"
    # Only rank 0's output; a rich display of both ranks that is the same is there once.
    (only,) = notebook.run("%%trt_mpi --rank0-only\nprint('from', rank)")
    assert only["data"]["text/plain"] == "[0] from 0"
    outputs = notebook.run("%%trt_mpi\nfrom IPython.display import HTML\nHTML('<i>x</i>')")
    assert [output["data"]["text/html"] for output in outputs] == ["<b>ranks 0-1</b>", "<i>x</i>"]
    # One traceback of the same error on both.
    (error,) = notebook.run("%%trt_mpi\n1 / 0")
    assert error["kind"] == "error"
    assert sum("ZeroDivisionError" in line and "division by zero" in line for line in error["traceback"]) == 2
    assert "ranks 0-1" in error["traceback"][0]
    # A cell that is not waited for.
    notebook.run("%%trt_mpi --noblock -o later\nimport time; time.sleep(0.5); rank * 10")
    (later,) = notebook.run("later.wait(60).values")
    assert later["data"]["text/plain"] == "[0, 10]"
    (report,) = notebook.run("%trt_mpi status")
    assert report["data"]["text/plain"].startswith("2 ranks, running")
    (refused,) = notebook.run("%%trt_mpi -n 3\n1")
    assert "%trt_mpi restart -n 3" in "".join(refused["traceback"])
    # The user interrupts ranks that cannot be interrupted.
    asked = notebook.client.execute("%%trt_mpi\nif rank == 0: comm.Barrier()\nimport time; time.sleep(60)")
    time.sleep(1.5)
    began = time.monotonic()
    notebook.manager.interrupt_kernel()
    outputs = notebook.outputs_of(asked)
    assert time.monotonic() - began < 5
    assert "The cell was interrupted" in "".join(outputs[-1]["traceback"])
    # The kernel is killed as the out-of-memory killer does it.
    (name,) = notebook.run("from trtbench_lab.distributed import current_world; print(current_world().id)")
    world_id = name["text"].strip()
    notebook.run("%%trt_mpi\npass")
    assert len(processes_of(world_id)) >= 4
    notebook.manager.shutdown_kernel(now=True)
    assert wait_for(lambda: not processes_of(world_id), 10)
