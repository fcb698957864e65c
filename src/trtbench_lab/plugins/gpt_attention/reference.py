"""Paged attention in plain PyTorch: the definition that every other form is held to, and what runs on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...quantization.fp8 import rounded_to_fp8
from .shape import AttentionShape


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Rotate the first elements of each head, in float32.

    Parameters
    ----------
    x
        (N, H, D) float32.
    cos, sin
        (N, R / 2) of each token's position; R elements are rotated.
    """
    half = cos.shape[-1]
    c, s = cos.float()[:, None], sin.float()[:, None]  # (N, 1, R / 2)
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((first * c - second * s, second * c + first * s), -1).flatten(-2)
    else:
        first, second = turned[..., :half], turned[..., half:]
        turned = torch.cat((first * c - second * s, second * c + first * s), -1)
    return torch.cat((turned, rest), -1)


def store_as(x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Turn float32 keys or values into what a cache of type `dtype` holds: ``quantize(x / scale)``, or x itself."""
    if dtype == torch.int8:
        return (x / scale).round().clamp(-128, 127).to(dtype)
    if dtype == torch.float8_e4m3fn:
        return rounded_to_fp8(x / scale)
    return x.to(dtype)


def cache_update(
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    position_ids: torch.Tensor,
    token_rows: torch.Tensor,
    block_tables: torch.Tensor,
    kv_scale: torch.Tensor | None,
    kv_cache: torch.Tensor,
    shape: AttentionShape,
) -> torch.Tensor:
    """Rotate queries and keys, and write keys and values to their slots.

    Parameters
    ----------
    qkv
        (N, (Hq + 2 Hkv) · D): queries of all heads, then keys, then values.
    cos, sin
        (positions, rotary_dim / 2) tables; not read when `rotary_dim` is 0.
    position_ids, token_rows
        (N,) int32; tokens of row −1 are padding and write nothing.
    block_tables
        (B, M) int32.
    kv_scale
        (1,) float32 for a quantized cache.
    kv_cache
        (P, 2, Hkv, bs, D), changed in place.

    Returns
    -------
    (N, Hq · D): the rotated queries, in the type of `qkv`.
    """
    heads, kv_heads, block_size = shape.num_heads, shape.num_kv_heads, shape.tokens_per_block
    live = token_rows >= 0
    positions = torch.where(live, position_ids, 0).long()
    x = qkv.float().unflatten(-1, (heads + 2 * kv_heads, shape.head_size))  # (N, H, D)
    turned, value = x[:, : heads + kv_heads], x[:, heads + kv_heads :]
    if shape.rotary_dim and cos is not None and sin is not None:
        turned = rotate(turned, cos[positions], sin[positions], shape.interleaved)
    query, key = turned[:, :heads], turned[:, heads:]
    scale = torch.ones(1, device=qkv.device) if kv_scale is None else kv_scale
    rows, positions = token_rows[live].long(), positions[live]
    blocks = block_tables[rows, positions // block_size].long()
    stored = torch.stack((key, value), 1)[live]  # (n, 2, Hkv, D)
    kv_cache[blocks, :, :, positions % block_size] = store_as(stored, scale, kv_cache.dtype)
    return query.flatten(1).to(qkv.dtype).contiguous()


def attention(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    query_starts: torch.Tensor,
    kv_lengths: torch.Tensor,
    block_tables: torch.Tensor,
    kv_scale: torch.Tensor | None,
    shape: AttentionShape,
) -> torch.Tensor:
    """Softmax attention of packed tokens over the keys of their own rows, computed in float32.

    Parameters
    ----------
    query
        (N, Hq · D), rotated, not scaled.
    kv_cache
        (P, 2, Hkv, bs, D), this step's keys and values included. Slots that nobody sees may hold anything.
    query_starts, kv_lengths, block_tables, kv_scale
        See `backends.protocol`.

    Returns
    -------
    (N, Hq · D) in the type of `query`; 0 for tokens of no row.
    """
    heads, kv_heads, size, block_size = shape.num_heads, shape.num_kv_heads, shape.head_size, shape.tokens_per_block
    out = torch.zeros_like(query)
    starts = query_starts.tolist()
    for row, length in enumerate(kv_lengths.tolist()):
        begin, end = starts[row], starts[row + 1]
        if end == begin:
            continue
        blocks = block_tables[row, : -(-length // block_size)].long()
        cached = kv_cache[blocks].permute(1, 2, 0, 3, 4)  # (2, Hkv, m, bs, D)
        cached = cached.reshape(2, kv_heads, -1, size)[:, :, :length].float()
        if kv_scale is not None:
            cached = cached * kv_scale
        key, value = cached[0], cached[1]  # (Hkv, S, D)
        count = end - begin
        q = query[begin:end].float().view(count, kv_heads, heads // kv_heads, size)
        q = q.permute(1, 2, 0, 3).reshape(kv_heads, -1, size)  # (Hkv, group · T, D)
        positions = torch.arange(length - count, length, device=query.device)[:, None]  # (T, 1)
        slots = torch.arange(length, device=query.device)
        mask = slots <= positions
        if shape.window:
            mask &= slots > positions - shape.window
        mask = mask.repeat(heads // kv_heads, 1)  # (group · T, S)
        context = F.scaled_dot_product_attention(q[None], key[None], value[None], attn_mask=mask, scale=shape.scale)[0]
        context = context.view(kv_heads, heads // kv_heads, count, size).permute(2, 0, 1, 3)
        out[begin:end] = context.reshape(count, -1).to(query.dtype)
    return out


def attention_parts(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    query_starts: torch.Tensor,
    kv_lengths: torch.Tensor,
    block_tables: torch.Tensor,
    kv_scale: torch.Tensor | None,
    shape: AttentionShape,
    splits: int,
    tile: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of each row's last token over each of `splits` parts of its keys, in whole tiles of `tile` keys.

    Returns
    -------
    parts (B, Hq, splits, D) float32, and their weights (B, Hq, splits) float32: log₂ of the sum of exponentials, −∞
    for a part without keys.
    """
    heads, kv_heads, size, block_size = shape.num_heads, shape.num_kv_heads, shape.head_size, shape.tokens_per_block
    num_rows = kv_lengths.shape[0]
    parts = query.new_zeros((num_rows, heads, splits, size), dtype=torch.float32)
    weights = query.new_full((num_rows, heads, splits), float("-inf"), dtype=torch.float32)
    ends = query_starts[1:].tolist()
    for row, length in enumerate(kv_lengths.tolist()):
        if length == 0:
            continue
        blocks = block_tables[row, : -(-length // block_size)].long()
        cached = kv_cache[blocks].permute(1, 2, 0, 3, 4).reshape(2, kv_heads, -1, size)[:, :, :length].float()
        if kv_scale is not None:
            cached = cached * kv_scale
        q = query[max(ends[row] - 1, 0)].float().view(kv_heads, -1, size)  # (Hkv, group, D)
        scores = (q @ cached[0].transpose(1, 2)) * shape.scale  # (Hkv, group, S)
        if shape.window:
            scores[..., : max(0, length - shape.window)] = float("-inf")
        oldest = max(0, length - shape.window) // tile * tile if shape.window else 0
        tiles = -(-(length - oldest) // tile)
        per_part = -(-tiles // splits) * tile
        for part in range(splits):
            begin = oldest + part * per_part
            end = min(begin + per_part, length)
            if begin >= end:
                continue
            some = scores[..., begin:end]
            weight = torch.logsumexp(some, -1)  # (Hkv, group)
            share = torch.where(weight[..., None].isinf(), 0.0, (some - weight[..., None]).exp())
            parts[row, :, part] = (share @ cached[1][:, begin:end]).reshape(heads, size)
            weights[row, :, part] = weight.reshape(heads) / torch.log(torch.tensor(2.0))
    return parts, weights


def combine(parts: torch.Tensor, weights: torch.Tensor, token_rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Weigh the parts of each token's row; (N, Hq · D) of type `dtype`, 0 for padding."""
    most = weights.amax(-1, keepdim=True)
    share = torch.where(weights.isinf(), 0.0, (weights - torch.where(most.isinf(), 0.0, most)).exp2())
    share = share / share.sum(-1, keepdim=True).clamp_min(1e-38)
    whole = (torch.where(share[..., None] > 0, parts, 0.0) * share[..., None]).sum(2)  # (B, Hq, D)
    live = token_rows >= 0
    chosen = whole[torch.where(live, token_rows, 0).long()]  # (N, Hq, D)
    return torch.where(live[:, None, None], chosen, 0.0).flatten(1).to(dtype)
