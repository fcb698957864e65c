"""Check an ONNX network against what TensorRT's ONNX parser (11.1 and later) takes, without TensorRT.

The parser accepts some graphs that it then computes differently from what ONNX says: it looks at an op's name and not
at its domain, ignores the lengths given to `Attention`, aligns `is_causal` to the upper left. Such graphs are errors
here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from ..errors import BuildError
from . import onnx_lint_rules as rules
from .onnx_lint_rules import Finding, Site, TensorInfo

MAX_FUNCTION_DEPTH = 24
OPSETS = range(9, 25)

# Op types that TensorRT's importer has without their being ONNX's.
TENSORRT_OPS = frozenset(
    {
        "DistCollective",
        "TRT_Attention",
        "TRT_BlockDequantize",
        "TRT_BlockQuantize",
        "TRT_DynamicQuantize",
        "TRT_FP4DynamicQuantize",
        "TRT_KVCacheUpdate",
        "TRT_MXFP8DynamicQuantize",
        "TRT_MoE",
        "TRT_QuantizedAttention",
    }
)


def lint_onnx(model: onnx.ModelProto | Path | str, *, fixed_capacity: bool = True) -> list[Finding]:
    """Return everything in `model` that TensorRT's parser refuses or misreads.

    Parameters
    ----------
    model
        A model, or the path of one; external data is not read.
    fixed_capacity
        Demand a constant cache length, which TensorRT's cache update needs.
    """
    if not isinstance(model, onnx.ModelProto):
        model = onnx.load(str(model), load_external_data=False)
    return list(_Linter(model, fixed_capacity).findings())


def require_parseable(model: onnx.ModelProto | Path | str, *, fixed_capacity: bool = True) -> None:
    """Raise one `BuildError` that lists what `lint_onnx` finds.

    Raises
    ------
    BuildError
        When anything is found.
    """
    findings = lint_onnx(model, fixed_capacity=fixed_capacity)
    if findings:
        listed = "\n".join(f"  - {finding}" for finding in findings[:20])
        more = f"\n  and {len(findings) - 20} more" if len(findings) > 20 else ""
        raise BuildError(
            f"TensorRT's ONNX parser would refuse or misread the network:\n{listed}{more}",
            where="network.onnx",
            remedy=findings[0].remedy,
        )


@dataclass(frozen=True)
class _Linter:
    model: onnx.ModelProto
    fixed_capacity: bool

    def findings(self) -> Iterator[Finding]:
        graph = self.model.graph
        for imported in self.model.opset_import:
            if imported.domain in ("", "ai.onnx") and imported.version not in OPSETS:
                yield Finding(
                    "opset",
                    "model",
                    f"opset {imported.version} is outside of {OPSETS.start} to {OPSETS.stop - 1}",
                    "Export with opset 24 or below.",
                )
        yield from self._names(graph)
        inputs = {value.name for value in graph.input}
        outputs = {value.name for value in graph.output}
        known = _known_tensors(graph)
        constants = {tensor.name for tensor in graph.initializer}
        constants |= {output for node in graph.node if node.op_type == "Constant" for output in node.output}
        tensors = {tensor.name: tensor for tensor in graph.initializer} | _constant_tensors(graph.node)
        opset = next((one.version for one in self.model.opset_import if one.domain in ("", "ai.onnx")), OPSETS.stop - 1)
        site = Site(inputs, outputs, constants, known, self.fixed_capacity, tensors, opset)
        yield from self._types(graph)
        yield from self._function_names()
        yield from self._nodes(graph.node, site, depth=0)

    def _types(self, graph: onnx.GraphProto) -> Iterator[Finding]:
        for value in [*graph.input, *graph.output]:
            yield from rules.check_type(value.name, value.type.tensor_type.elem_type)
        for tensor in graph.initializer:
            yield from rules.check_type(tensor.name, tensor.data_type)

    def _function_names(self) -> Iterator[Finding]:
        """The parser finds functions by name alone: of two with one name it takes either."""
        seen: dict[str, str] = {}
        for function in self.model.functions:
            if function.name in TENSORRT_OPS:
                continue  # its own importer comes first, whatever the bodies
            if function.name in seen:
                yield Finding(
                    "functions",
                    function.name,
                    f"{seen[function.name]} and {function.domain} both have a function of this name",
                    "Give each its own name: the parser ignores domains and overloads.",
                )
            seen.setdefault(function.name, function.domain)

    def _names(self, graph: onnx.GraphProto) -> Iterator[Finding]:
        for value in graph.output:
            if any(value.name == other.name for other in graph.input):
                yield Finding(
                    "names",
                    value.name,
                    "an input is an output under the same name, which TensorRT renames",
                    "Give the output a name of its own through Identity.",
                )

    def _nodes(self, nodes: Iterable[onnx.NodeProto], site: Site, *, depth: int) -> Iterator[Finding]:
        functions = {function.name: function for function in self.model.functions}
        for node in nodes:
            as_plugin = any(attribute.name == "plugin_namespace" for attribute in node.attribute)
            if as_plugin:
                yield from rules.check_plugin(node)
                continue
            yield from rules.check_node(node, site)
            builtin = node.op_type in TENSORRT_OPS or _is_standard(node.op_type)
            function = functions.get(node.op_type)
            if node.domain not in ("", "ai.onnx") and _is_standard(node.op_type):
                yield Finding(
                    "domain",
                    node.name,
                    f"{node.domain}::{node.op_type} is read as ONNX's {node.op_type}: the parser ignores domains",
                    "Rename the op, or give it plugin_namespace.",
                )
            if builtin:
                continue
            if function is None:
                yield Finding(
                    "unknown op",
                    node.name,
                    f"{node.domain or 'ai.onnx'}::{node.op_type} has no importer, function or plugin_namespace",
                    "Add a model-local function of standard ops, or a plugin.",
                )
                continue
            yield from self._function(node, function, site, depth)

    def _function(
        self, node: onnx.NodeProto, function: onnx.FunctionProto, site: Site, depth: int
    ) -> Iterator[Finding]:
        if depth >= MAX_FUNCTION_DEPTH:
            yield Finding(
                "functions", node.name, f"functions are nested deeper than {MAX_FUNCTION_DEPTH}", "Inline them."
            )
            return
        if len(node.input) != len(function.input) or "" in node.input:
            yield Finding(
                "functions",
                node.name,
                f"{node.op_type} has {len(function.input)} inputs and all of them must be wired",
                "Wire every declared input; the parser has no optional inputs for functions.",
            )
            return
        actual = dict(zip(function.input, node.input, strict=True))
        known = {formal: site.known[name] for formal, name in actual.items() if name in site.known}
        constants = {formal for formal, name in actual.items() if name in site.constants}
        constants |= {output for inner in function.node if inner.op_type == "Constant" for output in inner.output}
        tensors = {formal: site.tensors[name] for formal, name in actual.items() if name in site.tensors}
        tensors |= _constant_tensors(function.node)
        inner = Site(set(), set(), constants, known, self.fixed_capacity, tensors, site.opset)
        for finding in self._nodes(function.node, inner, depth=depth + 1):
            yield Finding(finding.rule, f"{node.name} ({node.op_type})", finding.message, finding.remedy)


def _known_tensors(graph: onnx.GraphProto) -> Mapping[str, TensorInfo]:
    """Types and shapes that the file states: of initializers, inputs, outputs and intermediate values."""
    known: dict[str, TensorInfo] = {}
    for value in [*graph.value_info, *graph.output, *graph.input]:
        tensor = value.type.tensor_type
        shape = None
        if tensor.HasField("shape"):
            shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
        known[value.name] = TensorInfo(tensor.elem_type, shape)
    for initializer in graph.initializer:
        known[initializer.name] = TensorInfo(initializer.data_type, tuple(initializer.dims))
    return known


def _constant_tensors(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.TensorProto]:
    """Contents of Constant nodes that hold a tensor."""
    found = {}
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = attribute.t
    return found


def _is_standard(op_type: str) -> bool:
    return onnx.defs.has(op_type, "")
