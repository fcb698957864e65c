"""How each attention kernel is launched: grids and tile sizes from the shape of the work."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..frame.call import Launch
from ..frame.sizes import Size, cdiv, is_expression, power_of_two
from .shape import AttentionShape, cache_kind

MAX_SPLITS = 64
PROGRAMS_PER_SM = 2
"""Programs of split attention that keep the memory of a multiprocessor busy, each with six tiles of keys on the way."""
PROGRAMS_PER_SM_8_BIT = 4
"""The same over a quantized cache, whose tiles have to be widened: more programs hide that."""
MIN_SPLIT_TOKENS = 64
"""Fewer keys than this are not worth a program of their own."""


def block_d(head_size: int) -> int:
    """Return the kernels' width of a head: a power of two, at least 16, since a product of tiles takes no less."""
    return max(16, power_of_two(head_size))


def decode_pack(shape: AttentionShape) -> int:
    """Return the query heads a program of split attention takes: all of a K/V head's, so that it is read once."""
    return next(count for count in range(min(shape.group, 64), 0, -1) if shape.group % count == 0)


def prompt_pack(shape: AttentionShape) -> int:
    """Return the query heads of one K/V head that share a tile of flash attention: a narrower tile sees fewer keys."""
    return next(count for count in range(min(shape.group, 16), 0, -1) if shape.group % count == 0)


def split_tile(shape: AttentionShape, cache_dtype: str) -> int:
    """Return the keys that split attention takes at a time."""
    wide = block_d(shape.head_size) * element_bytes(cache_dtype)
    tile = 64 if wide <= 256 else 32
    return max(16, min(tile, shape.tokens_per_block) if shape.tokens_per_block >= 16 else tile)


def element_bytes(dtype: str) -> int:
    """Return the bytes of a torch type of that name."""
    return {"float32": 4, "float16": 2, "bfloat16": 2}.get(dtype, 1)


