"""The layout of a checkpoint, stated once: which tensors a rank holds, their shapes and types, and how they are cut.

Writer, reader, network and quantization all take it from here. The rules are TensorRT-LLM's:

=====================  ==========================================================================================
``attention.qkv``      by heads: each rank has its query heads, then its key heads, then its value heads; with fewer
                       key/value heads than ranks, neighbours hold the same head
``mlp.fc, mlp.gate``   by output features (rows)
``attention.dense``,   by input features (columns); their bias is whole on every rank and must be added once
``mlp.proj``
``vocab_embedding``,   whole; with use_parallel_embedding by rows (dimension 0) or by columns (dimension 1). This
``position_embedding`` holds for both tables, as TensorRT-LLM divides every embedding
``lm_head``            by rows, always
norms                  whole on every rank
=====================  ==========================================================================================

Rows that are divided are padded with zeros to a multiple of tp_size where the table needs it (vocabulary, positions).
Pipeline stages hold consecutive layers; the first also holds the embeddings, the last the final norm and the head.
Layers are numbered from 0 within their stage, as TensorRT-LLM's ``layers.{l - first_layer}`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .quantized_layout import KV_SCALE, Along, linear_tensors

if TYPE_CHECKING:
    from ..specs import Mapping, ModelConfig

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int8": 1, "float8_e4m3fn": 1}


class Split(StrEnum):
    """How the ranks of a tensor-parallel group divide a tensor."""

    WHOLE = "whole"
    ROWS = "rows"
    COLUMNS = "columns"
    HEADS = "heads"


@dataclass(frozen=True)
class WholeTensor:
    """One tensor of the model before any division.

    Attributes
    ----------
    name
        Name in a checkpoint of one rank.
    shape
        Extents, without padding.
    dtype
        Element type as torch names it.
    split
        How tensor-parallel ranks divide it.
    layer
        Number of its layer in the whole model; None outside the layers.
    stage
        ``"first"``, ``"layers"`` or ``"last"``: which pipeline stage holds it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    split: Split
    layer: int | None
    stage: str


@dataclass(frozen=True)
class RankSlice:
    """What one rank holds of a `WholeTensor`.

    Attributes
    ----------
    rows
        Half-open ranges along dimension 0 of the whole, in the order in which they lie one below the other.
    columns
        Half-open range along dimension 1; None for all.
    padding
        Rows of zeros below.
    shape
        Extents of the result.
    """

    rows: tuple[tuple[int, int], ...]
    columns: tuple[int, int] | None
    padding: int
    shape: tuple[int, ...]


def expected_tensors(config: ModelConfig, mapping: Mapping | None = None) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the tensors of one rank: name → (shape, dtype), in the order of the network.

    Parameters
    ----------
    config
        The model; its `quantization` decides which linear layers are int8 with scales beside them.
    mapping
        The rank; None takes the one in `config`.

    Raises
    ------
    CheckpointError
        When the model cannot be divided so.
    """
    mapping = mapping or config.mapping
    return {
        rank_name(tensor, config, mapping): (rank_slice(tensor, config, mapping).shape, tensor.dtype)
        for tensor in rank_tensors(config, mapping)
    }


def rank_tensors(config: ModelConfig, mapping: Mapping) -> list[WholeTensor]:
    """Return the tensors of which `mapping`'s rank holds a part."""
    check_division(config, mapping)
    layers = set(mapping.pp_layers(config.num_hidden_layers))
    held = {"first": mapping.is_first_pp_rank, "last": mapping.is_last_pp_rank}
    return [
        tensor
        for tensor in whole_tensors(config)
        if (tensor.layer in layers if tensor.stage == "layers" else held[tensor.stage])
    ]


def rank_name(tensor: WholeTensor, config: ModelConfig, mapping: Mapping) -> str:
    """Return the tensor's name in the rank's file."""
    if tensor.layer is None:
        return tensor.name
    first = mapping.pp_layers(config.num_hidden_layers)[0]
    return tensor.name.replace(f".layers.{tensor.layer}.", f".layers.{tensor.layer - first}.", 1)


