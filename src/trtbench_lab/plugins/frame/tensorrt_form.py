"""The fourth form of a plugin: TensorRT's quickly deployable plugin, its kernel compiled from Triton.

`register_plugins` must run before TensorRT parses a network with their nodes. The engine then holds the kernels and
runs without Python.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .call import Call, Operand
from .compile import compile_kernel

if TYPE_CHECKING:
    from .plugin import Plugin

TRT_TYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "float8_e4m3fn": "FP8",
    "int8": "INT8",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
}
"""Torch's name of a type → member of ``tensorrt.DataType``."""

_registered: dict[tuple[Any, str], _Target] = {}


class _Target:
    """What the functions of one registered plugin look at: a later registration changes it, TensorRT keeps them."""

    def __init__(self, plugin: Plugin, compute_capability: int):
        self.plugin, self.compute_capability = plugin, compute_capability


def register_plugins(plugins: Iterable[Plugin], compute_capability: int, *, lazy: bool = False) -> None:
    """Make plugins known to TensorRT in this process.

    Parameters
    ----------
    plugins
        Which; one that is known already keeps its registration.
    compute_capability
        Of the GPU that engines are built for, as 90 for 9.0.
    lazy
        Leave TensorRT's plugin registry alone until a plugin is added by the network API. The ONNX parser finds only
        plugins that were registered at once.
    """
    import tensorrt.plugin as trtp

    for plugin in plugins:
        known = _registered.get((trtp, plugin.id))
        if known is None:
            target = _Target(plugin, compute_capability)
            _register(target, lazy)
            _registered[trtp, plugin.id] = target
        else:
            known.plugin, known.compute_capability = plugin, compute_capability


def _register(target: _Target, lazy: bool) -> None:
    import tensorrt as trt
    import tensorrt.plugin as trtp

    plugin = target.plugin
    tensors = [_parameter(name, trtp.TensorDesc) for name in plugin.inputs]
    attributes = [_parameter(name, kind) for name, kind in plugin.attributes.items()]
    description = trtp.TensorDesc if len(plugin.outputs) == 1 else tuple[(trtp.TensorDesc,) * len(plugin.outputs)]  # type: ignore[misc]
    outputs = _parameter("outputs", tuple[trtp.TensorDesc])
    kernel = tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]

    def describe(*arguments: Any, **named: Any) -> Any:
        inputs, values, _ = _parts(target.plugin, arguments, named)
        results = target.plugin.results([_operand(trt, one) for one in inputs], values)
        made = []
        for name, result in zip(target.plugin.outputs, results, strict=True):
            if name in target.plugin.aliases:
                made.append(inputs[target.plugin.inputs.index(target.plugin.aliases[name])].aliased())
            else:
                made.append(trtp.from_shape_expr(tuple(result.shape), getattr(trt.DataType, TRT_TYPES[result.dtype])))
        return made[0] if len(made) == 1 else tuple(made)

    def combinations(*arguments: Any, **named: Any) -> list[Any]:
        _, values, _ = _parts(target.plugin, arguments, named)
        tactics = list(target.plugin.tactics(values))
        return [
            trtp.AutoTuneCombination(", ".join(_format_name(one) for one in row), "LINEAR", tactics)
            for row in target.plugin.types
        ]

    def implement(*arguments: Any, **named: Any) -> Any:
        inputs, values, rest = _parts(target.plugin, arguments, named)
        results, tactic = rest
        call = Call(
            tuple(_operand(trt, one) for one in inputs),
            tuple(_operand(trt, one) for one in results),
            values,
            target.compute_capability,
            tactic or 0,
        )
        compiled = compile_kernel(target.plugin, call)
        grid = [*compiled.launch.grid, 1, 1][:3]
        launch = trtp.KernelLaunchParams(
            *grid, block_x=compiled.num_threads, block_y=1, block_z=1, shared_mem=compiled.shared_bytes
        )
        extras = trtp.SymIntExprs(len(compiled.launch.arguments))
        for position, value in enumerate(compiled.launch.arguments.values()):
            extras[position] = trtp.SymInt32(value)
        return compiled.name, compiled.ptx, launch, extras

    trtp.register(plugin.id, lazy_register=lazy)(_signed(describe, [*tensors, *attributes], description))
    trtp.autotune(plugin.id)(_signed(combinations, [*tensors, *attributes, outputs], list[trtp.AutoTuneCombination]))
    trtp.aot_impl(plugin.id)(_signed(implement, [*tensors, *attributes, outputs, _parameter("tactic", int)], kernel))


def _format_name(dtype: str) -> str:
    """TensorRT's autotune strings say FP32 and FP16 where its enum says FLOAT and HALF."""
    return {"FLOAT": "FP32", "HALF": "FP16"}.get(TRT_TYPES[dtype], TRT_TYPES[dtype])


def _operand(trt: Any, description: Any) -> Operand:
    """Shape and type of a `TensorDesc`; extents that are known become numbers."""
    names = {getattr(trt.DataType, name): dtype for dtype, name in TRT_TYPES.items()}
    shape = tuple(one if one.is_fake or not one.is_constant else one.constant_value() for one in description.shape_expr)
    return Operand(shape, names[description.dtype])


def _parts(
    plugin: Plugin, arguments: Sequence[Any], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...]]:
    """Tensors, attributes by name, and what follows; TensorRT passes attributes by name or by position."""
    count = len(plugin.inputs)
    inputs, rest = tuple(arguments[:count]), list(arguments[count:])
    values = {name: named[name] if name in named else rest.pop(0) for name in plugin.attributes}
    return inputs, values, tuple(rest)


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)


def _signed(function: Any, parameters: list[inspect.Parameter], result: Any) -> Any:
    """Give a function the signature that TensorRT reads."""
    function.__signature__ = inspect.Signature(parameters, return_annotation=result)
    return function
