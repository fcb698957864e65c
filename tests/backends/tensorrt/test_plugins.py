"""The plugins' TensorRT form over the real bindings: what TensorRT calls while it builds an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.plugins.cases import PLUGINS, attributes, inputs
from tests.plugins.gpt_attention.calls import attention_inputs, update_call
from tests.plugins.gpt_attention.calls import sizes as sizes_of_attention
from tests.plugins.gpt_attention.cases import make_batch
from tests.plugins.matmul.test_plugins import inputs as matrix_inputs

from trtbench_lab.errors import BuildError
from trtbench_lab.plugins.frame import Call, Operand, Plugin, register_plugins
from trtbench_lab.plugins.frame.ptx import parse_entry
from trtbench_lab.plugins.frame.tensorrt_form import TRT_TYPES
from trtbench_lab.plugins.gpt_attention import ATTENTION, COMBINE, SPLIT_ATTENTION, AttentionShape
from trtbench_lab.plugins.gpt_attention.plans import split_tile
from trtbench_lab.plugins.matmul.plugins import PLUGINS as MATRIX_PLUGINS
from trtbench_lab.plugins.registry import all_plugins

ROWS = 5
"""What the dynamic dimension is when a test evaluates an expression."""


class Expression:
    """A stand-in for ``IDimensionExpr``: a number, or a function of the dynamic dimension."""

    def __init__(self, value: int | None, evaluate: Callable[[int], int]):
        self.value, self.evaluate = value, evaluate

    def is_constant(self) -> bool:
        return self.value is not None

    def get_constant_value(self) -> int:
        assert self.value is not None
        return self.value


def constant(value: int) -> Expression:
    return Expression(value, lambda rows: value)


class Builder:
    """A stand-in for ``IExprBuilder``."""

    def __init__(self, trt: Any, symbol: type):
        kinds = trt.DimensionOperation
        self.symbol = symbol
        self.operations: dict[Any, Callable[[int, int], int]] = {
            kinds.SUM: lambda a, b: a + b,
            kinds.SUB: lambda a, b: a - b,
            kinds.PROD: lambda a, b: a * b,
            kinds.FLOOR_DIV: lambda a, b: a // b,
            kinds.CEIL_DIV: lambda a, b: -(-a // b),
            kinds.MAX: max,
            kinds.MIN: min,
        }

    def constant(self, value: int) -> Expression:
        return constant(value)

    def operation(self, kind: Any, first: Expression, second: Expression) -> Any:
        compute = self.operations[kind]
        value = None
        if first.value is not None and second.value is not None:
            value = compute(first.value, second.value)
        made = self.symbol()
        made._int_expr = Expression(value, lambda rows: compute(first.evaluate(rows), second.evaluate(rows)))
        return made


@pytest.fixture
def build(real_tensorrt: Any) -> Iterator[Any]:
    """TensorRT in the middle of a build: expressions can be made."""
    from tensorrt_bindings.plugin._tensor import SymIntExpr

    SymIntExpr._exprBuilder = Builder(real_tensorrt, SymIntExpr)
    yield real_tensorrt
    SymIntExpr._exprBuilder = None


def description(trt: Any, tensor: torch.Tensor, dynamic: bool, own_size: bool = False) -> Any:
    """Describe a tensor whose first dimension is dynamic (TensorRT's own classes); it comes to `ROWS`, or to its own
    size."""
    import tensorrt.plugin as trtp

    shape = [trtp.ShapeExpr(size) for size in tensor.shape]
    if dynamic:
        size = int(tensor.shape[0])
        shape[0]._int_expr = Expression(None, lambda rows: size if own_size else rows)
    dtype = getattr(trt.DataType, TRT_TYPES[str(tensor.dtype).removeprefix("torch.")])
    described = trtp.from_shape_expr(tuple(shape), dtype)
    described._immutable = True
    return described


def registered(plugin: Plugin, capability: int = 90) -> Any:
    from tensorrt_bindings.plugin._lib import QDP_REGISTRY

    register_plugins([plugin], capability, lazy=True)
    return QDP_REGISTRY[plugin.id]


def sizes(shape: Any) -> list[int]:
    return [size._expr.evaluate(ROWS) for size in shape]


@pytest.mark.parametrize("name", list(PLUGINS))
def test_build_gets_shapes_types_and_the_kernel(build: Any, name: str):
    import tensorrt.plugin as trtp

    plugin, values = PLUGINS[name], attributes(PLUGINS[name])
    tensors = inputs(plugin, (ROWS, 3, 48), torch.float16)
    definition = registered(plugin)
    weights = {"weight", "bias", "scale", "table"}
    described = [
        description(build, tensor, label not in weights) for label, tensor in zip(plugin.inputs, tensors, strict=True)
    ]
    made = definition.register_func(*described, **values)
    outputs = made if isinstance(made, tuple) else (made,)
    expected = plugin.signature(
        [Operand(tuple(one.shape), str(one.dtype).removeprefix("torch.")) for one in tensors], values
    )
    assert len(outputs) == definition.num_outputs == len(expected)
    for one, other in zip(outputs, expected, strict=True):
        assert sizes(one.shape_expr) == list(other.shape)
        assert one.dtype == getattr(build.DataType, TRT_TYPES[other.dtype])

    ordered = plugin.ordered(values)
    kernel_name, ptx, launch, extras = definition.aot_impl_func(*described, *ordered, list(outputs), 0)
    assert isinstance(launch, trtp.KernelLaunchParams)
    assert isinstance(extras, trtp.SymIntExprs)
    plan = plugin.plan(Call(tuple(Operand(tuple(t.shape), str(t.dtype)[6:]) for t in tensors), expected, values, 90))
    grid = [int(launch.__dict__[f"grid_{axis}"]._expr.evaluate(ROWS)) for axis in "xyz"]
    assert grid == [*plan.grid, 1, 1][:3]
    assert [one._expr.evaluate(ROWS) for one in extras] == list(plan.arguments.values())
    assert all(isinstance(one, trtp.SymInt32) for one in extras)
    entry = parse_entry(ptx)
    assert entry.name == kernel_name
    assert entry.types == ["u64"] * len(tensors) + ["u32"] * len(extras) + ["u64"] * len(outputs)


def attention_cases() -> list[tuple[Plugin, list[torch.Tensor], dict[str, Any]]]:
    """One step of each attention plugin over an FP16 cache; updates of more than 128 tokens, since plans of numbers
    take another tile below, and plans of expressions have one."""
    rows = [(20, 1), (31, 1)]
    batch = make_batch(AttentionShape(4, 2, 64, 64, 64), rows, dtype=torch.float16)
    long = [make_batch(AttentionShape(4, 2, 64, 64, rotary), [(0, 150)], dtype=torch.float16) for rotary in (64, 0)]
    query, cache = batch.query(), batch.kv_cache
    rest = attention_inputs(batch, query, cache)
    attention = {**sizes_of_attention(batch), "window": 0}
    parts = [torch.empty(2, 4, 2, 64), torch.empty(2, 4, 2), batch.token_rows, query]
    combined = {"num_heads": 4, "head_size": 64, "splits": 2}
    return [
        *(update_call(one) for one in long),
        (ATTENTION, rest, attention),
        (SPLIT_ATTENTION, rest, {**attention, "splits": 2, "tile": split_tile(batch.shape, "float16")}),
        (COMBINE, parts, combined),
    ]


def matrix_cases() -> list[tuple[Plugin, list[torch.Tensor], dict[str, Any]]]:
    return [(plugin, *matrix_inputs(plugin, (ROWS, 3, 128), 64, torch.float16)) for plugin in MATRIX_PLUGINS]


CONSTANT = {"weight", "bias", "scale", "zero", "pre_scale", "weight_scale", "input_scale", "cos", "sin", "kv_scale"}


@pytest.mark.parametrize("case", [*attention_cases(), *matrix_cases()], ids=lambda case: case[0].name)
def test_build_gets_kernels_of_attention_and_products(build: Any, case: Any):
    plugin, tensors, values = case
    definition = registered(plugin)
    described = [
        description(build, tensor, label not in CONSTANT, own_size=True)
        for label, tensor in zip(plugin.inputs, tensors, strict=True)
    ]
    made = definition.register_func(*described, **values)
    outputs = made if isinstance(made, tuple) else (made,)
    operands = [Operand(tuple(one.shape), str(one.dtype).removeprefix("torch.")) for one in tensors]
    expected = plugin.signature(operands, values)
    for one, other in zip(outputs, expected, strict=True):
        assert sizes(one.shape_expr) == list(other.shape)
        assert one.dtype == getattr(build.DataType, TRT_TYPES[other.dtype])
    tactic = [*plugin.tactics(values), 0][0]
    kernel_name, ptx, launch, extras = definition.aot_impl_func(
        *described, *plugin.ordered(values), list(outputs), tactic
    )
    plan = plugin.plan(Call(tuple(operands), expected, values, 90, tactic))
    grid = [int(launch.__dict__[f"grid_{axis}"]._expr.evaluate(ROWS)) for axis in "xyz"]
    assert grid == [*plan.grid, 1, 1][:3]
    assert [one._expr.evaluate(ROWS) for one in extras] == list(plan.arguments.values())
    entry = parse_entry(ptx)
    assert entry.name == kernel_name
    assert entry.types == ["u64"] * len(tensors) + ["u32"] * len(extras) + ["u64"] * len(outputs)


@pytest.mark.parametrize("name", list(all_plugins()))
def test_every_plugin_is_taken_by_the_bindings(build: Any, name: str):
    plugin = all_plugins()[name]
    definition = registered(plugin)
    assert definition.num_outputs == len(plugin.outputs)
    assert definition.input_tensor_names == list(plugin.inputs)
    assert definition.aot_impl_attr_names == definition.autotune_attr_names == list(plugin.attributes)
    values = [kind(1) for kind in plugin.attributes.values()]
    combinations = definition.autotune_func(*[None] * len(plugin.inputs), *values, [None] * len(plugin.outputs))
    offered = [tuple(one.types) for row in combinations for one in row._get_combinations()]
    assert offered == [tuple(getattr(build.DataType, TRT_TYPES[one]) for one in row) for row in plugin.types]


@pytest.mark.parametrize("name", ["add_rms_norm", "lookup", "quantize_per_token"])
def test_types_are_known_before_shapes_are(real_tensorrt: Any, name: str):
    """TensorRT asks for output types first, with shapes that are nothing but names; this is its own template class."""
    from tensorrt_bindings.plugin._plugin_class import _TemplateAOTPlugin

    plugin = PLUGINS[name]
    definition = registered(plugin)
    instance = _TemplateAOTPlugin(plugin.op_type, "trtbench", definition.num_outputs)
    instance.init(
        definition.register_func,
        attributes(plugin),
        definition.aot_impl_attr_names,
        definition.aot_impl_func,
        definition.autotune_attr_names,
        definition.autotune_func,
    )
    row = [getattr(real_tensorrt.DataType, TRT_TYPES[one]) for one in plugin.types[0]]
    tensors = inputs(plugin, (2, 3, 8), torch.float16)
    types = instance.get_output_data_types(row[: len(tensors)], [tensor.dim() for tensor in tensors])
    assert types == row[len(tensors) :]
    assert [instance.get_aliased_input(one) for one in range(len(types))] == [-1] * len(types)


def test_output_in_place_of_an_input_is_declared_so(build: Any):
    plugin = Plugin(
        name="test_in_place",
        op_type="TestInPlace",
        inputs=("cache", "x"),
        outputs=("cache_out",),
        attributes={},
        types=(("float16", "float16", "float16"),),
        reference=lambda cache, x: cache.add_(x) and (),
        results=lambda operands, attributes: (operands[0],),
        plan=lambda call: None,
        kernels="norms",
        onnx_body="cache_out = Add (cache, x)",
        switches=(),
        replaces="a sum",
        aliases={"cache_out": "cache"},
    )
    described = [description(build, torch.zeros(2, 3, dtype=torch.float16), False) for _ in range(2)]
    made = registered(plugin).register_func(*described)
    assert made.get_aliased() is described[0]


def test_dynamic_width_is_refused_with_a_sentence(build: Any):
    plugin = PLUGINS["rms_norm"]
    described = [description(build, torch.zeros(8, dtype=torch.float16), True) for _ in range(2)]
    with pytest.raises(BuildError, match="must be a constant"):
        registered(plugin).aot_impl_func(*described, 1e-5, described[:1], 0)


def test_second_registration_changes_the_target_only(build: Any):
    plugin = PLUGINS["rms_norm"]
    tensors = [torch.zeros(2, 64, dtype=torch.float16), torch.zeros(64, dtype=torch.float16)]
    described = [description(build, tensor, False) for tensor in tensors]
    definition = registered(plugin, 80)
    _, ptx, _, _ = definition.aot_impl_func(*described, 1e-5, described[:1], 0)
    assert ".target sm_80" in ptx
    assert registered(plugin, 90) is definition
    _, ptx, _, _ = definition.aot_impl_func(*described, 1e-5, described[:1], 0)
    assert ".target sm_90" in ptx
