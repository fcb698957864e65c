"""Which launches are worth trying for a product, the likeliest first."""

from __future__ import annotations

import functools
import importlib.util

from .choice import Choice, Problem
from .weights import WORD, interleave_block

PROGRAMS = 132
"""Multiprocessors of the GPU that the order of the candidates was measured on (H200)."""
DIRECT_ROWS = 8
"""Columns of the tensor cores' second operand: the most rows that ``"direct"`` takes."""
SHARED_BYTES = 200 << 10
"""Shared memory that all programs of a multiprocessor may fill with inputs."""
MOST_INPUTS = 32768
"""Input features of one row that ``"direct"`` keeps in shared memory."""


def candidates(problem: Problem) -> list[Choice]:
    """Return the choices that `tune` measures; the first is the default where nothing is measured."""
    rows = problem.rows
    if rows == 1 and problem.kind not in ("int8_int8", "fp8_fp8"):
        return _one_row(problem)
    if rows <= 16:
        slices, direct, streams = _slices(problem), _direct(problem), _streams(problem)
        narrow = [*slices[:1], *direct[:2], *streams[:3], *direct[2:], *slices[1:], *streams[3:]]
        return [*narrow, *_few_rows(problem), Choice("library")]
    if rows <= 64:
        return [*_few_rows(problem), Choice("library")]
    large = _large(problem)
    if problem.kind == "int8_int8":  # the library's sums are int32 in memory, and everything else follows apart
        return [*_integer_tiles(problem), Choice("library")]
    return [*large, Choice("library")] if problem.norm is not None else [Choice("library"), *large]


def _one_row(problem: Problem) -> list[Choice]:
    vectors, direct, streams = _matvec(problem), _direct(problem), _streams(problem)
    slices = _slices(problem)[: 2 if problem.kind in ("int4", "fp8") else 3]
    if problem.kind == "dense":
        return [*vectors[:4], *streams[:3], *vectors[4:], *streams[3:], *slices]
    likely = [*vectors[:1], *streams[:3], *direct[:2], *vectors[1:3]]
    return [*likely, *streams[3:], *direct[2:], *vectors[3:], *slices]


