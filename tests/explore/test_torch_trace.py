"""Traces of torch's profiler: nesting by hand-made events, kernels of a GPU, and traces without our marks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trtbench_lab.explore import explore
from trtbench_lab.explore.readers.torch_trace import read_trace


def event(name: str, start: float, duration: float, category: str = "cpu_op", **arguments: Any) -> dict[str, Any]:
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": 1,
        "tid": 1,
        "ts": start,
        "dur": duration,
        "args": arguments,
    }


def linear(start: float, identifier: int) -> list[dict[str, Any]]:
    facts = {"Input type": ["c10::Half", "c10::Half", ""], "Input Dims": [[2, 1, 8], [16, 8], []]}
    return [
        event("aten::linear", start, 4, **facts, **{"External id": identifier}),
        event("aten::mm", start + 1, 2, **{"External id": identifier + 1}),
    ]


def run(number: int, start: float) -> list[dict[str, Any]]:
    return [
        event(f"run:{number}", start, 20, "user_annotation"),
        event("module:decoder", start, 20, "user_annotation"),
        event("module:lm_head", start + 2, 10, "user_annotation"),
        *linear(start + 3, 100 * number),
        event("aten::add", start + 14, 1, **{"External id": 100 * number + 10}),
    ]


def test_nested_operators_belong_to_the_outermost() -> None:
    reading = read_trace({"traceEvents": [*run(1, 0), *run(2, 100)]}, "test")
    assert [(one.name, one.module, one.times_ms) for one in reading.layers] == [
        ("lm_head/linear", "lm_head", (0.004, 0.004)),
        ("decoder/add", "decoder", (0.001, 0.001)),
    ]
    product = reading.layers[0]
    assert (product.precision, product.weights_bytes) == ("float16", 16 * 8 * 2)
    assert product.outputs[0].shape == (2, 1, 16)
    assert product.flops == 2 * 2 * 8 * 16


def test_kernels_count_where_there_are_any() -> None:
    kernels = [
        event("gemm_kernel", 50, 7, "kernel", **{"External id": 101}),
        event("elementwise", 60, 1, "kernel", **{"External id": 110}),
        event("graph_kernel", 70, 2, "kernel", **{"External id": 9999}),
    ]
    reading = read_trace({"traceEvents": [*run(1, 0), *kernels]}, "test")
    by_name = {one.name: one for one in reading.layers}
    assert by_name["lm_head/linear"].times_ms == (0.007,)
    assert by_name["lm_head/linear"].tactic == "gemm_kernel"
    assert by_name["graph_kernel"].module is None
    assert any("no operator that launched them" in note for note in reading.notes)
    assert any("kernels on the GPU" in note for note in reading.notes)


def test_kernels_without_an_operator_belong_to_the_module_that_launched_them() -> None:
    """Triton launches through the driver: its kernels carry the launch's number and no operator's id."""
    launches = [
        event("cuLaunchKernelEx", 8.5, 1, "cuda_driver", correlation=5),  # in lm_head, after its product
        event("cudaLaunchKernel", 4.5, 1, "cuda_runtime", correlation=6),  # in the product
    ]
    kernels = [
        event("triton_matvec", 40, 3, "kernel", correlation=5),
        event("gemm", 50, 2, "kernel", correlation=6),
    ]
    reading = read_trace({"traceEvents": [*run(1, 0), *launches, *kernels]}, "test")
    by_tactic = {one.tactic: one for one in reading.layers if one.tactic}
    assert (by_tactic["triton_matvec"].module, by_tactic["triton_matvec"].kind) == ("lm_head", "matmul")
    assert by_tactic["triton_matvec"].times_ms == (0.003,)
    assert by_tactic["gemm"].name == "lm_head/linear"


def test_work_between_runs_is_not_counted() -> None:
    reading = read_trace({"traceEvents": [*run(1, 0), event("aten::randn", 50, 30), *run(2, 100)]}, "test")
    assert not any("randn" in one.name for one in reading.layers)


def test_a_trace_without_marks(tmp_path: Path) -> None:
    with torch.profiler.profile(record_shapes=True) as profiler:
        torch.nn.functional.linear(torch.ones(2, 8), torch.ones(4, 8))
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    result = explore(tmp_path / "trace.json")
    product = next(one for one in result.layers if one.kind == "matmul")
    assert product.weights_bytes == 4 * 8 * 4
    assert product.outputs[0].shape == (2, 4)
    assert any("marks no modules" in note for note in result.notes)


@pytest.mark.parametrize("odd", [{"ph": "X"}, {"ph": "X", "cat": "cpu_op", "args": 3}, 7, {"ph": "M", "name": "x"}])
def test_odd_events_are_passed_over(odd: Any) -> None:
    reading = read_trace(json.loads(json.dumps({"traceEvents": [odd, *run(1, 0)]})), "test")
    assert any(one.name == "lm_head/linear" for one in reading.layers)