def choose_splits(
    shape: AttentionShape,
    num_rows: int,
    max_kv_length: int,
    num_sms: int,
    *,
    cache_dtype: str = "float16",
    mode: str = "auto",
) -> int:
    """Return over how many programs the keys of a row are split (`multi_block_mode`).

    Parameters
    ----------
    shape
        Heads.
    num_rows
        Rows of the batch.
    max_kv_length
        Longest sequence that the launch has to serve well.
    num_sms
        Multiprocessors of the GPU.
    cache_dtype
        Type of the cache.
    mode
        ``"auto"``: as many as fill the GPU; ``"enable"``: at least 2; ``"disable"``: 1.
    """
    if mode == "disable":
        return 1
    programs = num_rows * (shape.num_heads // decode_pack(shape))
    per_sm = PROGRAMS_PER_SM_8_BIT if element_bytes(cache_dtype) == 1 else PROGRAMS_PER_SM
    wanted = round(per_sm * num_sms / programs)
    splits = max(1, min(wanted, max_kv_length // MIN_SPLIT_TOKENS, MAX_SPLITS))
    return max(2, splits) if mode == "enable" else splits


@dataclass(frozen=True)
class Tiles:
    """Sizes of a flash attention tile, and the compiler's options."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def flash_tiles(shape: AttentionShape, dtype: str, num_tokens: Size, num_rows: Size) -> Tiles:
    """Return the tile of flash attention for this many packed tokens in so many rows."""
    width = block_d(shape.head_size)
    if dtype == "float32":
        tiles = Tiles(64, 32, 4, 2) if width <= 128 else Tiles(16, 32, 4, 2)
    elif width <= 64:
        tiles = Tiles(64, 64, 4, 3)
    elif width <= 128:
        tiles = Tiles(128, 64, 4, 3)
    else:
        tiles = Tiles(64, 32, 4, 2)
    if is_expression(num_tokens) or is_expression(num_rows):
        return tiles
    per_row = -(-num_tokens // max(1, num_rows)) * prompt_pack(shape)
    if per_row < tiles.block_m:  # one new token a row, say
        tiles = Tiles(max(16, power_of_two(per_row)), tiles.block_n, 4, tiles.num_stages)
    return tiles


def update_plan(shape: AttentionShape, cache_dtype: str, num_tokens: Size, table_width: Size) -> Launch:
    """Return the launch of `cache_update_kernel`."""
    few = not is_expression(num_tokens) and num_tokens <= 128
    block_t = 1 if few else 8
    return Launch(
        kernel="cache_update_kernel",
        grid=(cdiv(num_tokens, block_t), shape.num_heads + 2 * shape.num_kv_heads),
        arguments={"num_tokens": num_tokens, "table_width": table_width},
        constants={
            "HEADS": shape.num_heads,
            "KV_HEADS": shape.num_kv_heads,
            "D": shape.head_size,
            "BS": shape.tokens_per_block,
            "ROTARY": shape.rotary_dim,
            "INTERLEAVED": shape.interleaved,
            "KIND": cache_kind(cache_dtype),
            "BLOCK_T": block_t,
            "BLOCK_D": block_d(shape.head_size),
        },
        num_warps=1 if few else 4,
    )


def flash_plan(
    shape: AttentionShape,
    dtype: str,
    num_tokens: Size,
    num_rows: Size,
    table_width: Size,
    *,
    query_width: int | None = None,
) -> Launch:
    """Return the launch of `flash_kernel`; `query_width` is that of a token's row, of which the queries come first."""
    tiles, pack = flash_tiles(shape, dtype, num_tokens, num_rows), prompt_pack(shape)
    block_q = tiles.block_m // pack
    num_tiles = num_tokens // block_q + num_rows + 1
    return Launch(
        kernel="flash_kernel",
        grid=(num_tiles, shape.num_heads // pack),
        arguments={
            "num_tokens": num_tokens,
            "num_rows": num_rows,
            "table_width": table_width,
            "num_tiles": num_tiles,
        },
        constants={
            **_common(shape),
            "PACK": pack,
            "QUERY_WIDTH": query_width or shape.query_width,
            "BLOCK_Q": block_q,
            "BLOCK_M": tiles.block_m,
            "BLOCK_N": tiles.block_n,
        },
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )


def without_rotation(plan: Launch) -> Launch:
    """Return the launch of the update kernel that has no tables of angles."""
    constants = {name: value for name, value in plan.constants.items() if name not in ("ROTARY", "INTERLEAVED")}
    return replace(plan, kernel="plain_cache_update_kernel", constants=constants)


def split_plan(
    shape: AttentionShape,
    cache_dtype: str,
    num_rows: Size,
    table_width: Size,
    splits: int,
    tile: int | None = None,
    *,
    query_width: int | None = None,
) -> Launch:
    """Return the launch of `split_kernel`; `tile` None takes the best number of keys at a time."""
    pack = decode_pack(shape)
    return Launch(
        kernel="split_kernel",
        grid=(num_rows, shape.num_heads // pack, splits),
        arguments={"table_width": table_width},
        constants={
            **_common(shape),
            **_split(shape, cache_dtype, splits, tile),
            "QUERY_WIDTH": query_width or shape.query_width,
        },
        num_warps=2 if shape.group <= 16 else 4,
        num_stages=(4 if element_bytes(cache_dtype) == 1 else 6) if block_d(shape.head_size) <= 128 else 3,
    )


def combine_plan(num_heads: int, head_size: int, num_tokens: Size, splits: int) -> Launch:
    """Return the launch of `combine_kernel`."""
    return Launch(
        kernel="combine_kernel",
        grid=(num_tokens, num_heads),
        arguments={"num_tokens": num_tokens},
        constants={
            "HEADS": num_heads,
            "D": head_size,
            "SPLITS": splits,
            "BLOCK_S": power_of_two(splits),
            "BLOCK_D": block_d(head_size),
        },
        num_warps=1,
    )


def _common(shape: AttentionShape) -> dict[str, object]:
    return {
        "SCALE": shape.scale,
        "HEADS": shape.num_heads,
        "KV_HEADS": shape.num_kv_heads,
        "D": shape.head_size,
        "BS": shape.tokens_per_block,
        "WINDOW": shape.window,
        "BLOCK_D": block_d(shape.head_size),
    }


def _split(shape: AttentionShape, cache_dtype: str, splits: int, tile: int | None = None) -> dict[str, object]:
    pack = decode_pack(shape)
    return {
        "SPLITS": splits,
        "PACK": pack,
        "BLOCK_M": max(16, power_of_two(pack)),
        "BLOCK_N": tile or split_tile(shape, cache_dtype),
    }
