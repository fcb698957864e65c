"""The op vocabulary: each op runs eagerly as plain PyTorch and is a node (or two) of its own in an exported network.

Eagerly these are ordinary functions: a dispatcher round trip costs about 5 µs, and a decode step makes over a hundred
calls. While `torch.export` traces they go through the `trtbench` library instead, which keeps each of them whole in
the graph; `onnx_translation` says what becomes of it. The two cache ops become nodes of TensorRT's own operators
directly, with functions of the same name for everybody else (`onnx_functions`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.library import Library, register_fake

from ..plugins.function_node import function_node

LIBRARY = "trtbench"
TENSORRT_DOMAIN = "trtbench.trt"
"""Domain of the nodes that TensorRT's parser knows by name, whatever their domain."""

_library = Library(LIBRARY, "FRAGMENT")
for _schema in (
    "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    "split(Tensor x, int[] sizes, int dim) -> Tensor[]",
    "split_heads(Tensor x, int num_heads) -> Tensor",
    "merge_heads(Tensor x) -> Tensor",
    "select_tokens(Tensor x, Tensor indices) -> Tensor",
    "token_positions(Tensor tokens, Tensor write_indices) -> Tensor",
    "visible_keys(Tensor positions, Tensor past_key, int? window) -> Tensor",
    "rotary_embedding(Tensor x, Tensor cos, Tensor sin, bool interleaved) -> Tensor",
    "rms_norm(Tensor x, Tensor weight, float epsilon) -> Tensor",
):
    _library.define(_schema)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x Wᵀ + b``: x (…, in), weight (out, in), bias (out,) or None → (…, out)."""
    if torch.compiler.is_exporting():
        return torch.ops.trtbench.linear(x, weight, bias)
    return F.linear(x, weight, bias)


def split(x: torch.Tensor, sizes: Sequence[int], dim: int) -> Sequence[torch.Tensor]:
    """Cut dimension `dim` into parts of the given sizes."""
    if torch.compiler.is_exporting():
        return torch.ops.trtbench.split(x, list(sizes), dim)
    return x.split(list(sizes), dim=dim)


def split_heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(B, T, H · D) → (B, H, T, D)."""
    if torch.compiler.is_exporting():
        return torch.ops.trtbench.split_heads(x, num_heads)
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """(B, H, T, D) → (B, T, H · D)."""
    if torch.compiler.is_exporting():
        return torch.ops.trtbench.merge_heads(x)
    return x.transpose(1, 2).flatten(2)


