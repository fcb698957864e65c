"""Memory of the fullest rank by part, and how many sequences fit."""

from __future__ import annotations

from ...specs import ModelConfig
from .efficiency import execution_of
from .gpus import Gpu
from .result import MemoryPart
from .speed import PROMPT_TOKENS
from .work import ITEM_BYTES, RankWork

BLOCK_TOKENS = 64  # of the paged cache, as plugin_config.tokens_per_block
CAPACITY_STEP = 32  # of the contiguous cache


def cache_bytes(work: RankWork, sequences: int, tokens: int, *, paged: bool) -> int:
    """Return the bytes of a cache for `sequences` of `tokens` on one rank."""
    if paged:
        blocks = sequences * -(-tokens // BLOCK_TOKENS) + 1  # block 0 takes what nobody reads
        return blocks * BLOCK_TOKENS * work.cache_bytes_a_token
    return sequences * -(-tokens // CAPACITY_STEP) * CAPACITY_STEP * work.cache_bytes_a_token


def activation_bytes(config: ModelConfig, work: RankWork, compute_dtype: str, sequences: int, input_len: int) -> int:
    """Return the bytes of the largest tensors that live at the same time in the prompt phase, and of the logits."""
    tokens = min(sequences * input_len, max(PROMPT_TOKENS, input_len))
    tp = config.mapping.tp_size
    qkv = (work.query_heads + 2 * work.kv_heads) * work.head_size
    gates = 2 if config.gated_mlp else 1
    row = 3 * config.hidden_size + max(qkv, gates * config.mlp_width // tp) + config.mlp_width // tp
    return tokens * row * ITEM_BYTES[compute_dtype] + sequences * config.vocab_size * 4


def memory_parts(
    config: ModelConfig,
    works: tuple[RankWork, ...],
    gpu: Gpu,
    backend: str,
    compute_dtype: str,
    *,
    sequences: int,
    tokens: int,
    input_len: int,
) -> list[MemoryPart]:
    """Return the memory of the rank that needs most, by part."""
    execution = execution_of(backend, on_gpu=not gpu.is_cpu)
    paged = not gpu.is_cpu
    work = max(works, key=lambda item: item.weights_bytes + cache_bytes(item, sequences, tokens, paged=paged))
    unit = f"blocks of {BLOCK_TOKENS} tokens" if paged else f"in steps of {CAPACITY_STEP} tokens"
    cached = cache_bytes(work, sequences, tokens, paged=paged)
    activations = activation_bytes(config, work, compute_dtype, sequences, input_len)
    return [
        MemoryPart(name="weights", bytes=work.weights_bytes, basis="counted: all tensors of the rank, with scales"),
        MemoryPart(name="K/V cache", bytes=cached, basis=f"counted: {sequences} × {tokens:,} tokens, {unit}"),
        MemoryPart(name="activations", bytes=activations, basis="counted: the prompt's widest layer, and logits"),
        MemoryPart(
            name="graphs and workspaces" if paged else "workspaces", bytes=execution.workspace_bytes, basis="assumed"
        ),
        MemoryPart(
            name="context", bytes=execution.context_bytes,
            basis="assumed: CUDA context and libraries" if paged else "assumed: interpreter and libraries",
        ),
    ]  # fmt: skip


def largest_batch(
    config: ModelConfig, works: tuple[RankWork, ...], gpu: Gpu, backend: str, compute_dtype: str,
    *, tokens: int, input_len: int,
) -> int | None:  # fmt: skip
    """Return the most sequences of `tokens` that fit; None where not even one does."""

    def fits(sequences: int) -> bool:
        parts = memory_parts(
            config, works, gpu, backend, compute_dtype, sequences=sequences, tokens=tokens, input_len=input_len
        )
        return sum(part.bytes for part in parts) <= gpu.memory_bytes

    if not fits(1):
        return None
    low, high = 1, 2
    while fits(high):  # ends: each sequence takes a cache and logits
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
