"""The rules of `onnx_lint`, a function each: what TensorRT's importer of one op demands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

INT4_BLOCKS = (64, 128)
_INT32_MAX = 2**31 - 1
_CACHE_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Finding:
    """One thing that TensorRT's parser refuses or misreads.

    Attributes
    ----------
    rule
        Short name of the rule.
    where
        The node or tensor.
    message, remedy
        What is wrong; what to do.
    """

    rule: str
    where: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.rule}]"


@dataclass(frozen=True)
class TensorInfo:
    """Type (ONNX's number) and shape (None where unknown) of a tensor."""

    dtype: int
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Site:
    """What is known where a node stands.

    Attributes
    ----------
    inputs, outputs
        Names of the network's inputs and outputs.
    constants
        Names of initializers and results of Constant.
    known
        Types and shapes.
    fixed_capacity
        Whether caches must have a constant length.
    """

    inputs: set[str]
    outputs: set[str]
    constants: set[str]
    known: Mapping[str, TensorInfo]
    fixed_capacity: bool


def check_node(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    """Yield what is wrong with one node."""
    if node.domain == "com.microsoft":
        yield Finding(
            "domain",
            node.name,
            f"com.microsoft::{node.op_type} belongs to ONNX Runtime",
            "Write the portable network, before it is lowered for ONNX Runtime.",
        )
    if node.op_type in ("DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul"):
        yield Finding(
            "unsupported op",
            node.name,
            f"{node.op_type} has no importer",
            "Use QuantizeLinear and DequantizeLinear around MatMul.",
        )
    rule = _RULES.get(node.op_type)
    if rule is not None:
        yield from rule(node, site)


def check_plugin_attributes(node: onnx.NodeProto) -> Iterator[Finding]:
    """Integer attributes of plugins are cut to 32 bits."""
    for attribute in node.attribute:
        integers = [attribute.i, *attribute.ints]
        if any(abs(value) > _INT32_MAX for value in integers):
            yield Finding(
                "plugin",
                node.name,
                f"attribute {attribute.name} does not fit into 32 bits",
                "Pass it as an input, or as two attributes.",
            )


def _attention(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    given = [bool(name) for name in node.input] + [False] * 7
    attributes = _attributes(node)
    remedy = "Use TRT_Attention with an explicit mask and TRT_KVCacheUpdate."
    if given[4] or given[5]:
        yield Finding("attention", node.name, "Attention with past_key or past_value is refused", remedy)
    if given[6]:
        yield Finding("attention", node.name, "nonpad_kv_seqlen is ignored: keys past the length would be seen", remedy)
    if sum(bool(name) for name in node.output) != 1:
        yield Finding("attention", node.name, "Attention gives exactly one output", remedy)
    if attributes.get("is_causal"):
        what = "is_causal together with a mask is refused" if given[3] else "is_causal is aligned to the upper left"
        yield Finding("attention", node.name, what, remedy)
    if attributes.get("softcap") or "softmax_precision" in attributes:
        yield Finding("attention", node.name, "softcap and softmax_precision are refused", remedy)


def _trt_attention(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    given = [bool(name) for name in node.input] + [False] * 6
    attributes = _attributes(node)
    kind = attributes.get("causal_kind", b"none")
    if kind not in (b"none", b"upper_left", b"lower_right"):
        yield Finding(
            "attention", node.name, f"causal_kind {kind!r} does not exist", "Use none, upper_left or lower_right."
        )
    if given[3] and kind != b"none":
        yield Finding(
            "attention", node.name, "a mask and causal_kind exclude each other", "Put causality into the mask."
        )
    if {"scale", "is_causal"} & attributes.keys():
        yield Finding(
            "attention",
            node.name,
            "scale and is_causal are TensorRT 11.0's attributes",
            "Scale the query before the node.",
        )
    if given[5]:
        yield Finding(
            "attention",
            node.name,
            "key lengths read the cache's unused tail on TensorRT 11.1 and 11.2",
            "Mask explicitly.",
        )
    ranks = {len(info.shape) for name in node.input[:3] if (info := site.known.get(name)) and info.shape is not None}
    if len(ranks) > 1:
        yield Finding("attention", node.name, "query, key and value differ in rank", "Bring all to (B, H, T, D).")


def _cache_update(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    past, result = node.input[0], node.output[0]
    attributes = _attributes(node)
    if past not in site.inputs:
        yield Finding(
            "cache", node.name, f"the cache {past!r} is not an input of the network", "Update the input itself."
        )
    if result not in site.outputs:
        yield Finding(
            "cache", node.name, f"the result {result!r} is not an output of the network", "Make it an output."
        )
    if attributes.get("axis", -2) not in (2, -2):
        yield Finding("cache", node.name, "tokens must lie along axis -2", "Keep the cache as (B, H, S, D).")
    if attributes.get("mode", b"linear") != b"linear":
        yield Finding("cache", node.name, "only mode linear exists", "Use mode linear.")
    info = site.known.get(past)
    if info is None:
        return
    if info.dtype not in _CACHE_TYPES:
        yield Finding("cache", node.name, "caches are float32, float16 or bfloat16", "Use one of these types.")
    if info.shape is not None and len(info.shape) != 4:
        yield Finding("cache", node.name, "the cache must have four dimensions", "Keep it as (B, H, S, D).")
    elif info.shape is not None and site.fixed_capacity and info.shape[2] is None:
        yield Finding("cache", node.name, "the cache's length is not a constant", "Export with a capacity.")


def _rotary_embedding(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    if len(node.input) > 3 and not node.input[3]:
        yield Finding("rotary", node.name, "an empty fourth input crashes the importer", "Leave the input out.")
    info = site.known.get(node.input[0])
    if info and info.shape is not None and len(info.shape) == 3 and not _attributes(node).get("num_heads"):
        yield Finding("rotary", node.name, "num_heads is needed for three dimensions", "Set num_heads.")


def _layer_normalization(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    if sum(bool(name) for name in node.output) != 1:
        yield Finding("outputs", node.name, "LayerNormalization gives one output", "Compute mean and deviation apart.")


def _quantize(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    data, scale = site.known.get(node.input[0]), site.known.get(node.input[1])
    if data is None:
        return
    if data.dtype in (TensorProto.UINT4, TensorProto.UINT8, TensorProto.UINT16, TensorProto.INT16):
        yield Finding(
            "quantization", node.name, "only signed, symmetric 4- and 8-bit integers are read", "Use INT4 or INT8."
        )
    if len(node.input) > 2 and node.input[2] and node.input[2] not in site.constants:
        yield Finding("quantization", node.name, "zero points must be constant zeros", "Leave the zero point out.")
    if data.dtype != TensorProto.INT4 and data.dtype != TensorProto.INT8:
        return
    if scale is None or scale.shape is None or data.shape is None:
        return
    if None in data.shape or None in scale.shape:
        return
    yield from _granularity(node, data, tuple(scale.shape), site)


def _granularity(node: onnx.NodeProto, data: TensorInfo, scale: tuple[Any, ...], site: Site) -> Iterator[Finding]:
    """The parser infers blocks from the scale's shape and reads no block_size."""
    shape: tuple[Any, ...] = data.shape or ()
    blocked = len(scale) == len(shape) and len(scale) > 1
    if data.dtype == TensorProto.INT8:
        if blocked:
            yield Finding(
                "quantization", node.name, "INT8 has no blocks, only tensors and channels", "Use rows as channels."
            )
        elif len(scale) == 1 and scale[0] not in (1, shape[_attributes(node).get("axis", 1)]):
            yield Finding(
                "quantization", node.name, f"{scale[0]} scales do not fit shape {shape}", "One scale a channel."
            )
        return
    if node.input[0] not in site.constants:
        yield Finding("quantization", node.name, "INT4 is for weights only", "Dequantize an initializer.")
    if shape and shape[-1] % 2:
        yield Finding("quantization", node.name, "an odd number of 4-bit elements", "Pad the last dimension.")
    differing = [i for i, (size, count) in enumerate(zip(shape, scale, strict=False)) if size != count]
    if not blocked or len(differing) != 1:
        yield Finding(
            "quantization", node.name, "INT4 needs a scale for each block of one dimension", "Quantize in blocks."
        )
        return
    size, count = shape[differing[0]], scale[differing[0]]
    if not count or size % count or size // count not in INT4_BLOCKS:
        yield Finding(
            "quantization",
            node.name,
            f"{count} scales for {size} 4-bit elements: blocks must have 64 or 128",
            "Quantize with a group size of 64 or 128.",
        )


_RULES: dict[str, Callable[[onnx.NodeProto, Site], Iterator[Finding]]] = {
    "Attention": _attention,
    "TRT_Attention": _trt_attention,
    "TensorScatter": _cache_update,
    "TRT_KVCacheUpdate": _cache_update,
    "RotaryEmbedding": _rotary_embedding,
    "LayerNormalization": _layer_normalization,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _quantize,
}


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
