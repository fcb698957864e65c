"""The named inputs and outputs of a decoder engine, derived from its configuration: data only, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..specs import Mapping, ModelConfig, PluginConfig

BATCH, LENGTH, LOGITS, CAPACITY = "batch", "length", "num_logits", "capacity"
TOKENS, ROWS, STARTS = "num_tokens", "num_rows", "num_rows_and_end"
BLOCKS, ROW_BLOCKS = "num_blocks", "blocks_per_row"


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output of an engine.

    Attributes
    ----------
    name
        The name to bind.
    mode
        ``"input"`` or ``"output"``.
    dtype
        Torch's name of the element type, for example ``"float32"`` or ``"int64"``.
    shape
        Sizes; a string names a dynamic dimension, and equal names must be equal sizes in one run.
    aliases
        For an output that shares its memory with an input: that input's name. It needs no binding of its own.
    """

    name: str
    mode: str
    dtype: str
    shape: tuple[int | str, ...]
    aliases: str | None = None


def kv_heads_per_rank(config: ModelConfig, mapping: Mapping) -> int:
    """Return the K/V heads one rank holds: split over tp, or replicated where there are fewer heads than ranks."""
    return max(1, config.kv_heads // mapping.tp_size)


def signature(
    config: ModelConfig,
    mapping: Mapping,
    compute_dtype: str,
    *,
    capacity: int | str = CAPACITY,
    joined: bool = False,
) -> tuple[TensorSpec, ...]:
    """Return every input and output of one rank's engine, inputs first.

    Parameters
    ----------
    config, mapping
        The model and the rank.
    compute_dtype
        Element type of the cache and of hidden states between pipeline stages.
    capacity
        Tokens a cache row holds: a name where each call chooses it, a number where the engine fixes it.
    joined
        The engine passes hidden states between pipeline stages by itself: each takes ids and has logits.
    """
    num_layers = len(mapping.pp_layers(config.num_hidden_layers))
    cache = (BATCH, kv_heads_per_rank(config, mapping), capacity, config.head_width)
    hidden = (BATCH, LENGTH, config.hidden_size)

    inputs = [
        TensorSpec("input_ids", "input", "int64", (BATCH, LENGTH))
        if mapping.is_first_pp_rank or joined
        else TensorSpec("hidden_states_input", "input", compute_dtype, hidden),
        TensorSpec("write_indices", "input", "int64", (BATCH,)),
    ]
    if mapping.is_last_pp_rank or joined:
        inputs.append(TensorSpec("logit_indices", "input", "int64", (BATCH, LOGITS)))
        outputs = [TensorSpec("logits", "output", "float32", (BATCH, LOGITS, config.vocab_size))]
    else:
        outputs = [TensorSpec("hidden_states_output", "output", compute_dtype, hidden)]
    for layer in range(num_layers):
        for kind in ("key", "value"):
            past = f"past_{kind}_{layer}"
            inputs.append(TensorSpec(past, "input", compute_dtype, cache))
            outputs.append(TensorSpec(f"present_{kind}_{layer}", "output", compute_dtype, cache, aliases=past))
    return (*inputs, *outputs)


@dataclass(frozen=True)
class PagedForm:
    """How an engine's cache is paged.

    Attributes
    ----------
    tokens_per_block
        Tokens a block of the pool holds.
    cache_dtype
        Element type of a quantized pool, ``"int8"`` or ``"float8_e4m3fn"``; None for the computation's type.
    splits
        0 makes one attention node that takes prompts and single tokens. A number makes nodes for decode steps (one new
        token a row), which divide the keys of a row over so many programs and combine the parts.
    """

    tokens_per_block: int
    cache_dtype: str | None = None
    splits: int = 0

    @classmethod
    def of(cls, config: ModelConfig, plugins: PluginConfig, *, splits: int = 0) -> PagedForm | None:
        """Return the form of an engine with these (resolved) options, None where its cache is not paged."""
        if not (plugins.paged_kv_cache and plugins.enabled("gpt_attention_plugin")):
            return None
        algo = config.quantization.kv_cache_quant_algo
        dtype = None if algo is None else {"INT8": "int8", "FP8": "float8_e4m3fn"}[algo.value]
        return cls(plugins.tokens_per_block, dtype, splits)


def paged_signature(
    config: ModelConfig,
    mapping: Mapping,
    compute_dtype: str,
    *,
    tokens_per_block: int,
    cache_dtype: str | None = None,
    joined: bool = False,
) -> tuple[TensorSpec, ...]:
    """Return every input and output of one rank's engine in the paged form, inputs first (see `backends.protocol`).

    Parameters
    ----------
    config, mapping
        The model and the rank.
    compute_dtype
        Element type of hidden states between pipeline stages.
    tokens_per_block
        Tokens a block of the pool holds.
    cache_dtype
        Element type of the pool: ``"float16"``, ``"bfloat16"``, ``"float32"``, ``"int8"`` or ``"float8_e4m3fn"``; None
        takes the type of the computation.
    joined
        As for `signature`.
    """
    num_layers = len(mapping.pp_layers(config.num_hidden_layers))
    pool = (BLOCKS, 2, kv_heads_per_rank(config, mapping), tokens_per_block, config.head_width)
    hidden = (TOKENS, config.hidden_size)

    inputs = [
        TensorSpec("input_ids", "input", "int32", (TOKENS,))
        if mapping.is_first_pp_rank or joined
        else TensorSpec("hidden_states_input", "input", compute_dtype, hidden),
        TensorSpec("position_ids", "input", "int32", (TOKENS,)),
        TensorSpec("token_rows", "input", "int32", (TOKENS,)),
        TensorSpec("query_starts", "input", "int32", (STARTS,)),
        TensorSpec("kv_lengths", "input", "int32", (ROWS,)),
        TensorSpec("block_tables", "input", "int32", (ROWS, ROW_BLOCKS)),
    ]
    if mapping.is_last_pp_rank or joined:
        inputs.append(TensorSpec("logit_indices", "input", "int32", (LOGITS,)))
        outputs = [TensorSpec("logits", "output", "float32", (LOGITS, config.vocab_size))]
    else:
        outputs = [TensorSpec("hidden_states_output", "output", compute_dtype, hidden)]
    for layer in range(num_layers):
        past = f"kv_cache_{layer}"
        inputs.append(TensorSpec(past, "input", cache_dtype or compute_dtype, pool))
        outputs.append(TensorSpec(f"kv_cache_out_{layer}", "output", cache_dtype or compute_dtype, pool, aliases=past))
    return (*inputs, *outputs)
