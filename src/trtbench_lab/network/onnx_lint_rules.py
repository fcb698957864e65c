"""What a rule of `onnx_lint` sees and says, and the rules for ops that are neither attention nor quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

_MOST_VALUES = 1 << 20


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
    tensors
        Constants whose content is in the file.
    opset
        Version of the standard ops.
    """

    inputs: set[str]
    outputs: set[str]
    constants: set[str]
    known: Mapping[str, TensorInfo]
    fixed_capacity: bool
    tensors: Mapping[str, onnx.TensorProto] = field(default_factory=dict)
    opset: int = 24

    def dtype(self, name: str) -> int | None:
        """Return the element type of a tensor, None where unknown."""
        info = self.known.get(name)
        return info.dtype if info is not None and info.dtype else None

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return the shape of a tensor, None where unknown."""
        info = self.known.get(name)
        return None if info is None else info.shape

    def values(self, name: str) -> np.ndarray[Any, Any] | None:
        """Return the content of a constant, None where the file does not have it or it is large."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL or np.prod(tensor.dims) > _MOST_VALUES:
            return None
        return onnx.numpy_helper.to_array(tensor)


Rule = Callable[[onnx.NodeProto, Site], Iterator[Finding]]


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return attribute → value; strings are bytes."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def given(node: onnx.NodeProto, position: int) -> str:
    """Return the name of an input, empty where it is left out."""
    return node.input[position] if position < len(node.input) else ""


def check_node(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    """Yield what is wrong with one node."""
    from .onnx_lint_attention import ATTENTION_RULES
    from .onnx_lint_quantization import QUANTIZATION_RULES

    if node.domain == "com.microsoft":
        yield Finding(
            "domain",
            node.name,
            f"com.microsoft::{node.op_type} belongs to ONNX Runtime",
            "Write the portable network, before it is lowered for ONNX Runtime.",
        )
    if node.op_type in WITHOUT_IMPORTER:
        yield Finding("unsupported op", node.name, f"{node.op_type} has no importer", WITHOUT_IMPORTER[node.op_type])
    most = MOST_OUTPUTS.get(node.op_type)
    if most is not None and sum(bool(name) for name in node.output) > most:
        yield Finding(
            "outputs",
            node.name,
            f"{node.op_type} gives {'one output' if most == 1 else f'{most} outputs'} there, and more are named",
            "Compute the others with nodes of their own.",
        )
    rule = {**_RULES, **ATTENTION_RULES, **QUANTIZATION_RULES}.get(node.op_type)
    if rule is not None:
        yield from rule(node, site)


def check_type(name: str, dtype: int) -> Iterator[Finding]:
    """Yield what is wrong with the element type of an input, output or initializer."""
    if dtype == TensorProto.DOUBLE:
        yield Finding("type", name, "float64 is silently narrowed to float32", "Store it as float32.")
    elif dtype not in TYPES:
        shown = TensorProto.DataType.Name(dtype) if dtype in TensorProto.DataType.values() else dtype
        yield Finding("type", name, f"TensorRT has no tensors of type {shown}", "Use int32, int64, or a float type.")


_QUANTIZE = "Use QuantizeLinear and DequantizeLinear around MatMul."
_INSTEAD = "Write it with other standard ops, as a model-local function, or as a plugin."
WITHOUT_IMPORTER: dict[str, str] = {
    **dict.fromkeys(
        ("DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv"), _QUANTIZE
    ),
    **dict.fromkeys(
        (
            "ConcatFromSequence",
            "MaxRoiPool",
            "MaxUnpool",
            "Multinomial",
            "NegativeLogLikelihoodLoss",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
            "RegexFullMatch",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
            "SoftmaxCrossEntropyLoss",
            "SplitToSequence",
            "StringConcat",
            "StringNormalizer",
            "StringSplit",
            "TfIdfVectorizer",
            "Unique",
        ),
        _INSTEAD,
    ),
}
"""Standard ops that the parser does not know → what to do."""

MOST_OUTPUTS = {
    "Attention": 1,
    "DistCollective": 1,
    "Dropout": 1,
    "LayerNormalization": 1,
    "MaxPool": 1,
    "RMSNormalization": 1,
    "RotaryEmbedding": 1,
    "TRT_Attention": 1,
    "TRT_KVCacheUpdate": 1,
    "TRT_MXFP8DynamicQuantize": 2,
    "TRT_MoE": 1,
    "TRT_QuantizedAttention": 1,
    "TensorScatter": 1,
}
"""Op → results that its importer makes; a node that names more is refused."""

TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.BOOL,
        TensorProto.INT4,
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT4E2M1,
        TensorProto.FLOAT8E8M0,
    }
)


def check_plugin(node: onnx.NodeProto) -> Iterator[Finding]:
    """Yield what is wrong with a node that names a plugin: its attributes become 32-bit fields of a few types."""
    for attribute in node.attribute:
        integers = [attribute.i, *attribute.ints]
        if any(not -(2**31) <= value < 2**31 for value in integers):
            yield Finding(
                "plugin",
                node.name,
                f"attribute {attribute.name} does not fit into 32 bits",
                "Pass it as an input, or as two attributes.",
            )
        kind = attribute.type
        if kind == onnx.AttributeProto.TENSOR and attribute.t.data_type not in _FIELD_TYPES:
            yield Finding(
                "plugin",
                node.name,
                f"attribute {attribute.name} is a tensor of a type that no plugin field has",
                "Pass floats or integers of up to 32 bits.",
            )
        elif kind not in _FIELD_KINDS:
            yield Finding(
                "plugin",
                node.name,
                f"attribute {attribute.name} has a kind that becomes no plugin field",
                "Pass integers, floats, a string or a tensor.",
            )
    attributes = attributes_of(node)
    if attributes.get("aot", 0) not in (0, 1):
        yield Finding("plugin", node.name, "aot is 0 (just in time) or 1 (ahead of time)", "Set aot to 1, or leave it.")
    if not attributes.get("plugin_namespace"):
        yield Finding("plugin", node.name, "plugin_namespace is empty", "Name the namespace the plugin registers in.")
    if "tensorrt_plugin_shape_input_indices" in attributes:
        yield Finding(
            "plugin",
            node.name,
            "shape inputs are taken by plugins of the class interface only",
            "Pass sizes as dimensions of a tensor.",
        )


