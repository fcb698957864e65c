"""The attention kernels as functions over tensors that the caller owns: nothing is allocated, nothing waits.

All of them may be captured in a CUDA graph: lengths, positions and tables are read on the device, and grids depend on
the shapes of the tensors alone. On tensors of the CPU they run in Triton's interpreter, which is for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from ...errors import SpecError
from ..frame.call import Launch
from ..frame.interpreter import interpret
from .plans import combine_plan, flash_plan, split_plan, update_plan
from .shape import AttentionShape


def write_cache(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    position_ids: torch.Tensor,
    token_rows: torch.Tensor,
    block_tables: torch.Tensor,
    kv_scale: torch.Tensor,
    kv_cache: torch.Tensor,
    query: torch.Tensor,
    shape: AttentionShape,
) -> None:
    """Rotate queries and keys of N tokens, write keys and values to the cache and the queries to `query`.

    Parameters
    ----------
    qkv
        (N, (Hq + 2 Hkv) · D).
    cos, sin
        (positions, rotary_dim / 2), any float type; any tensor (it is not read) when `rotary_dim` is 0.
    position_ids, token_rows, block_tables
        int32, see `backends.protocol`.
    kv_scale
        (1,) float32; 1 for a cache that is not quantized.
    kv_cache
        (P, 2, Hkv, bs, D), changed in place.
    query
        (N, Hq · D), written.
    """
    plan = update_plan(shape, _name(kv_cache), qkv.shape[0], block_tables.shape[1])
    inputs = (qkv, cos, sin, position_ids, token_rows, block_tables, kv_scale, kv_cache)
    run_plan(plan, inputs, (query, kv_cache))


def prompt_attention(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    query_starts: torch.Tensor,
    kv_lengths: torch.Tensor,
    block_tables: torch.Tensor,
    kv_scale: torch.Tensor,
    out: torch.Tensor,
    shape: AttentionShape,
) -> None:
    """Flash attention of packed tokens; any number of tokens a row, those of a prompt's later pieces too.

    Parameters
    ----------
    query
        (N, Hq · D), as `write_cache` leaves it, or the front of wider rows: of packed projections, rotated in place.
    query_starts, kv_lengths, block_tables
        (B + 1,), (B,), (B, M) int32. For the last rows of a batch only, pass their part of each.
    kv_scale
        (1,) float32.
    out
        (N, Hq · D), written from the first row's first token on: 0 for the tokens after the last row.
    """
    rows, columns = block_tables.shape
    plan = flash_plan(shape, _name(query), query.shape[0], rows, columns, query_width=query.stride(0))
    run_plan(plan, (query, kv_cache, query_starts, kv_lengths, block_tables, kv_scale), (out,))


def split_attention(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    query_starts: torch.Tensor,
    kv_lengths: torch.Tensor,
    block_tables: torch.Tensor,
    kv_scale: torch.Tensor,
    parts: torch.Tensor,
    weights: torch.Tensor,
    shape: AttentionShape,
) -> None:
    """Attention of each row's last token over parts of its keys; `combine_parts` brings them together.

    Parameters
    ----------
    parts, weights
        (B, Hq, splits, D) and (B, Hq, splits) float32, written.
    """
    rows, columns = block_tables.shape
    plan = split_plan(shape, _name(kv_cache), rows, columns, parts.shape[2], query_width=query.stride(0))
    run_plan(plan, (query, kv_cache, query_starts, kv_lengths, block_tables, kv_scale), (parts, weights))


def combine_parts(parts: torch.Tensor, weights: torch.Tensor, token_rows: torch.Tensor, out: torch.Tensor) -> None:
    """Weigh the parts of each token's row: out (N, Hq · D), 0 for padding."""
    plan = combine_plan(parts.shape[1], parts.shape[3], token_rows.shape[0], parts.shape[2])
    run_plan(plan, (parts, weights, token_rows, out), (out,))


@lru_cache
def num_sms(device: torch.device) -> int:
    """Return the multiprocessors of a GPU; 1 for a CPU."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def run_plan(plan: Launch, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> None:
    """Launch a kernel of this package: pointers of inputs, the plan's integers, pointers of outputs."""
    from . import kernels

    if 0 in plan.grid:
        return
    kernel = getattr(kernels, plan.kernel)
    # Only kernels that are told the width of a token's row take queries out of wider ones.
    lies = inputs[0].stride(-1) == 1 if "QUERY_WIDTH" in plan.constants else inputs[0].is_contiguous()
    if not lies or not all(tensor.is_contiguous() for tensor in [*inputs[1:], *outputs]):
        raise SpecError(
            "The attention kernels read whole tensors, one row after the other.",
            where=plan.kernel,
            remedy="Pass contiguous tensors; queries alone may be the front of wider rows.",
        )
    arguments = [*inputs, *plan.arguments.values(), *outputs]
    if not outputs[0].is_cuda:
        interpret(kernel, plan.grid, arguments, plan.constants)
        return
    kernel[plan.grid](*arguments, **plan.constants, num_warps=plan.num_warps, num_stages=plan.num_stages)


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
