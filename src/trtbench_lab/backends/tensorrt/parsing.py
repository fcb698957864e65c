"""The ONNX network into TensorRT: weights are handed over by address, and what is refused is named by module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import BuildError
from ...network.node_names import module_of_node, output_nodes
from ...network.referenced import ReferencedNetwork
from .bindings_check import created

_SHOWN = 8


@dataclass
class ParsedNetwork:
    """A network in TensorRT's form; the parser lives as long, since weights and names are its."""

    network: Any
    parser: Any


def parsed_network(trt: Any, builder: Any, logger: Any, source: ReferencedNetwork, flags: int) -> ParsedNetwork:
    """Parse the network of `source`, whose contents must stay open until the engine is built.

    Raises
    ------
    BuildError
        Naming the module of ours that made each node that TensorRT's parser refuses.
    """
    network = created(lambda: builder.create_network(flags), "a network")
    parser = created(lambda: trt.OnnxParser(network, logger), "an ONNX parser")
    if not parser.load_model_proto(source.model_bytes()):
        raise parser_error(parser, "TensorRT's parser cannot read the ONNX file")
    for name, content in source.items():
        if not parser.load_initializer(name, content.address, content.nbytes):
            raise parser_error(parser, f"TensorRT's parser refuses the weights of {module_of(name)}")
    if not parser.parse_model_proto():
        raise parser_error(parser, "TensorRT's parser refuses the network")
    return ParsedNetwork(network, parser)


def parser_error(parser: Any, what: str) -> BuildError:
    """Return one error that lists everything the parser has to say."""
    faults = [described_fault(parser.get_error(index)) for index in range(parser.num_errors)]
    shown = faults[:_SHOWN]
    if len(faults) > _SHOWN:
        shown.append(f"and {len(faults) - _SHOWN} more")
    listed = "".join(f"\n  - {fault}" for fault in shown)
    return BuildError(
        f"{what}:{listed}" if listed else f"{what}.",
        where="tensorrt backend",
        remedy="`trtbench lint network.onnx` (built with --visualize) explains the parser's rules; an absent plugin "
        "and an unsupported data type are the usual causes.",
        details="\n".join(faults) or None,
    )


def described_fault(parser_fault: Any) -> str:
    """Return one parser error as a sentence: the module, the operator, and TensorRT's words."""
    node = parser_fault.node_name()
    operator = parser_fault.node_operator()
    stack = [name for name in parser_fault.local_function_stack() if name]
    within = f" inside the function {' in '.join(stack)}" if stack else ""
    subject = f"{module_of(node)}: {operator or 'node'} {node!r}{within}" if node else "the network"
    place = f"{parser_fault.func()} line {parser_fault.line()}"
    return f"{subject}: {parser_fault.desc()} ({parser_fault.code().name}, {place})"


def module_of(name: str) -> str:
    """Return the module of ours that a node (``module/Op_2``) or a weight (``module.weight``) belongs to."""
    return module_of_node(name) or name


def mark_debug_tensors(parsed: ParsedNetwork, node_names: list[str]) -> list[str]:
    """Make the outputs of the modules readable at run time; return their tensors' names.

    Raises
    ------
    BuildError
        When TensorRT refuses one.
    """
    network, parser = parsed.network, parsed.parser
    marked = []
    for module, node in output_nodes(node_names).items():
        debug_tensor = parser.get_layer_output_tensor(node, 0)
        if debug_tensor is None:  # folded away
            continue
        debug_tensor.name = f"{module}.output"
        if not network.mark_debug(debug_tensor):
            raise BuildError(
                f"TensorRT does not give the output of {module} as a debug tensor.",
                where="enable_debug_output",
                remedy="Build without enable_debug_output.",
            )
        marked.append(debug_tensor.name)
    return marked