def rank_slice(tensor: WholeTensor, config: ModelConfig, mapping: Mapping) -> RankSlice:
    """Return which part of `tensor` the rank holds."""
    rows, parts, index = tensor.shape[0], mapping.tp_size, mapping.tp_rank
    if tensor.split is Split.HEADS:
        ranges = _joined(_head_rows(config, mapping))
        held = sum(end - start for start, end in ranges)
        return RankSlice(ranges, None, 0, (held, *tensor.shape[1:]))
    if tensor.split is Split.ROWS:
        share = -(-rows // parts)
        start, end = min(index * share, rows), min((index + 1) * share, rows)
        return RankSlice(((start, end),), None, share - (end - start), (share, *tensor.shape[1:]))
    if tensor.split is Split.COLUMNS:
        share = tensor.shape[1] // parts
        return RankSlice(((0, rows),), (index * share, (index + 1) * share), 0, (rows, share))
    return RankSlice(((0, rows),), None, 0, tensor.shape)


def whole_tensors(config: ModelConfig) -> list[WholeTensor]:
    """Return every tensor of the model before any division, in the order of the network."""
    return list(_whole_tensors(config))


def nbytes(shape: tuple[int, ...], dtype: str) -> int:
    """Return the bytes that a tensor takes."""
    return prod(shape) * ITEM_BYTES[dtype]


def check_division(config: ModelConfig, mapping: Mapping) -> None:
    """Raise `CheckpointError` when the model's extents cannot be divided over the ranks; lists every reason."""
    tp, pp = mapping.tp_size, mapping.pp_size
    problems: list[str] = []
    if config.num_hidden_layers % pp:
        problems.append(f"{config.num_hidden_layers} layers do not divide by pp_size {pp}")
    if config.num_attention_heads % tp:
        problems.append(f"{config.num_attention_heads} attention heads do not divide by tp_size {tp}")
    if config.num_attention_heads % config.kv_heads:
        problems.append(f"{config.num_attention_heads} attention heads do not divide by {config.kv_heads} K/V heads")
    if config.kv_heads % tp and tp % config.kv_heads:
        problems.append(f"neither {config.kv_heads} K/V heads divide by tp_size {tp} nor the reverse")
    if config.mlp_width % tp:
        problems.append(f"intermediate_size {config.mlp_width} does not divide by tp_size {tp}")
    if config.use_parallel_embedding and config.embedding_sharding_dim == 1 and config.hidden_size % tp:
        problems.append(f"hidden_size {config.hidden_size} does not divide by tp_size {tp} (embedding_sharding_dim 1)")
    if config.share_embedding_table:
        problems.extend(_sharing_problems(config, mapping))
    problems.extend(_quantization_problems(config, mapping))
    if problems:
        raise CheckpointError(
            f"The model cannot be laid out so: {'; '.join(problems)}.",
            where="mapping",
            remedy="Choose a mapping and options that fit; shard_plan(config) tries them without writing anything.",
        )


def _sharing_problems(config: ModelConfig, mapping: Mapping) -> list[str]:
    problems = []
    rows_parallel = config.use_parallel_embedding and config.embedding_sharding_dim == 0
    if not config.tie_word_embeddings:
        problems.append("share_embedding_table needs a model whose head is tied to its embedding")
    if mapping.tp_size > 1 and not rows_parallel:
        problems.append(
            "share_embedding_table over several ranks needs use_parallel_embedding with embedding_sharding_dim 0, "
            "the division that lm_head has"
        )
    if mapping.pp_size > 1:
        problems.append(
            "share_embedding_table needs one pipeline stage: the table is on the first, lm_head on the last"
        )
    if config.quantization.quant_algo is not None and not config.quantization.excludes("lm_head"):
        problems.append("share_embedding_table keeps lm_head in the embedding's type, so lm_head cannot be quantized")
    return problems


def _quantization_problems(config: ModelConfig, mapping: Mapping) -> list[str]:
    problems: list[str] = []
    mixed = config.quantization.quantized_layers is not None
    for name, shape, split, layer in linear_layers(config):
        quant = config.quantization.of_module(name)
        group, algo = quant.group_size, quant.quant_algo
        if algo is None or (layer not in (None, 0) and not mixed):
            continue
        inner = shape[1] // mapping.tp_size if split is Split.COLUMNS else shape[1]
        if quant.input_order and split is Split.COLUMNS and mapping.tp_size > 1:
            problems.append(
                f"{name}: with input_order a column's group may lie on another rank than its input; use tp_size 1"
            )
        if group is not None and inner % group:
            problems.append(f"{name}: {inner} input features a rank do not divide into groups of {group}")
        elif algo.weight_bits == 4 and inner % 2:
            problems.append(f"{name}: {inner} input features a rank cannot be packed two to a byte")
    return problems


def _head_rows(config: ModelConfig, mapping: Mapping) -> tuple[tuple[int, int], ...]:
    """Return this rank's rows of the whole [q; k; v]."""
    width, kv_heads, tp, index = config.head_width, config.kv_heads, mapping.tp_size, mapping.tp_rank
    queries = config.num_attention_heads // tp
    first_query = index * queries
    if kv_heads >= tp:
        keys, first_key = kv_heads // tp, index * (kv_heads // tp)
    else:
        keys, first_key = 1, index * kv_heads // tp  # tp // kv_heads neighbours hold the same head
    key_start = config.num_attention_heads * width
    value_start = key_start + kv_heads * width
    return (
        (first_query * width, (first_query + queries) * width),
        (key_start + first_key * width, key_start + (first_key + keys) * width),
        (value_start + first_key * width, value_start + (first_key + keys) * width),
    )


def _joined(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Return the ranges with those that follow on each other made one: a single rank holds q, k and v as they lie."""
    joined = [ranges[0]]
    for start, end in ranges[1:]:
        if start == joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


def linear_layers(config: ModelConfig) -> Iterator[tuple[str, tuple[int, int], Split, int | None]]:
    """Every linear layer: name, (out_features, in_features), split, layer."""
    hidden, attention, inner = config.hidden_size, config.attention_width, config.mlp_width
    qkv = attention + 2 * config.kv_heads * config.head_width
    for layer in range(config.num_hidden_layers):
        prefix = f"transformer.layers.{layer}"
        yield f"{prefix}.attention.qkv", (qkv, hidden), Split.HEADS, layer
        yield f"{prefix}.attention.dense", (hidden, attention), Split.COLUMNS, layer
        yield f"{prefix}.mlp.fc", (inner, hidden), Split.ROWS, layer
        if config.gated_mlp:
            yield f"{prefix}.mlp.gate", (inner, hidden), Split.ROWS, layer
        yield f"{prefix}.mlp.proj", (hidden, inner), Split.COLUMNS, layer
    if not config.share_embedding_table:
        yield "lm_head", (config.vocab_size, hidden), Split.ROWS, None


def _whole_tensors(config: ModelConfig) -> Iterator[WholeTensor]:
    hidden = config.hidden_size
    table = Split.WHOLE
    if config.use_parallel_embedding:
        table = Split.COLUMNS if config.embedding_sharding_dim == 1 else Split.ROWS
    embedding = "transformer.vocab_embedding.weight"
    yield WholeTensor(embedding, (config.vocab_size, hidden), config.dtype, table, None, "first")
    if config.position_embedding_type == "learned_absolute":
        positions = (config.max_position_embeddings, hidden)
        yield WholeTensor("transformer.position_embedding.weight", positions, config.dtype, table, None, "first")
    linears = {name: (shape, split, layer) for name, shape, split, layer in linear_layers(config)}
    for layer in range(config.num_hidden_layers):
        prefix = f"transformer.layers.{layer}"
        yield from _norm(f"{prefix}.input_layernorm", config, layer, "layers")
        for module, bias in (("attention.qkv", config.qkv_bias), ("attention.dense", config.dense_bias)):
            yield from _linear(f"{prefix}.{module}", *linears[f"{prefix}.{module}"], bias, config)
        if config.quantization.kv_cache_quant_algo is not None:
            yield WholeTensor(f"{prefix}.{KV_SCALE}", (1,), "float32", Split.WHOLE, layer, "layers")
        yield from _norm(f"{prefix}.post_layernorm", config, layer, "layers")
        for module in ("mlp.fc", "mlp.gate", "mlp.proj"):
            if f"{prefix}.{module}" in linears:
                yield from _linear(f"{prefix}.{module}", *linears[f"{prefix}.{module}"], config.mlp_bias, config)
    yield from _norm("transformer.ln_f", config, None, "last")
    if "lm_head" in linears:
        yield from _linear("lm_head", *linears["lm_head"], False, config)


def _norm(name: str, config: ModelConfig, layer: int | None, stage: str) -> Iterator[WholeTensor]:
    for kind in ("weight", "bias") if config.norm_type == "layernorm" else ("weight",):
        yield WholeTensor(f"{name}.{kind}", (config.hidden_size,), config.dtype, Split.WHOLE, layer, stage)


def _linear(
    name: str, shape: tuple[int, int], split: Split, layer: int | None, bias: bool, config: ModelConfig
) -> Iterator[WholeTensor]:
    stage = "last" if layer is None else "layers"
    outputs = Split.WHOLE if split is Split.COLUMNS else split  # what goes with output features: bias, channel scales
    inputs = Split.ROWS if split is Split.COLUMNS else Split.WHOLE  # one dimension, of input features
    splits = {Along.WEIGHT: split, Along.OUTPUTS: outputs, Along.INPUTS: inputs, Along.NOTHING: Split.WHOLE}
    for held in linear_tensors(config.quantization, name, shape, config.dtype):
        yield WholeTensor(f"{name}.{held.suffix}", held.shape, held.dtype, splits[held.along], layer, stage)
    if bias:
        yield WholeTensor(f"{name}.bias", (shape[0],), config.dtype, outputs, layer, stage)
