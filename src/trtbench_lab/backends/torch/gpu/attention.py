"""Attention of a step over the paged cache: the fused decode kernel, flash attention, and the definition."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ....errors import SpecError
from ....plugins.frame.contiguous import check_contiguous
from ....plugins.gpt_attention.reference import store_as
from ....specs import ModelConfig
from .ops import kernels, kernels_run_on, launch, launch_options, power_of_two

_QUANTIZED = {torch.int8: 1, torch.float8_e4m3fn: 3}


@dataclass(frozen=True)
class DecodeTiles:
    """How the decode kernel divides its work.

    Attributes
    ----------
    splits
        Programs that share the keys of one row and K/V head; a power of two.
    tile
        Keys that a program takes at a time.
    warps
        Of a program.
    ahead
        Whether each tile is requested before the one before it is used.
    """

    splits: int
    tile: int
    warps: int = 4
    ahead: bool = False


@dataclass
class Scratch:
    """Memory that the decode kernel's parts meet in; one for all layers of a step of one size."""

    parts: torch.Tensor
    stats: torch.Tensor
    counts: torch.Tensor
    tiles: DecodeTiles


@dataclass(frozen=True)
class Heads:
    """Extents and traits of a model's attention on this rank."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    rotary_pairs: int
    interleaved: bool
    window: int | None
    softmax_scale: float

    @classmethod
    def of(cls, config: ModelConfig) -> Heads:
        """Read them from a model's configuration, whose mapping says which rank this is."""
        tp = config.mapping.tp_size
        return cls(
            config.num_attention_heads // tp,
            max(1, config.kv_heads // tp),
            config.head_width,
            config.rotary_dim // 2 if config.uses_rope else 0,
            config.position_embedding_type == "rope_gptj",
            config.sliding_window,
            config.head_width**-0.5,
        )

    @property
    def qkv_width(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_size


@dataclass
class PromptRows:
    """The rows of a packed prompt step, on the host and on the device.

    Attributes
    ----------
    starts
        First packed token of each row, and the end: B + 1 numbers.
    first_positions
        Position of each row's first token: tokens already in its cache.
    starts_on_device
        The same starts, int32.
    lengths_on_device
        (B,) int32: tokens of each row's cache, these included.
    tables
        (B, M) int32: the rows' blocks.
    """

    starts: list[int]
    first_positions: list[int]
    starts_on_device: torch.Tensor
    lengths_on_device: torch.Tensor
    tables: torch.Tensor

    @property
    def fresh(self) -> bool:
        """Whether no row has anything in its cache yet."""
        return not any(self.first_positions)

    @property
    def longest(self) -> int:
        return max(end - start for start, end in zip(self.starts, self.starts[1:], strict=False))


def decode_tiles(rows: int, heads: Heads, max_tokens: int, processors: int, mode: str = "auto") -> DecodeTiles:
    """Return the division of a decode step's attention.

    Measured on 132 multiprocessors: narrow heads want four programs a multiprocessor, wide ones two, and no more than 8
    parts of up to 2,048 keys in all, since the parts of a whole group must be combined; where rows and heads alone fill
    the GPU, small tiles leave room for more programs. Requesting a tile ahead takes 0.07 ms from a step of 32 layers
    with wide heads at one row, and adds 0.1 ms to 24 layers with narrow ones at eight. `mode` is ``multi_block_mode``:
    ``"disable"`` never splits, ``"enable"`` always.
    """
    small = 32 if heads.head_size <= 128 else 16
    narrow = heads.head_size <= 64
    wanted = (4 if narrow else 2) * processors / (rows * heads.num_kv_heads)
    most = min(32 if narrow else max(8, max_tokens // 256), -(-max_tokens // small), 64)
    splits = 1 << int(math.log2(max(1.0, min(wanted, most))))
    if mode != "auto":
        splits = 1 if mode == "disable" else max(2, splits)
    return DecodeTiles(splits, small if splits == 1 else 2 * small, ahead=not narrow and splits >= 8)


def decode_scratch(rows: int, heads: Heads, tiles: DecodeTiles, device: torch.device) -> Scratch:
    """Return memory for steps of up to `rows` rows."""
    group = heads.num_heads // heads.num_kv_heads
    parts = torch.zeros(rows * heads.num_kv_heads * tiles.splits * group, heads.head_size, device=device)
    stats = torch.zeros(rows * heads.num_kv_heads * tiles.splits * group, 2, device=device)
    counts = torch.zeros(rows * heads.num_kv_heads, dtype=torch.int32, device=device)
    return Scratch(parts, stats, counts, tiles)


def decode(
    qkv: torch.Tensor,
    cache: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    positions: torch.Tensor,
    tables: torch.Tensor,
    heads: Heads,
    scratch: Scratch,
    *,
    kv_scale: float = 1.0,
    early: bool = False,
) -> torch.Tensor:
    """One new token a row: append its key and value, and return its attention over the row.

    Parameters
    ----------
    qkv
        (B, (H + 2 Hkv) D), not yet rotated.
    cache
        (P, 2, Hkv, block, D), changed in place.
    positions
        (B,) int32, −1 for an empty row, whose output is left as it is.
    tables
        (B, M) int32.
    early
        Positions, tables and older keys were written long ago, as in a graph of a whole step, whose predecessors have
        ended: the kernel may read them while the one before it still runs.

    Returns
    -------
    (B, H · D)

    Raises
    ------
    SpecError
        When a tensor is not contiguous, has other extents, or the scratch memory is of fewer rows.
    """
    rows = qkv.shape[0]
    if not kernels_run_on(qkv.device.type):
        qkv = qkv.clone()
        token_rows = torch.where(positions < 0, -1, torch.arange(rows, device=qkv.device, dtype=torch.int32))
        rotate_and_write(qkv, cache, cos, sin, positions, token_rows, tables, heads, kv_scale=kv_scale)
        out = qkv.new_zeros(rows, heads.num_heads * heads.head_size)
        for row, position in enumerate(positions.tolist()):
            if position >= 0:
                out[row] = attend_by_definition(
                    qkv[row : row + 1], cache, tables[row], position, position + 1, heads, kv_scale
                )
        return out
    _check_operands("decode", qkv, cache, cos, sin, positions, positions, tables, heads)
    if rows * heads.num_kv_heads > scratch.counts.numel() or tables.shape[0] < rows:
        raise SpecError(
            f"{rows} rows decode over scratch memory of {scratch.counts.numel() // heads.num_kv_heads} and tables of "
            f"{tables.shape[0]}.",
            where="decode",
            remedy="Make the scratch memory, and pass tables, for as many rows as are decoded.",
        )
    out = qkv.new_empty(rows, heads.num_heads * heads.head_size)
    group = heads.num_heads // heads.num_kv_heads
    tiles = scratch.tiles
    launch(
        kernels("decode_attention").decode_attention_kernel,
        (rows * heads.num_kv_heads, tiles.splits),
        (
            qkv,
            cache,
            qkv if cos is None else cos,
            qkv if sin is None else sin,
            positions,
            tables,
            out,
            scratch.parts,
            scratch.stats,
            scratch.counts,
            heads.softmax_scale,
            kv_scale,
            tables.stride(0),
        ),
        H=heads.num_heads,
        HKV=heads.num_kv_heads,
        D=heads.head_size,
        D_PADDED=max(16, power_of_two(heads.head_size)),
        R=heads.rotary_pairs,
        INTERLEAVED=heads.interleaved,
        BLOCK_SIZE=cache.shape[3],
        GROUP=group,
        GROUP_PADDED=max(16, power_of_two(group)),
        SPLITS=tiles.splits,
        TILE=tiles.tile,
        WINDOW=heads.window or 0,
        KV_QUANT=_QUANTIZED.get(cache.dtype, 0),
        EARLY=early,
        AHEAD=tiles.ahead,
        num_warps=tiles.warps,
        **launch_options(qkv.device),
    )
    return out


def prompt(
    qkv: torch.Tensor,
    cache: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    positions: torch.Tensor,
    token_rows: torch.Tensor,
    tables: torch.Tensor,
    rows: PromptRows,
    heads: Heads,
    *,
    kv_scale: float = 1.0,
) -> torch.Tensor:
    """Packed pieces of prompts: write keys and values, and return each token's attention over its row so far.

    Parameters as for `decode`; qkv (N, …) is rotated in place.
    """
    rotate_and_write(qkv, cache, cos, sin, positions, token_rows, tables, heads, kv_scale=kv_scale)
    width = heads.num_heads * heads.head_size
    on_gpu = qkv.device.type == "cuda"
    if on_gpu and rows.fresh and qkv.dtype != torch.float32 and heads.head_size % 8 == 0:
        return _flash(qkv, rows, heads)
    if on_gpu and kernels_run_on("cuda"):
        return _paged_flash(qkv, cache, rows, heads, kv_scale)
    out = qkv.new_zeros(qkv.shape[0], width)
    for row, (start, end) in enumerate(zip(rows.starts, rows.starts[1:], strict=False)):
        if end > start:
            first = rows.first_positions[row]
            out[start:end] = attend_by_definition(
                qkv[start:end], cache, rows.tables[row], first, first + end - start, heads, kv_scale
            )
    return out


def _paged_flash(
    qkv: torch.Tensor, cache: torch.Tensor, rows: PromptRows, heads: Heads, kv_scale: float
) -> torch.Tensor:
    """Pieces of prompts attend over the cache by the attention plugin's kernel."""
    from ....plugins.gpt_attention.launch import prompt_attention
    from ....plugins.gpt_attention.shape import AttentionShape

    width = heads.num_heads * heads.head_size
    shape = AttentionShape(
        heads.num_heads, heads.num_kv_heads, heads.head_size, cache.shape[3], window=heads.window or 0
    )
    out = qkv.new_empty(qkv.shape[0], width)
    prompt_attention(
        qkv[:, :width],
        cache,
        rows.starts_on_device,
        rows.lengths_on_device,
        rows.tables.contiguous(),
        torch.full((1,), kv_scale, device=qkv.device),
        out,
        shape,
    )
    return out


def _flash(qkv: torch.Tensor, rows: PromptRows, heads: Heads) -> torch.Tensor:
    """Whole prompts attend over their own packed keys: nothing is read back from the cache."""
    split = qkv.view(qkv.shape[0], heads.num_heads + 2 * heads.num_kv_heads, heads.head_size)
    query, key, value = split.split([heads.num_heads, heads.num_kv_heads, heads.num_kv_heads], 1)
    used = rows.starts[-1]
    longest = rows.longest
    out = torch.ops.aten._flash_attention_forward(
        query[:used],
        key[:used],
        value[:used],
        rows.starts_on_device,
        rows.starts_on_device,
        longest,
        longest,
        0.0,
        True,
        False,
        scale=heads.softmax_scale,
        window_size_left=None if heads.window is None else heads.window - 1,
        window_size_right=None if heads.window is None else 0,
    )[0]
    if used == qkv.shape[0]:
        return out.reshape(used, -1)
    whole = qkv.new_zeros(qkv.shape[0], heads.num_heads * heads.head_size)
    whole[:used] = out.reshape(used, -1)
    return whole


def rotate_and_write(
    qkv: torch.Tensor,
    cache: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    positions: torch.Tensor,
    token_rows: torch.Tensor,
    tables: torch.Tensor,
    heads: Heads,
    *,
    kv_scale: float = 1.0,
) -> None:
    """Rotate queries and keys in place, and write keys and values to the cache; token_rows −1 writes nothing."""
    tokens, size = qkv.shape[0], heads.head_size
    all_heads = heads.num_heads + 2 * heads.num_kv_heads
    if kernels_run_on(qkv.device.type):
        _check_operands("rotate_and_write", qkv, cache, cos, sin, positions, token_rows, tables, heads)
        per_program = max(1, min(16, 2048 // power_of_two(size)))
        launch(
            kernels("rows").rotate_and_write_kernel,
            (tokens, -(-all_heads // per_program)),
            (
                qkv,
                cache,
                qkv if cos is None else cos,
                qkv if sin is None else sin,
                positions,
                token_rows,
                tables,
                kv_scale,
                tables.stride(0),
            ),
            H=heads.num_heads,
            HKV=heads.num_kv_heads,
            D=size,
            D_PADDED=power_of_two(size),
            R=heads.rotary_pairs,
            INTERLEAVED=heads.interleaved,
            BLOCK_SIZE=cache.shape[3],
            KV_QUANT=_QUANTIZED.get(cache.dtype, 0),
            HEADS=per_program,
            num_warps=4,
        )
        return
    view = qkv.view(tokens, all_heads, size)
    if cos is not None and sin is not None:
        from ....network.ops import rotary_embedding

        at = positions.clamp_min(0)
        turned = view[:, : heads.num_heads + heads.num_kv_heads].transpose(0, 1)[None]  # (1, H, N, D)
        turned = rotary_embedding(turned, cos[at][None], sin[at][None], heads.interleaved)
        view[:, : heads.num_heads + heads.num_kv_heads] = turned[0].transpose(0, 1)
    live = (token_rows >= 0).nonzero()[:, 0]
    at = positions[live].long()
    block = tables[token_rows[live].long(), at // cache.shape[3]].long()
    key, value = view[live, heads.num_heads :].split(heads.num_kv_heads, 1)
    scale = torch.tensor(kv_scale, device=cache.device)
    cache[block, 0, :, at % cache.shape[3]] = store_as(key.float(), scale, cache.dtype)
    cache[block, 1, :, at % cache.shape[3]] = store_as(value.float(), scale, cache.dtype)


def _check_operands(
    where: str,
    qkv: torch.Tensor,
    cache: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    positions: torch.Tensor,
    token_rows: torch.Tensor,
    tables: torch.Tensor,
    heads: Heads,
) -> None:
    """Refuse what the kernels would read wrongly: they know extents, and of strides that of the tables' rows alone."""
    tokens = qkv.shape[0]
    pages = (2, heads.num_kv_heads, cache.shape[3], heads.head_size)
    fits = qkv.shape[1] == heads.qkv_width and cache.shape[1:] == pages
    if not fits or positions.shape[0] != tokens or token_rows.shape[0] != tokens:
        raise SpecError(
            f"qkv is {tuple(qkv.shape)}, the cache {tuple(cache.shape)}, with {positions.shape[0]} positions and "
            f"{token_rows.shape[0]} rows; {heads} have {heads.qkv_width} columns and pages {pages}.",
            where=where,
            remedy="Pass the projections, the pool and the indices of one step of this model.",
        )
    check_contiguous(where, qkv=qkv, cache=cache, cos=cos, sin=sin, positions=positions, token_rows=token_rows)
    if tables.stride(1) != 1 and tables.shape[1] > 1:
        check_contiguous(where, tables=tables)


def attend_by_definition(
    qkv: torch.Tensor,
    cache: torch.Tensor,
    table: torch.Tensor,
    first: int,
    length: int,
    heads: Heads,
    kv_scale: float,
) -> torch.Tensor:
    """Attention of one row's new tokens, at positions from `first` on, over its `length` cached keys.

    qkv (T, (H + 2 Hkv) D) with rotated queries; table (M,). Returns (T, H · D).
    """
    tokens, block = qkv.shape[0], cache.shape[3]
    blocks = table[: -(-length // block)].long()
    pages = cache[blocks].to(qkv.dtype)  # (m, 2, Hkv, block, D)
    if cache.dtype in _QUANTIZED:
        pages = pages * kv_scale
    pages = pages.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :length]  # (2, Hkv, S, D)
    query = qkv[:, : heads.num_heads * heads.head_size].view(tokens, heads.num_heads, -1).transpose(0, 1)
    queries = torch.arange(first, first + tokens, device=qkv.device)[:, None]
    keys = torch.arange(length, device=qkv.device)[None, :]
    mask = keys <= queries
    if heads.window is not None:
        mask &= keys > queries - heads.window
    group = heads.num_heads // heads.num_kv_heads
    key, value = pages[0].repeat_interleave(group, 0), pages[1].repeat_interleave(group, 0)
    out = F.scaled_dot_product_attention(
        query[None], key[None], value[None], attn_mask=mask[None, None], scale=heads.softmax_scale
    )
    return out[0].transpose(0, 1).reshape(tokens, -1)
