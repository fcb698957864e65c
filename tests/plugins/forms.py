"""Run one call of a plugin in each of its forms that a CPU can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trtbench_lab.plugins.frame import Call, CompiledKernel, Operand, Plugin, compile_kernel, one_node_model

Results = tuple[torch.Tensor, ...]

# Distance of neighbouring numbers of a type, relative to them; for float32 room for sums in another order.
ULP = {torch.float32: 2**-19, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def results_of(returned: Any) -> Results:
    """Return results as a tuple."""
    return tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)


def copies(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copy inputs: plugins may change some in place."""
    return [tensor.clone() for tensor in tensors]


def by_reference(plugin: Plugin, tensors: Sequence[torch.Tensor], attributes: Mapping[str, Any]) -> Results:
    """The definition."""
    own = copies(tensors)
    return results_of(plugin.with_aliases(own, plugin.reference(*own, **attributes)))


def by_torch_op(plugin: Plugin, tensors: Sequence[torch.Tensor], attributes: Mapping[str, Any]) -> Results:
    """The op of the torch library."""
    own = copies(tensors)
    return results_of(plugin.with_aliases(own, plugin.torch_op(*own, *plugin.ordered(attributes))))


def by_kernel(
    plugin: Plugin, tensors: Sequence[torch.Tensor], attributes: Mapping[str, Any], tactic: int = 0
) -> Results:
    """The Triton kernel: in the interpreter for tensors of the CPU."""
    return results_of(plugin.launch(*copies(tensors), tactic=tactic, **attributes))


def by_onnx_function(plugin: Plugin, tensors: Sequence[torch.Tensor], attributes: Mapping[str, Any]) -> Results:
    """A node with its function, on ONNX Runtime, carrying what TensorRT reads. Types: those that NumPy has."""
    import onnx
    import onnxruntime

    operands = [Operand(tuple(one.shape), str(one.dtype).removeprefix("torch.")) for one in tensors]
    model = one_node_model(plugin, operands, attributes)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in zip(plugin.inputs, tensors, strict=True)}
    return tuple(torch.from_numpy(np.asarray(one)) for one in session.run(None, feeds))


def compiled(
    plugin: Plugin,
    tensors: Sequence[torch.Tensor],
    attributes: Mapping[str, Any],
    capability: int = 90,
    tactic: int = 0,
) -> CompiledKernel:
    """The kernel as TensorRT would get it."""
    operands = tuple(Operand(tuple(one.shape), str(one.dtype).removeprefix("torch.")) for one in tensors)
    results = tuple(plugin.signature(operands, attributes))
    return compile_kernel(plugin, Call(operands, results, attributes, capability, tactic))


def assert_near(
    found: Results,
    expected: Results,
    ulps: float = 2,
    integer_steps: int = 1,
    scale: float = 1.0,
    rounded_to: torch.dtype | None = None,
) -> None:
    """Compare results: floats to `ulps` roundings, integers to steps.

    Roundings are relative, and absolute for numbers below `scale`; they are those of each result's own type, or of
    `rounded_to`, for results in float32 that come from narrower ones.
    """
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        if one.is_floating_point():
            near = ulps * max(ULP[one.dtype], ULP[rounded_to or one.dtype])
            torch.testing.assert_close(one.float(), other.float(), rtol=near, atol=near * scale)
        else:
            assert (one.int() - other.int()).abs().max() <= integer_steps
