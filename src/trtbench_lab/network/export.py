"""From a configuration to an ONNX network: traced without weights, which are attached by their checkpoint names."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from ..errors import BuildError, SpecError
from ..specs import Mapping, ModelConfig, PluginConfig
from ..storage import storage_error
from .collectives import ExportedRanks, name_variants
from .decoder import Decoder
from .export_log import LogSink, captured_log
from .initializers import PAGE_BYTES, DataFile, Initializer, Released, Weights, constant, from_checkpoint
from .linear import Linear
from .loading import cast_floats, kept_types
from .node_names import node_name
from .onnx_functions import FUNCTION_VERSION, OPSET, functions_for
from .onnx_translation import translation_table
from .paged import PagedDecoder
from .quantized_initializers import quantized_initializers
from .signature import (
    BATCH,
    BLOCKS,
    CAPACITY,
    LENGTH,
    LOGITS,
    ROW_BLOCKS,
    ROWS,
    STARTS,
    TOKENS,
    PagedForm,
    TensorSpec,
    paged_signature,
    signature,
)
from .tracing import traced
from .unroll import layers_are_alike, unroll_layers

IR_VERSION = 11


@dataclass
class ExportedNetwork:
    """An ONNX network whose initializers have names, types and shapes, and recipes for their contents.

    Attributes
    ----------
    model
        The network; `write` fills its initializers in.
    initializers
        Name → content.
    io
        Its inputs and outputs.
    quantized
        Each quantized linear layer (on the meta device), by module name.
    """

    model: ir.Model
    initializers: dict[str, Initializer]
    io: tuple[TensorSpec, ...]
    quantized: dict[str, Linear]

    def copy(self) -> ExportedNetwork:
        """Return a network that can be changed apart from this one; neither is written yet."""
        return ExportedNetwork(self.model.clone(), dict(self.initializers), self.io, self.quantized)

    def write(
        self, path: Path, weights: Weights, *, alignment: int = PAGE_BYTES, each: Callable[[], None] | None = None
    ) -> None:
        """Write the network to `path` and its weights beside it, a tensor at a time; see `write_networks`."""
        write_networks({path: self}, weights, alignment=alignment, each=each)


def write_networks(
    networks: dict[Path, ExportedNetwork],
    weights: Weights,
    *,
    alignment: int = PAGE_BYTES,
    each: Callable[[], None] | None = None,
) -> None:
    """Write networks of one folder, and one file of weights that they share, a tensor at a time.

    Parameters
    ----------
    networks
        ONNX file → network, all made from one export. The weights go beside the first, to ``{path}.data``; an
        initializer of the same name, type and shape in several networks is one, and stored once.
    weights
        The rank's tensors by checkpoint name.
    alignment
        Multiple at which each tensor starts in the data file.
    each
        Called before each tensor; may raise to stop.
    """
    source = Released(weights)
    first = next(iter(networks))
    stored: dict[tuple[str, ir.DataType, tuple[int, ...]], ir.ExternalTensor | ir.Tensor] = {}
    with DataFile(first.with_name(f"{first.name}.data"), alignment=alignment) as data:
        for network in networks.values():
            for name, value in network.model.graph.initializers.items():
                content = network.initializers[name]
                key = name, content.dtype, content.shape
                if key not in stored:
                    if each is not None:
                        each()
                    stored[key] = data.append(name, content, source)
                    source.release()
                value.const_value = stored[key]
    for path, network in networks.items():
        proto = ir.serde.serialize_model(network.model)
        try:
            path.write_bytes(proto.SerializeToString())
        except OSError as error:
            raise storage_error(error, path, "write the network") from error


def export_onnx(
    config: ModelConfig,
    weights: Weights,
    path: Path,
    *,
    mapping: Mapping | None = None,
    max_positions: int | None = None,
    capacity: int | None = None,
    dtype: torch.dtype = torch.float32,
    plugin_config: PluginConfig | None = None,
    splits: int = 0,
    log: LogSink | None = None,
) -> None:
    """Write the portable network of one rank with its weights: the file that TensorRT parses and ONNX Runtime runs.

    Parameters are those of `export_network` and `ExportedNetwork.write`.
    """
    network = export_network(
        config,
        mapping,
        max_positions=max_positions,
        capacity=capacity,
        dtype=dtype,
        plugin_config=plugin_config,
        splits=splits,
        log=log,
    )
    network.write(path, weights)


def export_network(
    config: ModelConfig,
    mapping: Mapping | None = None,
    *,
    max_positions: int | None = None,
    capacity: int | None = None,
    dtype: torch.dtype = torch.float32,
    plugin_config: PluginConfig | None = None,
    splits: int = 0,
    log: LogSink | None = None,
    repeat_layers: bool = True,
) -> ExportedNetwork:
    """Trace the decoder to ONNX; no weight is read or made.

    Parameters
    ----------
    config, mapping
        The model and the rank; None takes the configuration's own mapping.
    max_positions
        Positions the engine can reach (sizes the rotary tables); None takes the model's limit.
    capacity
        Tokens a cache row holds, where the reader needs a constant (TensorRT does); None leaves it open.
    dtype
        Type of the computation; weights are converted to it.
    plugin_config
        Which parts become nodes of plugins; None makes none. With `gpt_attention_plugin` and `paged_kv_cache` the
        network has the paged form.
    splits
        Of the paged form, see `PagedForm`: 0 for a network that takes prompts too.
    log
        Takes the exporter's warnings, a line at a time.
    repeat_layers
        Trace two layers and repeat the second, when all layers are alike: tracing takes 0.5 s a layer.

    Raises
    ------
    BuildError
        When the exporter fails.
    SpecError
        For a trait that the network does not have.
    """
    mapping = mapping or config.mapping
    form = None if plugin_config is None else PagedForm.of(config, plugin_config, splits=splits)
    with torch.device("meta"):
        whole = _decoder(config, mapping, max_positions, plugin_config, form)
    num_layers = len(whole.transformer.layers)
    traced_layers = 2 if repeat_layers and num_layers > 2 and layers_are_alike(whole) else num_layers
    try:
        with captured_log(log):
            model = _trace(config, mapping, traced_layers, max_positions, dtype, plugin_config, form)
    except SpecError:
        raise
    except Exception as error:
        raise BuildError(
            "torch.onnx could not export the network.",
            where=config.architecture,
            remedy="Look at the details; a torch or onnxscript outside of the supported versions is the usual cause.",
            details=f"{type(error).__name__}: {error}",
        ) from error
    if num_layers > traced_layers:
        unroll_layers(model.graph, num_layers)
    compute_dtype = str(dtype).removeprefix("torch.")
    if form is None:
        io = signature(config, mapping, compute_dtype, capacity=capacity or CAPACITY)
    else:
        blocks, cache_dtype = form.tokens_per_block, form.cache_dtype
        io = paged_signature(config, mapping, compute_dtype, tokens_per_block=blocks, cache_dtype=cache_dtype)
    _name_tensors(model.graph, io)
    _drop_metadata(model)
    for node in model.graph:
        if node.op_type == "Split":  # told how many results there are, while tracing; their sizes say it as well
            node.attributes.pop("num_outputs", None)
    name_variants(model.graph)
    _add_functions(model)
    quantized = {name: module for name, module in whole.named_modules() if isinstance(module, Linear) and module.kind}
    initializers = _initializers(whole, quantized, dtype)
    _declare(model.graph, initializers)
    return ExportedNetwork(model, initializers, io, quantized)


def _decoder(
    config: ModelConfig,
    mapping: Mapping,
    max_positions: int | None,
    plugin_config: PluginConfig | None,
    form: PagedForm | None,
    num_layers: int | None = None,
) -> Decoder:
    options: dict[str, Any] = {
        "max_positions": max_positions,
        "num_layers": num_layers,
        "plugin_config": plugin_config,
        "communicator": ExportedRanks(mapping.tp_size) if mapping.tp_size > 1 else None,
    }
    return Decoder(config, mapping, **options) if form is None else PagedDecoder(config, mapping, form=form, **options)


def _trace(
    config: ModelConfig,
    mapping: Mapping,
    num_layers: int,
    max_positions: int | None,
    dtype: torch.dtype,
    plugin_config: PluginConfig | None,
    form: PagedForm | None,
) -> ir.Model:
    with FakeTensorMode(shape_env=ShapeEnv()):
        decoder = _decoder(config, mapping, max_positions, plugin_config, form, num_layers)
        cast_floats(decoder, dtype)
        if form is None:
            arguments, shapes = _padded_example(config, mapping, decoder, dtype)
        else:
            arguments, shapes = _paged_example(config, mapping, decoder, dtype, form)
    program = traced(decoder, arguments, shapes)
    # The vocabulary's ops translate to the final nodes one to one: there is nothing for the optimizer to find.
    exported = torch.onnx.export(
        program,
        arguments,
        dynamo=True,
        opset_version=OPSET,
        custom_translation_table=translation_table(),
        optimize=False,
        verify=False,
        verbose=False,
    )
    if exported is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = exported.model
    model.ir_version = IR_VERSION
    return model


# Any sizes above 1, all different: they become dynamic.
_EXAMPLE = {BATCH: 2, LENGTH: 3, LOGITS: 2, CAPACITY: 16, TOKENS: 7, ROWS: 3, STARTS: 4, ROW_BLOCKS: 5, BLOCKS: 6}
Example = tuple[tuple[Any, ...], tuple[Any, ...]]


def _padded_example(config: ModelConfig, mapping: Mapping, decoder: Decoder, dtype: torch.dtype) -> Example:
    """Arguments of the padded form to trace with, and which of their sizes are dynamic."""
    batch, length, logits, capacity = (_EXAMPLE[name] for name in (BATCH, LENGTH, LOGITS, CAPACITY))
    tokens = torch.zeros(batch, length, dtype=torch.int64)
    if not mapping.is_first_pp_rank:
        tokens = torch.zeros(batch, length, config.hidden_size, dtype=dtype)
    attention = decoder.transformer.layers[0].attention
    cache_shape = (batch, attention.num_kv_heads, capacity, attention.head_size)
    caches = [torch.zeros(cache_shape, dtype=dtype) for _ in range(2 * len(decoder.transformer.layers))]
    write_indices = torch.zeros(batch, dtype=torch.int64)
    wanted = torch.zeros(batch, logits, dtype=torch.int64) if mapping.is_last_pp_rank else None
    dims = {name: Dim(name) for name in (BATCH, LENGTH, LOGITS, CAPACITY)}
    shapes = (
        {0: dims[BATCH], 1: dims[LENGTH]},
        {0: dims[BATCH]},
        None if wanted is None else {0: dims[BATCH], 1: dims[LOGITS]},
        [{0: dims[BATCH], 2: dims[CAPACITY]}] * len(caches),
    )
    return (tokens, write_indices, wanted, caches), shapes


def _paged_example(
    config: ModelConfig, mapping: Mapping, decoder: Decoder, dtype: torch.dtype, form: PagedForm
) -> Example:
    """Arguments of the paged form to trace with, and which of their sizes are dynamic."""

    def numbers(*names: str) -> torch.Tensor:
        return torch.zeros(*(_EXAMPLE[name] for name in names), dtype=torch.int32)

    tokens = numbers(TOKENS)
    if not mapping.is_first_pp_rank:
        tokens = torch.zeros(_EXAMPLE[TOKENS], config.hidden_size, dtype=dtype)
    layers = decoder.transformer.layers
    cache_dtype = dtype if form.cache_dtype is None else getattr(torch, form.cache_dtype)
    pool = layers[0].attention.shape.pool_shape(_EXAMPLE[BLOCKS])
    caches = [torch.zeros(pool, dtype=cache_dtype) for _ in layers]
    wanted = numbers(LOGITS) if mapping.is_last_pp_rank else None
    dims = {name: Dim(name) for name in (TOKENS, ROWS, STARTS, ROW_BLOCKS, BLOCKS, LOGITS)}
    by_token, by_row = {0: dims[TOKENS]}, {0: dims[ROWS]}
    arguments = (
        tokens, numbers(TOKENS), numbers(TOKENS), numbers(STARTS), numbers(ROWS), numbers(ROWS, ROW_BLOCKS), wanted,
        caches,
    )  # fmt: skip
    shapes = (
        by_token, by_token, by_token, {0: dims[STARTS]}, by_row, {0: dims[ROWS], 1: dims[ROW_BLOCKS]},
        None if wanted is None else {0: dims[LOGITS]}, [{0: dims[BLOCKS]}] * len(caches),
    )  # fmt: skip
    return arguments, shapes


def _name_tensors(graph: ir.Graph, io: tuple[TensorSpec, ...]) -> None:
    """Give inputs and outputs their names and dimensions, and everything between names that tell its module."""
    seen: Counter[str] = Counter()
    for node in graph:
        scope = "/".join(part for part in _scopes(node)[-2:-1] if part)  # the module; the last scope is the op itself
        base = node_name(scope, node.op_type)
        seen[base] += 1
        node.name = base if seen[base] == 1 else f"{base}_{seen[base]}"
        for position, output in enumerate(node.outputs):
            output.name = f"{node.name}:{position}"
            if output.shape is not None and any(not isinstance(size, int) for size in output.shape):
                output.shape = None  # torch's names of dimensions (s17) mean nothing to a reader
    inputs = [spec for spec in io if spec.mode == "input"]
    outputs = [spec for spec in io if spec.mode == "output"]
    for value, spec in zip([*graph.inputs, *graph.outputs], [*inputs, *outputs], strict=True):
        value.name = spec.name
        value.shape = ir.Shape(spec.shape)
        value.dtype = ir.DataType[_ONNX_NAMES.get(spec.dtype, spec.dtype.upper())]


_ONNX_NAMES = {"float32": "FLOAT", "float8_e4m3fn": "FLOAT8E4M3FN"}


def _scopes(node: ir.Node) -> list[str]:
    return list(ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['']")))


def _drop_metadata(model: ir.Model) -> None:
    """Remove what the exporter notes of this machine: stack traces with paths, and torch's own graph."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.producer_name = "trtbench-lab"
    model.producer_version = None
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