def select_tokens(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Rows of x (B, T, width) at indices (B, K) → (B, K, width); packed: x (N, width), indices (K,) → (K, width)."""
    if indices.ndim == 1:
        return x.index_select(0, indices)
    if torch.compiler.is_exporting():
        return torch.ops.trtbench.select_tokens(x, indices)
    return x.gather(1, indices[:, :, None].expand(-1, -1, x.shape[-1]))


def token_positions(tokens: torch.Tensor, write_indices: torch.Tensor) -> torch.Tensor:
    """Positions of T new tokens after ``write_indices`` (B,) old ones → (B, T) int64; of tokens only T is used."""
    if torch.compiler.is_exporting():
        return torch.ops.trtbench.token_positions(tokens, write_indices)
    return write_indices[:, None] + torch.arange(tokens.shape[1], device=tokens.device)


def visible_keys(positions: torch.Tensor, past_key: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which cache slots each new token sees: those up to its own position, at most `window` of them.

    Parameters
    ----------
    positions
        (B, T) int64.
    past_key
        (B, Hkv, S, D); only S is used.
    window
        Length of the sliding window, the token itself included; None sees all.

    Returns
    -------
    (B, 1, T, S) bool
    """
    if torch.compiler.is_exporting():
        return torch.ops.trtbench.visible_keys(positions, past_key, window)
    slots = torch.arange(past_key.shape[2], device=positions.device)  # (S,)
    last = positions[:, None, :, None]  # (B, 1, T, 1)
    mask = slots <= last
    return mask if window is None else mask & (slots > last - window)


def kv_cache_update(past: torch.Tensor, update: torch.Tensor, write_indices: torch.Tensor) -> torch.Tensor:
    """Write new keys or values into the cache and return the cache.

    Parameters
    ----------
    past
        (B, Hkv, S, D). Changed in place when run eagerly.
    update
        (B, Hkv, T, D).
    write_indices
        (B,) int64: row b's tokens go to positions ``write_indices[b] … + T − 1``.
    """
    if torch.compiler.is_exporting():
        attributes: dict[str, int | str] = {"update_form": "padded_bhnd", "mode": "linear", "axis": -2}
        return function_node(f"{TENSORRT_DOMAIN}::TRT_KVCacheUpdate", [past, update, write_indices], attributes, past)
    batch, _, length, _ = update.shape
    if batch == 1 and past.device.type == "cpu":  # one window of the cache: a copy instead of a scatter
        start = int(write_indices[0])
        past[:, :, start : start + length] = update
        return past
    slots = write_indices[:, None] + torch.arange(length, device=past.device)  # (B, T)
    rows = torch.arange(batch, device=past.device)[:, None]  # (B, 1)
    past[rows, :, slots] = update.transpose(1, 2)  # indexed dimensions come first: (B, T, Hkv, D)
    return past


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax attention with an explicit mask; the caller has scaled `query`.

    Parameters
    ----------
    query
        (B, Hq, T, D), Hq a multiple of Hkv.
    key, value
        (B, Hkv, S, D).
    mask
        (B, 1, T, S) bool, True where a query sees a key.

    Returns
    -------
    (B, Hq, T, D)
    """
    if torch.compiler.is_exporting():
        attributes = {"causal_kind": "none", "query_form": "padded_bhnd", "kv_form": "padded_bhnd"}
        return function_node(f"{TENSORRT_DOMAIN}::TRT_Attention", [query, key, value, mask], attributes, query)
    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    if heads == kv_heads:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
    # Grouped heads become queries of their one K/V head, so that K and V are never repeated in memory.
    group = heads // kv_heads
    grouped = query.reshape(batch, kv_heads, group * length, size)
    if length > 1:
        mask = mask.repeat(1, 1, group, 1)  # (B, 1, group · T, S)
    out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=1.0)
    return out.reshape(batch, heads, length, size)


def rotary_embedding(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Rotate the first ``2 · R`` elements of each head by its position's angles.

    Parameters
    ----------
    x
        (B, H, T, D).
    cos, sin
        (B, T, R), of each token's own position.
    interleaved
        True pairs elements (2i, 2i+1), as GPT-J; False pairs (i, i+R), as GPT-NeoX and LLaMA.
    """
    if torch.compiler.is_exporting():
        return torch.ops.trtbench.rotary_embedding(x, cos, sin, interleaved)
    half = cos.shape[-1]
    c, s = cos[:, None], sin[:, None]  # (B, 1, T, R)
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((first * c - second * s, second * c + first * s), -1).flatten(-2)
    else:
        first, second = turned[..., :half], turned[..., half:]
        turned = torch.cat((first * c - second * s, second * c + first * s), -1)
    return turned if rest.shape[-1] == 0 else torch.cat((turned, rest), -1)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Scale the last dimension to unit root mean square, computed in float32, then by `weight`."""
    if torch.compiler.is_exporting():
        return torch.ops.trtbench.rms_norm(x, weight, epsilon)
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight * wide.to(x.dtype)


# What `torch.export` needs to know of each op: the shape of its result.


@register_fake(f"{LIBRARY}::linear", lib=_library)
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@register_fake(f"{LIBRARY}::split", lib=_library)
def _(x: torch.Tensor, sizes: Sequence[int], dim: int) -> list[torch.Tensor]:
    shape = list(x.shape)
    return [x.new_empty((*shape[:dim], size, *shape[dim + 1 :])) for size in sizes]


@register_fake(f"{LIBRARY}::split_heads", lib=_library)
def _(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    batch, length, width = x.shape
    return x.new_empty((batch, num_heads, length, width // num_heads))


@register_fake(f"{LIBRARY}::merge_heads", lib=_library)
def _(x: torch.Tensor) -> torch.Tensor:
    batch, heads, length, size = x.shape
    return x.new_empty((batch, length, heads * size))


@register_fake(f"{LIBRARY}::select_tokens", lib=_library)
def _(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*indices.shape, x.shape[-1]))


@register_fake(f"{LIBRARY}::token_positions", lib=_library)
def _(tokens: torch.Tensor, write_indices: torch.Tensor) -> torch.Tensor:
    return write_indices.new_empty(tokens.shape[:2])


@register_fake(f"{LIBRARY}::visible_keys", lib=_library)
def _(positions: torch.Tensor, past_key: torch.Tensor, window: int | None) -> torch.Tensor:
    batch, length = positions.shape
    return positions.new_empty((batch, 1, length, past_key.shape[2]), dtype=torch.bool)


@register_fake(f"{LIBRARY}::rotary_embedding", lib=_library)
def _(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    return torch.empty_like(x)


@register_fake(f"{LIBRARY}::rms_norm", lib=_library)
def _(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return torch.empty_like(x)
