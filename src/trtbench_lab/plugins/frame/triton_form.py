"""The second form of a plugin: its Triton kernel, launched on a GPU or run by Triton's interpreter on a CPU."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from ...errors import SpecError
from .call import Attributes, Call, Launch, Operand

if TYPE_CHECKING:
    from types import ModuleType

    from .plugin import Plugin

INTERPRETER_CAPABILITY = 90
"""Compute capability that plans are told of where there is no GPU."""


@lru_cache(maxsize=1)
def has_triton() -> bool:
    """Whether Triton is installed (it exists for Linux)."""
    return importlib.util.find_spec("triton") is not None


@lru_cache
def kernel_module(name: str) -> ModuleType:
    """Import a kernel module: one of `plugins.kernels`, or a module's full name.

    Raises
    ------
    SpecError
        When Triton is not installed.
    """
    if not has_triton():
        raise SpecError(
            "Kernels of plugins need Triton, which is not installed.",
            where="plugins",
            remedy="On Linux: pip install 'trtbench-lab[gpu]'. Elsewhere the references run.",
        )
    return importlib.import_module(name if "." in name else f"trtbench_lab.plugins.kernels.{name}")


def kernel_function(plugin: Plugin, name: str) -> Any:
    """Return the Triton function `name` of the plugin's kernels: of a module, or of a given mapping."""
    if isinstance(plugin.kernels, str):
        return getattr(kernel_module(plugin.kernels), name)
    return plugin.kernels[name]


def launch(plugin: Plugin, tensors: Sequence[torch.Tensor], attributes: Attributes, tactic: int = 0) -> Any:
    """Run the kernel; results are a tensor or a tuple of tensors, of which some may be inputs changed in place."""
    tensors = _contiguous(plugin, tensors)
    operands = [_operand(tensor) for tensor in tensors]
    results = plugin.signature(operands, attributes)
    outputs = tuple(
        tensors[0].new_empty(result.shape, dtype=getattr(torch, result.dtype)) if at is None else tensors[at]
        for result, at in zip(results, plugin.aliased_inputs, strict=True)
    )
    _run(plugin, tensors, outputs, operands, results, attributes, tactic)
    return outputs if len(outputs) > 1 else outputs[0]


def launch_into(
    plugin: Plugin,
    tensors: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
    attributes: Attributes,
    tactic: int = 0,
) -> None:
    """Run the kernel into the caller's outputs."""
    tensors = _contiguous(plugin, tensors)
    operands = [_operand(tensor) for tensor in tensors]
    results = plugin.signature(operands, attributes)
    for name, tensor, result in zip(plugin.outputs, outputs, results, strict=True):
        if _operand(tensor) != result or not tensor.is_contiguous():
            raise SpecError(
                f"Output {name} is {_operand(tensor)} where {result} is written.", where=plugin.id, remedy="Make it so."
            )
    _run(plugin, tensors, tuple(outputs), operands, results, attributes, tactic)


def _run(
    plugin: Plugin,
    tensors: Sequence[torch.Tensor],
    outputs: tuple[torch.Tensor, ...],
    operands: Sequence[Operand],
    results: Sequence[Operand],
    attributes: Attributes,
    tactic: int,
) -> None:
    first = tensors[0]
    capability = _capability(first.device) if first.is_cuda else INTERPRETER_CAPABILITY
    plan = plugin.plan(Call(tuple(operands), tuple(results), attributes, capability, tactic))
    if any(size == 0 for size in plan.grid):  # nothing to do, and no launch has an empty grid
        return
    arguments = [*tensors, *plan.arguments.values(), *outputs]
    kernel = kernel_function(plugin, plan.kernel)
    if first.is_cuda:
        options = {"num_warps": plan.num_warps, "num_stages": plan.num_stages}
        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device(first.device):
            kernel[plan.grid](*arguments, **plan.constants, **options)
    else:
        from .interpreter import interpret

        interpret(kernel, plan.grid, arguments, plan.constants)


def _contiguous(plugin: Plugin, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    plugin.check_count(tensors)
    changed = set(plugin.aliases.values())
    for name, tensor in zip(plugin.inputs, tensors, strict=True):
        if name in changed and not tensor.is_contiguous():
            raise SpecError(
                f"{name} is changed in place and must be contiguous.",
                where=plugin.id,
                remedy="Pass the whole tensor rather than a view of it.",
            )
    return tuple(tensor.contiguous() for tensor in tensors)


def _operand(tensor: torch.Tensor) -> Operand:
    return Operand(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


@lru_cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


__all__ = ["Launch", "has_triton", "kernel_function", "kernel_module", "launch", "launch_into"]