def _matvec(problem: Problem) -> list[Choice]:
    """Blocks of outputs × units of 16 bytes; a step of 32 units a warp leaves every thread one unit of each row."""
    cells = problem.in_features // 8 if problem.kind == "int4" else problem.in_features
    wide = 4 if problem.kind == "int4" or problem.dtype == "float32" else 8
    found = []
    for block_n, units, warps in (
        (8, 128, 4),
        (16, 64, 2),
        (16, 128, 4),
        (8, 64, 2),
        (4, 256, 4),
        (4, 128, 4),
        (8, 256, 8),
        (16, 32, 1),
        (8, 32, 1),
        (4, 512, 8),
        (2, 512, 8),
        (32, 32, 1),
        (32, 64, 2),
        (16, 256, 8),
        (4, 64, 2),
    ):
        if problem.gated and block_n > (16 if problem.kind in ("int8", "int4") else 8):
            continue
        units = min(units, _power_of_two(-(-cells // wide)))
        found.append(Choice("matvec", 1, block_n, units, num_warps=warps))
    return list(dict.fromkeys(found))


def _direct(problem: Problem) -> list[Choice]:
    """Outputs × cells of a warp × warps, where they were measured to pay; none without Gluon.

    That is at one row of quantized weights, and at 2 to 8 rows of others. Earlier shapes won more often.
    """
    quantized = problem.kind == "fp8" or (problem.kind == "int4" and not problem.zeros)
    known = quantized if problem.rows == 1 else problem.kind == "dense" and problem.rows <= DIRECT_ROWS
    if problem.dtype == "float32" or problem.in_features % 16 or not known or not _has_gluon():
        return []
    if problem.kind == "int4":
        if interleave_block(problem.in_features, problem.group_size) != 16:
            return []
        shapes = [(16, 16, 4), (32, 16, 4), (32, 16, 8), (16, 16, 8)]
        per_cell = WORD
    elif problem.kind == "fp8":
        shapes = [(16, 32, 8), (16, 64, 8), (16, 32, 4), (32, 32, 4), (32, 32, 8)]
        per_cell = 4
    else:
        shapes = [(16, 256, 4), (16, 128, 8), (16, 128, 4), (16, 256, 8)]
        per_cell = 1
    padded = _power_of_two(problem.in_features)
    found = []
    for block_n, block_c, warps in shapes:
        if block_c * per_cell * warps > padded or padded > MOST_INPUTS:
            continue
        if problem.norm is not None and problem.rows > 1 and padded > 256 * warps:
            continue  # the rows would not fit into registers, where their norm is worked out
        found.append(Choice("direct", DIRECT_ROWS, block_n, block_c, num_warps=warps))
    return found


def _streams(problem: Problem) -> list[Choice]:
    """Warps × programs of a multiprocessor × steps read ahead; none without Gluon. Earlier shapes won more often."""
    few = problem.rows <= DIRECT_ROWS and not problem.zeros and problem.dtype != "float32" and _has_gluon()
    if not few or problem.in_features % 16 or problem.kind not in ("dense", "int8", "int4", "fp8"):
        return []
    if problem.kind == "int4":
        if interleave_block(problem.in_features, problem.group_size) != 16 or problem.group_size not in (None, 128):
            return []
        block_c, per_cell = 16, WORD
    elif problem.group_size is not None:  # scales within a row are applied to 4-bit weights only
        return []
    else:
        block_c, per_cell = (32, 1) if problem.kind == "dense" else (16, 4)
    padded = _power_of_two(problem.in_features)
    inputs = (1 if problem.rows == 1 else DIRECT_ROWS) * padded * 2
    found = []
    for warps, programs, most in ((4, 3, 8), (4, 2, 8), (4, 4, 8), (8, 2, 8), (8, 2, 4), (4, 4, 4), (8, 1, 8)):
        steps = -(-problem.in_features // (block_c * warps * per_cell))
        if block_c * warps * per_cell > padded or inputs * programs > SHARED_BYTES:
            continue
        ahead = _ahead(steps, most)
        found.append(Choice("stream", DIRECT_ROWS, 16, block_c, programs, num_warps=warps, num_stages=ahead))
    return list(dict.fromkeys(found))


def _ahead(steps: int, most: int) -> int:
    """Return the largest number up to `most` that divides `steps`, or the largest power of two."""
    divisor = max(number for number in range(1, most + 1) if steps % number == 0)
    return divisor if 2 * divisor > most or divisor == steps else 1 << (most.bit_length() - 1)


@functools.cache
def _has_gluon() -> bool:
    try:
        return importlib.util.find_spec("triton.experimental.gluon.language.nvidia.ampere") is not None
    except ImportError:
        return False


def _slices(problem: Problem) -> list[Choice]:
    cells = problem.in_features // 8 if problem.kind == "int4" else problem.in_features
    least = 32 if problem.kind in ("int8_int8", "fp8", "fp8_fp8") else 16  # the shortest sum of the tensor cores
    block_m = 8 if problem.rows <= 8 else 16
    found = []
    if problem.kind == "int4":  # a slice of 16 words is a group of 128 elements, whose scale then follows the product
        block_c = 16 if problem.group_size is None else max(16, problem.group_size // 8)
        shapes = [
            (64, block_c, 4),
            (32, block_c, 8),
            (32, block_c, 4),
            (64, block_c, 8),
            (16, block_c, 8),
            (16, block_c, 4),
        ]
    else:
        shapes = [
            (16, 64, 8),
            (16, 64, 4),
            (16, 128, 8),
            (32, 64, 8),
            (16, 128, 4),
            (32, 64, 4),
            (32, 128, 4),
            (64, 64, 4),
        ]
    for block_n, block_c, warps in shapes:
        block_c = max(least, min(block_c, _power_of_two(-(-cells // warps))))
        found.append(Choice("slice", block_m, block_n, block_c, num_warps=warps))
    return list(dict.fromkeys(found))


def _few_rows(problem: Problem) -> list[Choice]:
    """The weight takes the long side of the tensor cores; enough programs along K to fill the GPU."""
    block_m = max(16, _power_of_two(problem.rows))
    cells = problem.in_features // 8 if problem.kind == "int4" else problem.in_features
    found = []
    for block_n, block_c, warps, stages in ((64, 128, 4, 5), (64, 256, 4, 3), (128, 128, 8, 4), (128, 64, 4, 5)):
        block_c = _cells_of_step(problem, block_c)
        blocks = -(-problem.out_features // block_n)
        for waves in (2, 1, 4):
            split = max(1, min(16, waves * PROGRAMS // blocks, cells // (block_c * 2)))
            split = 1 << (split.bit_length() - 1)
            found.append(
                Choice("tile", block_m, block_n, block_c, split, swap=True, num_warps=warps, num_stages=stages)
            )
    return list(dict.fromkeys(found))


def _large(problem: Problem) -> list[Choice]:
    sizes = ((128, 128, 64, 8, 3), (128, 256, 64, 8, 3), (64, 128, 64, 4, 4), (128, 64, 128, 4, 3))
    if problem.gated:
        sizes = ((128, 64, 64, 4, 3), (128, 128, 64, 8, 3), (64, 128, 64, 4, 3), (64, 64, 64, 4, 4))
    return [
        Choice("tile", block_m, block_n, _cells_of_step(problem, block_c), num_warps=warps, num_stages=stages)
        for block_m, block_n, block_c, warps, stages in sizes
    ]


def _integer_tiles(problem: Problem) -> list[Choice]:
    sizes = ((128, 256, 128, 8, 3), (128, 128, 128, 8, 4), (128, 128, 128, 4, 3), (256, 128, 128, 8, 3))
    if problem.gated:
        sizes = ((128, 128, 128, 8, 3), (128, 128, 64, 8, 4), (128, 64, 128, 4, 3), (64, 128, 128, 4, 3))
    return [
        Choice("tile", block_m, block_n, block_c, num_warps=warps, num_stages=stages)
        for block_m, block_n, block_c, warps, stages in sizes
    ]


def _cells_of_step(problem: Problem, elements: int) -> int:
    """Turn elements along K into cells: as many bytes of 8-bit weights, and words of 4-bit ones."""
    if problem.kind == "int4":
        return max(16, elements // 8)
    if problem.kind == "dense" and problem.dtype == "float32":
        return max(16, elements // 2)
    return elements


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
