"""Cached attention for ONNX Runtime: one fused node where its kernel allows, standard ops otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...errors import BuildError
from ...network.ops import TENSORRT_DOMAIN
from ...specs import ModelConfig
from .graph_edits import MICROSOFT_DOMAIN, replace_node, take_over

HEAD_SIZE_MULTIPLE = 8
ROTATED_HEAD_SIZE_MULTIPLE = 16


def fusible(config: ModelConfig) -> bool:
    """Whether GroupQueryAttention takes heads of this model's size."""
    return config.head_width % (ROTATED_HEAD_SIZE_MULTIPLE if config.uses_rope else HEAD_SIZE_MULTIPLE) == 0


def lower_attention(graph: ir.Graph, config: ModelConfig, *, fused: bool) -> None:
    """Replace TensorRT's cache update and attention nodes.

    Parameters
    ----------
    graph
        The portable network.
    config
        The model.
    fused
        True makes one `GroupQueryAttention` of everything between the two projections: a decode step of GPT-2 124M is
        0.6 to 0.8 ms shorter. Its kernel takes several rows with several tokens each at the start of a sequence only;
        the executor runs other such batches row by row.
    """
    attentions = [node for node in graph if node.domain == TENSORRT_DOMAIN and node.op_type == "TRT_Attention"]
    lengths = _sequence_lengths(graph) if fused else None
    for node in attentions:
        found = _Attention.around(node)
        if lengths is not None:
            _fuse(found, graph, config, lengths)
        else:
            _use_standard_ops(found)


@dataclass(frozen=True)
class _Attention:
    """The nodes of one layer's attention in the portable network, found from its `TRT_Attention`."""

    node: ir.Node
    packed: ir.Value  # q, k and v of all heads, (B, T, (Hq + 2 Hkv) · D)
    unscaled_query: ir.Value
    scale: float
    rotary: ir.Node | None
    key_update: ir.Node
    value_update: ir.Node
    merged: ir.Node  # brings the heads together again

    @classmethod
    def around(cls, node: ir.Node) -> _Attention:
        query, key, value, _ = node.inputs
        multiply = _producer(query, "Mul")
        split = _producer(multiply.inputs[0], "Split")
        source, rotary = split.inputs[0], None
        if source is not None and (before := source.producer()) is not None and before.op_type == "RotaryEmbedding":
            rotary = before
            source = _producer(rotary.inputs[0], "Split").inputs[0]
        reshape = _producer(_producer(source, "Transpose").inputs[0], "Reshape")
        factor = _producer(multiply.inputs[1], "Constant").attributes["value"].as_tensor().numpy()
        (transpose,) = node.outputs[0].consumers()
        (merged,) = transpose.outputs[0].consumers()
        return cls(
            node=node,
            packed=_present(reshape.inputs[0]),
            unscaled_query=_present(multiply.inputs[0]),
            scale=float(factor),
            rotary=rotary,
            key_update=_producer(key, "TRT_KVCacheUpdate"),
            value_update=_producer(value, "TRT_KVCacheUpdate"),
            merged=merged,
        )


def _use_standard_ops(found: _Attention) -> None:
    """`TensorScatter` and `Attention`; the latter scales the queries itself, which saves a pass over them."""
    for update in (found.key_update, found.value_update):
        attributes: dict[str, int | str] = {"axis": 2, "mode": "linear"}
        name = update.name.replace(update.op_type, "TensorScatter")
        replace_node(update, ir.node("TensorScatter", list(update.inputs), attributes, name=name))
    node = found.node
    inputs = [found.unscaled_query, *node.inputs[1:]]
    name = node.name.replace(node.op_type, "Attention")
    replace_node(node, ir.node("Attention", inputs, {"scale": found.scale}, name=name))


def _fuse(found: _Attention, graph: ir.Graph, config: ModelConfig, lengths: tuple[ir.Value, ir.Value]) -> None:
    attributes: dict[str, int | float] = {
        "num_heads": config.num_attention_heads,
        "kv_num_heads": config.kv_heads,
        "scale": found.scale,
    }
    if config.sliding_window is not None:
        attributes["local_window_size"] = config.sliding_window
    inputs = [found.packed, None, None, found.key_update.inputs[0], found.value_update.inputs[0], *lengths]
    if found.rotary is not None:
        inputs += [graph.initializers["rotary_cos"], graph.initializers["rotary_sin"]]
        attributes |= {"do_rotary": 1, "rotary_interleaved": found.rotary.attributes["interleaved"].as_int()}
    node = ir.node(
        "GroupQueryAttention",
        inputs,
        attributes,
        domain=MICROSOFT_DOMAIN,
        num_outputs=3,
        name=found.node.name.replace(found.node.op_type, "GroupQueryAttention"),
    )
    graph.insert_before(found.node, node)
    replaced = (found.merged, found.key_update, found.value_update)
    for old, new in zip(replaced, node.outputs, strict=True):
        take_over(old.outputs[0], new, graph)


def _sequence_lengths(graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
    """Add nodes that count tokens once a step: of each row less one, and of the longest row, both int32."""
    write_indices = next(value for value in graph.inputs if value.name == "write_indices")
    tokens = graph.inputs[0]
    int32 = ir.DataType.INT32.value
    shape = ir.node("Shape", [tokens], {"start": 1, "end": 2}, name="lengths/Shape")  # (1,)
    total = ir.node("Add", [write_indices, shape.outputs[0]], name="lengths/Add")
    one = ir.node("Constant", [], {"value_ints": [1]}, name="lengths/Constant")
    less_one = ir.node("Sub", [total.outputs[0], one.outputs[0]], name="lengths/Sub")
    rows = ir.node("Cast", [less_one.outputs[0]], {"to": int32}, name="lengths/Cast")
    longest = ir.node("ReduceMax", [total.outputs[0]], {"keepdims": 0}, name="lengths/ReduceMax")
    longest_int32 = ir.node("Cast", [longest.outputs[0]], {"to": int32}, name="lengths/Cast_2")
    nodes = [shape, total, one, less_one, rows, longest, longest_int32]
    for node in nodes:
        node.outputs[0].name = f"{node.name}:0"
    graph.insert_before(next(iter(graph)), nodes)
    return rows.outputs[0], longest_int32.outputs[0]


def _present(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise _changed("an absent input")
    return value


def _producer(value: ir.Value | None, op_type: str) -> ir.Node:
    node = _present(value).producer()
    if node is None or node.op_type != op_type:
        raise _changed(f"{_present(value).name}, expected to come from {op_type},")
    return node


def _changed(what: str) -> BuildError:
    return BuildError(
        f"Attention cannot be lowered: {what} is not where it should be.",
        where="backends/onnxruntime/attention.py",
        remedy="The network was changed without its lowering: please report it.",
    )
