"""Rules of `onnx_lint` for quantization: which types, granularities and scales TensorRT's importer reads."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import onnx
from onnx import TensorProto

from .onnx_lint_rules import Finding, Rule, Site, attributes_of, given

INT4_BLOCKS = (64, 128)
FP4_BLOCK, MXFP8_BLOCK = 16, 32
_QUANTIZED = (TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.FLOAT4E2M1)
_SCALES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_FOUR_BITS = (TensorProto.INT4, TensorProto.FLOAT4E2M1)


def _quantize(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    attributes = attributes_of(node)
    zero_type = site.dtype(given(node, 2))
    if not given(node, 2) and not attributes.get("output_dtype"):
        yield _fault(
            node,
            "without a zero point or output_dtype ONNX gives UINT8, and TensorRT INT8",
            "Give a zero point of INT8, or output_dtype.",
        )
    stored = zero_type or attributes.get("output_dtype") or TensorProto.INT8
    yield from _types_and_zero(node, site, stored)
    data, scale = site.dtype(node.input[0]), site.dtype(node.input[1])
    if site.opset >= 19 and None not in (data, scale) and data != scale:
        yield _fault(node, "from opset 19 on the scale has the data's type", "Cast the scale.")
    yield from _granularity(node, site, stored)


def _dequantize(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    stored = site.dtype(node.input[0])
    if stored is None:
        stored = site.dtype(given(node, 2))
    if stored is None:
        return
    yield from _types_and_zero(node, site, stored)
    yield from _granularity(node, site, stored)


def _types_and_zero(node: onnx.NodeProto, site: Site, stored: int) -> Iterator[Finding]:
    if stored not in _QUANTIZED:
        yield _fault(
            node, "only signed, symmetric 4- and 8-bit integers, FP8 (E4M3) and FP4 are read", "Use INT4, INT8 or FP8."
        )
    zero, zero_type = given(node, 2), site.dtype(given(node, 2))
    if zero and zero not in site.constants:
        yield _fault(node, "zero points must be constant zeros", "Leave the zero point out.")
    values = site.values(zero) if zero else None
    if values is not None and np.any(values.astype(np.float32) != 0):
        yield _fault(node, "zero points other than 0 are refused: quantization is symmetric", "Quantize symmetrically.")
    if zero_type is not None and zero_type != stored and stored in _QUANTIZED:
        yield _fault(node, "the zero point decides the type, and it is not the data's", "Give it the data's type.")
    yield from _scale(node, site)


def _scale(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    name = node.input[1]
    dtype = site.dtype(name)
    if dtype is not None and dtype not in _SCALES and dtype != TensorProto.FLOAT8E8M0:
        yield _fault(node, "scales are float32, float16 or bfloat16", "Cast them.")
    values = site.values(name)
    if values is not None and values.dtype.kind == "f" and not np.all(values > 0):
        yield _fault(node, "constant scales must be above 0", "Clamp the scales of blocks that are all zero.")


def _granularity(node: onnx.NodeProto, site: Site, stored: int) -> Iterator[Finding]:
    """The parser infers blocks from the scale's shape and reads no block_size."""
    found_shape, found_scale = site.shape(node.input[0]), site.shape(node.input[1])
    if found_scale is None or found_shape is None or stored not in _QUANTIZED:
        return
    constant = node.input[0] in site.constants
    if stored == TensorProto.INT4 and not constant:
        yield _fault(node, "INT4 is for weights only", "Dequantize an initializer.")
    if len(found_scale) > 0 and not constant and not (len(found_scale) == 1 and found_scale[0] == 1):
        if stored != TensorProto.INT4:
            yield _fault(node, "activations have one scale, not one a channel or token", "Use one, or a plugin.")
        return
    if None in found_shape or None in found_scale:
        return
    shape = tuple(int(size or 0) for size in found_shape)
    scale = tuple(int(size or 0) for size in found_scale)
    if stored in _FOUR_BITS and prod(shape) % 2:
        yield _fault(node, "an odd number of 4-bit elements", "Pad the last dimension.")
    blocked = len(scale) == len(shape) and len(scale) > 1
    if not blocked:
        yield from _whole_or_channels(node, stored, shape, scale)
    elif stored == TensorProto.INT8:
        yield _fault(node, "INT8 has no blocks, only tensors and channels", "Use rows as channels.")
    else:
        yield from _blocks(node, stored, shape, scale)


def _whole_or_channels(
    node: onnx.NodeProto, stored: int, shape: tuple[int, ...], scale: tuple[int, ...]
) -> Iterator[Finding]:
    if stored in _FOUR_BITS:
        name = "INT4" if stored == TensorProto.INT4 else "FP4"
        yield _fault(node, f"{name} needs a scale for each block of one dimension", "Quantize in blocks.")
        return
    if prod(scale) == 1:
        return
    axis = attributes_of(node).get("axis", 1)
    if len(scale) != 1:
        yield _fault(node, f"scales of shape {scale} fit no form", "Give one scale, one a channel, or one a block.")
    elif not -len(shape) <= axis < len(shape) or scale[0] != shape[axis]:
        yield _fault(node, f"{scale[0]} scales do not fit shape {shape}", "One scale a channel.")


def _blocks(node: onnx.NodeProto, stored: int, shape: tuple[int, ...], scale: tuple[int, ...]) -> Iterator[Finding]:
    differing = [position for position, (size, count) in enumerate(zip(shape, scale, strict=True)) if size != count]
    if len(differing) != 1:
        yield _fault(node, "there must be a scale for each block of one dimension", "Quantize blocks of one dimension.")
        return
    axis = differing[0]
    size, count = shape[axis], scale[axis]
    if not count or size % count:
        yield _fault(node, f"{count} scales do not divide {size} elements", "Use a block size that divides them.")
        return
    if axis < len(shape) - 2:
        yield _fault(node, "blocks lie in one of the last two dimensions", "Transpose the weight.")
    allowed = {TensorProto.INT4: INT4_BLOCKS, TensorProto.FLOAT4E2M1: (FP4_BLOCK,)}.get(stored)
    if allowed and size // count not in allowed:
        bits = "4-bit" if stored == TensorProto.INT4 else "FP4"
        words = " or ".join(map(str, allowed))
        remedy = f"Quantize with a group size of {words}."
        yield _fault(node, f"{count} scales for {size} {bits} elements: blocks must have {words}", remedy)


def _mxfp8(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    attributes = attributes_of(node)
    if attributes.get("axis", -1) != -1 or attributes.get("block_size", MXFP8_BLOCK) != MXFP8_BLOCK:
        yield _fault(node, "MXFP8 has blocks of 32 along the last dimension", "Set axis -1 and block_size 32.")


def _fp4(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    if attributes_of(node).get("block_size", FP4_BLOCK) != FP4_BLOCK:
        yield _fault(node, "FP4 has blocks of 16", "Set block_size to 16.")
    if given(node, 1) not in site.constants:
        yield _fault(node, "the second scale must be a constant", "Make it a scalar initializer.")


def _fault(node: onnx.NodeProto, message: str, remedy: str) -> Finding:
    return Finding("quantization", node.name, message, remedy)


QUANTIZATION_RULES: dict[str, Rule] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "TRT_MXFP8DynamicQuantize": _mxfp8,
    "TRT_FP4DynamicQuantize": _fp4,
}