def _add_functions(model: ir.Model) -> None:
    model.opset_imports.clear()
    model.opset_imports[""] = OPSET
    for function in functions_for(model.graph):
        model.functions[function.identifier()] = function
        model.opset_imports[function.domain] = FUNCTION_VERSION


def _initializers(decoder: Decoder, quantized: dict[str, Linear], dtype: torch.dtype) -> dict[str, Initializer]:
    """Return the content of every parameter and table of the whole decoder (on the meta device)."""
    kept = kept_types(decoder)
    found: dict[str, Initializer] = {}
    for name, parameter in decoder.named_parameters():
        if name.rpartition(".")[0] not in quantized or name.endswith(".bias"):
            found[name] = from_checkpoint(name, tuple(parameter.shape), kept.get(name, dtype))
    for module, linear in quantized.items():
        found |= quantized_initializers(module, linear, dtype)
    for name, table in decoder.rotary_tables().items():
        found[name] = constant(table.to(kept.get(name, dtype)))
    return found


def _declare(graph: ir.Graph, initializers: dict[str, Initializer]) -> None:
    """Set the type and shape of each initializer; drop what no node reads."""
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            graph.initializers.pop(name)
            continue
        value.const_value = None
        value.dtype = initializers[name].dtype
        value.shape = ir.Shape(initializers[name].shape)
