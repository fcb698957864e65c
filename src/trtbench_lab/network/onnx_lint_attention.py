"""Rules of `onnx_lint` for attention, caches and experts: ONNX's ops and TensorRT's own."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from .onnx_lint_rules import Finding, Rule, Site, attributes_of, given

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_FORMS = (b"padded_bhnd", b"packed_nhd")
_OWN = "Use TRT_Attention with an explicit mask and TRT_KVCacheUpdate."


def _attention(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    attributes = attributes_of(node)
    if given(node, 4) or given(node, 5):
        yield _fault(node, "Attention with past_key or past_value is refused", _OWN)
    if given(node, 6):
        yield _fault(node, "nonpad_kv_seqlen is ignored: keys past the length would be seen", _OWN)
    if sum(bool(name) for name in node.output) != 1:
        yield _fault(node, "Attention gives exactly one output", _OWN)
    if attributes.get("is_causal"):
        masked = bool(given(node, 3))
        what = "together with a mask is refused" if masked else "is aligned to the upper left"
        yield _fault(node, f"is_causal {what}", _OWN)
    if attributes.get("softcap") or "softmax_precision" in attributes:
        yield _fault(node, "softcap and softmax_precision are refused", _OWN)
    yield from _ranks(node, site)
    ranks = {len(shape) for name in node.input[:3] if (shape := site.shape(name)) is not None}
    if ranks == {3} and not (attributes.get("q_num_heads") and attributes.get("kv_num_heads")):
        yield _fault(node, "three dimensions need q_num_heads and kv_num_heads", "Set both, or use (B, H, T, D).")
    yield from _mask_and_normalization(node, site)


def _trt_attention(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    attributes = attributes_of(node)
    kind = attributes.get("causal_kind", b"none")
    if kind not in (b"none", b"upper_left", b"lower_right"):
        yield _fault(node, f"causal_kind {kind!r} does not exist", "Use none, upper_left or lower_right.")
    if given(node, 3) and kind != b"none":
        yield _fault(node, "a mask and causal_kind exclude each other", "Put causality into the mask.")
    if {"scale", "is_causal"} & attributes.keys():
        yield _fault(node, "scale and is_causal are TensorRT 11.0's attributes", "Scale the query before the node.")
    if len(node.input) > 6:
        yield _fault(node, "lengths are inputs 4 and 5 from TensorRT 11.1 on", "Move them there.")
    query_form, kv_form = attributes.get("query_form", _FORMS[0]), attributes.get("kv_form", _FORMS[0])
    for name, form in (("query_form", query_form), ("kv_form", kv_form)):
        if form not in _FORMS:
            yield _fault(node, f"{name} {form!r} does not exist", "Use padded_bhnd or packed_nhd.")
    if given(node, 5) and kv_form == _FORMS[0]:
        yield _fault(node, "key lengths read the cache's unused tail on TensorRT 11.1 and 11.2", "Mask explicitly.")
    if query_form == _FORMS[1] and not given(node, 4):
        yield _fault(node, "packed queries need query_lengths", "Give the running sums of the lengths, int32 (B + 1,).")
    if kv_form == _FORMS[1] and not given(node, 5):
        yield _fault(node, "packed keys need their lengths", "Give the running sums of the lengths, int32 (B + 1,).")
    if query_form == kv_form:
        yield from _ranks(node, site)
    yield from _float_data(node, site)
    yield from _mask_and_normalization(node, site)


def _quantized_attention(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    if len(node.input) != 5 or not given(node, 4):
        yield _fault(node, "exactly five inputs are taken: Q, K, V, the mask or nothing, the scale", "Wire five.")
    wanted = (TensorProto.FLOAT8E4M3FN, TensorProto.INT8)
    if attributes_of(node).get("normalization_quantize_to_type", wanted[0]) not in wanted:
        yield _fault(node, "normalization_quantize_to_type is FP8 (E4M3) or INT8", "Use one of them.")
    for name in node.input[:3]:
        shape = site.shape(name)
        if shape is not None and len(shape) != 4:
            yield _fault(node, "Q, K and V have four dimensions", "Bring all to (B, H, T, D).")
            return


def _experts(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    if len(node.input) < 6 or not all(node.input[:6]):
        yield _fault(node, "six inputs are needed: hidden, experts, scores, gate, up and down weights", "Wire them.")
        return
    biases = [bool(given(node, position)) for position in (6, 7, 8)]
    if any(biases) and not all(biases):
        yield _fault(node, "either all three biases are given or none", "Give zeros for the missing ones.")
    if site.dtype(node.input[1]) not in (None, TensorProto.INT32):
        yield _fault(node, "the chosen experts are int32", "Cast them.")
    if attributes_of(node).get("activation_type", 0) not in (0, 1):
        yield _fault(node, "activation_type is 0 (none) or 1 (SiLU)", "Set it to 1.")
    if "activation_type" not in attributes_of(node):
        yield _fault(node, "without activation_type nothing is activated", "Set activation_type to 1 for SiLU.")


def _cache_update(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    past, result = node.input[0], node.output[0]
    attributes = attributes_of(node)
    if past not in site.inputs:
        yield _cache(node, f"the cache {past!r} is not an input of the network", "Update the input itself.")
    if result not in site.outputs:
        yield _cache(node, f"the result {result!r} is not an output of the network", "Make it an output.")
    if attributes.get("axis", -2) not in (2, -2):
        yield _cache(node, "tokens must lie along axis -2", "Keep the cache as (B, H, S, D).")
    if attributes.get("mode", b"linear") != b"linear":
        yield _cache(node, "only mode linear exists", "Use mode linear.")
    form = attributes.get("update_form", _FORMS[0])
    if form not in _FORMS:
        yield _cache(node, f"update_form {form!r} does not exist", "Use padded_bhnd or packed_nhd.")
    elif form == _FORMS[1] and not given(node, 3):
        yield _cache(node, "a packed update needs update_lengths", "Give the running sums of the lengths, (B + 1,).")
    new = site.shape(node.input[1])
    if new is not None and form in _FORMS and len(new) != (4 if form == _FORMS[0] else 3):
        wanted = "(B, H, T, D)" if form == _FORMS[0] else "(T, H, D)"
        yield _cache(node, f"the update must be {wanted}", "Bring it to that form.")
    if site.dtype(given(node, 2)) not in (None, TensorProto.INT32, TensorProto.INT64):
        yield _cache(node, "write indices are int32 or int64", "Cast them.")
    dtype, shape = site.dtype(past), site.shape(past)
    if dtype is not None and dtype not in _FLOATS:
        yield _cache(node, "caches are float32, float16 or bfloat16", "Use one of these types.")
    if None not in (dtype, site.dtype(node.input[1])) and dtype != site.dtype(node.input[1]):
        yield _cache(node, "the update is not of the cache's type", "Cast it.")
    if shape is not None and len(shape) != 4:
        yield _cache(node, "the cache must have four dimensions", "Keep it as (B, H, S, D).")
    elif shape is not None and site.fixed_capacity and shape[2] is None:
        yield _cache(node, "the cache's length is not a constant", "Export with a capacity.")


def _ranks(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    shapes = [shape for name in node.input[:3] if (shape := site.shape(name)) is not None]
    ranks = {len(shape) for shape in shapes}
    if len(ranks) > 1:
        yield _fault(node, "query, key and value differ in rank", "Bring all to (B, H, T, D).")
    elif ranks and not ranks <= {3, 4}:
        yield _fault(node, "query, key and value have three or four dimensions", "Bring all to (B, H, T, D).")
    elif len(shapes) == 3 and ranks == {4}:
        query_heads, kv_heads = shapes[0][1], shapes[1][1]
        if query_heads and kv_heads and query_heads % kv_heads:
            yield _fault(node, f"{query_heads} query heads are no multiple of {kv_heads} K/V heads", "Check the model.")


def _float_data(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    types = {site.dtype(name) for name in node.input[:3]} - {None}
    if types - set(_FLOATS):
        yield _fault(node, "query, key and value are float32, float16 or bfloat16", "Dequantize before the node.")
    elif len(types) > 1:
        yield _fault(node, "query, key and value differ in type", "Cast them to one.")


def _mask_and_normalization(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    mask = given(node, 3)
    shape, dtype = site.shape(mask), site.dtype(mask)
    if shape is not None and len(shape) > 4:
        yield _fault(node, "a mask has at most four dimensions", "Bring it to (B, 1, T, S).")
    query = site.dtype(node.input[0])
    if dtype is not None and dtype != TensorProto.BOOL and query is not None and dtype != query:
        yield _fault(node, "a mask is boolean, or added in the type of the computation", "Cast it.")
    norm = attributes_of(node).get("TRT_normalization_op", b"softmax")
    if norm not in (b"softmax", b"none"):
        yield _fault(node, f"TRT_normalization_op {norm!r} does not exist", "Use softmax or none.")


def _fault(node: onnx.NodeProto, message: str, remedy: str) -> Finding:
    return Finding("attention" if node.op_type != "TRT_MoE" else "experts", node.name, message, remedy)


def _cache(node: onnx.NodeProto, message: str, remedy: str) -> Finding:
    return Finding("cache", node.name, message, remedy)


ATTENTION_RULES: dict[str, Rule] = {
    "Attention": _attention,
    "TRT_Attention": _trt_attention,
    "TRT_QuantizedAttention": _quantized_attention,
    "TRT_MoE": _experts,
    "TensorScatter": _cache_update,
    "TRT_KVCacheUpdate": _cache_update,
}