_FIELD_TYPES = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.INT8,
    TensorProto.INT16,
    TensorProto.INT32,
)
_FIELD_KINDS = (
    onnx.AttributeProto.INT,
    onnx.AttributeProto.INTS,
    onnx.AttributeProto.FLOAT,
    onnx.AttributeProto.FLOATS,
    onnx.AttributeProto.STRING,
    onnx.AttributeProto.TENSOR,
)


def _rotary_embedding(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    if len(node.input) > 3 and not node.input[3]:
        yield Finding("rotary", node.name, "an empty fourth input crashes the importer", "Leave the input out.")
    with_positions = bool(given(node, 3))
    shape = site.shape(node.input[0])
    if shape is not None and len(shape) == 3:
        if not attributes_of(node).get("num_heads"):
            yield Finding("rotary", node.name, "num_heads is needed for three dimensions", "Set num_heads.")
        if shape[-1] is None:
            yield Finding("rotary", node.name, "the last dimension must be a constant", "Split the heads before.")
    for name in node.input[1:3]:
        table = site.shape(name)
        if table is not None and len(table) != (2 if with_positions else 3):
            wanted = "(positions, D/2) with position ids" if with_positions else "(B, S, D/2) without position ids"
            yield Finding("rotary", node.name, f"the table {name!r} must be {wanted}", "Gather the tables before.")
        if None not in (site.dtype(name), site.dtype(node.input[0])) and site.dtype(name) != site.dtype(node.input[0]):
            yield Finding("rotary", node.name, f"{name!r} is not of the data's type", "Cast the tables.")
    if with_positions and site.dtype(node.input[3]) not in (None, TensorProto.INT64):
        yield Finding("rotary", node.name, "position ids are int64", "Cast them.")


def _layer_normalization(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    data = site.dtype(node.input[0])
    for name in node.input[1:]:
        if name and data is not None and site.dtype(name) not in (None, data):
            yield Finding("types", node.name, f"{name!r} is not of the data's type", "Cast it.")


def _gelu(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    if attributes_of(node).get("approximate", b"none") not in (b"none", b"tanh"):
        yield Finding("attribute", node.name, "approximate is none or tanh", "Use one of them.")


def _cumulative_sum(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    if given(node, 1) not in site.constants:
        yield Finding("constant", node.name, "the axis of CumSum must be a constant", "Make it an initializer.")


def _loop(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    carried = len(node.input) - 2
    if len(node.output) > carried and not given(node, 0):
        yield Finding("loop", node.name, "a loop that stacks its results needs a trip count", "Give it one.")


def _einsum(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    integers = (TensorProto.INT8, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8)
    if any(site.dtype(name) in integers for name in node.input):
        yield Finding("types", node.name, "Einsum takes no integers", "Cast to a float type.")


_REDUCING = (b"all_reduce", b"reduce", b"reduce_scatter")
_COLLECTIVES = (*_REDUCING, b"all_gather", b"broadcast", b"all_to_all", b"gather", b"scatter")


def _dist_collective(node: onnx.NodeProto, site: Site) -> Iterator[Finding]:
    attributes = attributes_of(node)
    operation, reduce_op = attributes.get("collective_operation"), attributes.get("reduce_op")
    if len(node.input) != 1:
        yield Finding("collective", node.name, "a collective takes one input", "Pass one tensor.")
    if operation not in _COLLECTIVES:
        known = ", ".join(name.decode() for name in _COLLECTIVES)
        yield Finding("collective", node.name, f"collective_operation is one of {known}", "Set it.")
    elif reduce_op is None:
        yield Finding("collective", node.name, "reduce_op is required", 'Set it, to "none" where nothing is reduced.')
    elif (operation in _REDUCING) is (reduce_op == b"none"):
        what = "needs a reduce_op" if operation in _REDUCING else 'takes the reduce_op "none" only'
        yield Finding("collective", node.name, f"{operation.decode()} {what}", "Make the two agree.")
    if reduce_op is not None and reduce_op not in (b"sum", b"prod", b"max", b"min", b"avg", b"none"):
        yield Finding("collective", node.name, f"there is no reduce_op {reduce_op!r}", "Use sum.")
    groups, size = list(attributes.get("groups", ())), attributes.get("group_size", 0)
    if bool(groups) is not bool(size > 0) or (size > 0 and len(groups) % size):
        yield Finding(
            "collective",
            node.name,
            "group_size is above 0 exactly where there are groups, and divides them",
            "Set both.",
        )
    if attributes.get("nb_rank", 1) < 2:
        yield Finding(
            "collective",
            node.name,
            "nb_rank is the number of ranks; without it results have the shape of one rank",
            "Set nb_rank.",
        )


_RULES: dict[str, Rule] = {
    "RotaryEmbedding": _rotary_embedding,
    "LayerNormalization": _layer_normalization,
    "Gelu": _gelu,
    "CumSum": _cumulative_sum,
    "Loop": _loop,
    "Einsum": _einsum,
    "DistCollective": _dist_collective,
}
