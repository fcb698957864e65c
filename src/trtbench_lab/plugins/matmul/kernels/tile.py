"""Several rows times a weight, on the tensor cores: pipelined blocks.

Several programs share the input features where outputs alone do not fill the GPU. Their sums meet in a fixed order, so
that the same inputs always give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .block import pair_weights, rows_statistics, store_block, with_group
from .common import FP8, INT4, INT8_INT8, element_of, nibble_pairs, pair_excess, prepare


@triton.jit
def _tile_sum(
    x_ptr,
    w_ptr,
    scale_ptr,
    zero_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    pre_scale_ptr,
    inverse_x_scale,
    mean,
    rstd,
    one,
    m,
    inside_m,
    n,
    first_cell,
    last_cell,
    N: tl.constexpr,
    K: tl.constexpr,
    KIND: tl.constexpr,
    GROUP: tl.constexpr,
    NIBBLES: tl.constexpr,
    NORM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SWAP: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Multiply over a range of cells: (BLOCK_M, BLOCK_N), or transposed where SWAP."""
    CELLS: tl.constexpr = K // 8 if KIND == INT4 else K
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    ACC: tl.constexpr = tl.int32 if KIND == INT8_INT8 else tl.float32
    # The scales of a group can follow the product where a step never leaves the group.
    WHOLE_GROUPS: tl.constexpr = GROUP != 0 and GROUP % (BLOCK_C * (8 if KIND == INT4 else 1)) == 0
    AFTER: tl.constexpr = WHOLE_GROUPS and zero_ptr is None and (KIND != INT4 or TYPE != tl.float32)
    PAIRS: tl.constexpr = (GROUP == 0 or AFTER) and TYPE != tl.float32
    GROUPS: tl.constexpr = 0 if GROUP == 0 else K // GROUP
    acc = tl.zeros((BLOCK_N, BLOCK_M) if SWAP else (BLOCK_M, BLOCK_N), ACC)
    x_rows = x_ptr + m.to(tl.int64)[:, None] * K
    w_rows = w_ptr + n.to(tl.int64)[:, None] * CELLS
    inside_n = (n < N)[:, None]
    for start in tl.range(first_cell, last_cell, BLOCK_C, num_stages=STAGES):
        cells = start + tl.arange(0, BLOCK_C)[None, :]
        if CELLS % BLOCK_C == 0 and N % BLOCK_N == 0:
            w = tl.load(w_rows + cells)
        elif CELLS % BLOCK_C == 0:
            w = tl.load(w_rows + cells, mask=inside_n, other=0.0)
        else:
            w = tl.load(w_rows + cells, mask=inside_n & (cells < CELLS), other=0.0)
        part = acc
        if AFTER:
            part = tl.zeros_like(acc)
        if KIND == INT4:
            PER_BLOCK: tl.constexpr = 1 if NIBBLES < BLOCK_C else NIBBLES // BLOCK_C
            column = tl.arange(0, 2 * BLOCK_C)[None, :]
            words = start + column // 2
            for i in tl.static_range(4):
                if NIBBLES == 0:
                    k = 8 * words + i + 4 * (column % 2)
                elif BLOCK_C <= NIBBLES:
                    unit = start // BLOCK_C
                    aligned = (unit // PER_BLOCK) * (8 * NIBBLES) + (unit % PER_BLOCK) * (2 * BLOCK_C)
                    k = aligned + i * (2 * NIBBLES) + column
                else:
                    k = element_of(words, i, NIBBLES) + column % 2
                x = tl.load(x_rows + k, mask=inside_m[:, None] & (k < K), other=0.0)
                x = prepare(
                    x,
                    k,
                    k < K,
                    mean,
                    rstd,
                    norm_weight_ptr,
                    norm_bias_ptr,
                    pre_scale_ptr,
                    inverse_x_scale,
                    NORM,
                    KIND,
                    TYPE,
                )
                if PAIRS:
                    low, high = nibble_pairs(w, one, i, TYPE)
                else:
                    inside = inside_n & (cells < CELLS)
                    group = 0 if GROUP == 0 else cells * 8 // GROUP
                    low, high = pair_weights(w, i, scale_ptr, zero_ptr, n[:, None], group, inside, GROUPS, TYPE)
                q = tl.reshape(tl.join(low, high), (BLOCK_N, 2 * BLOCK_C))
                if SWAP:
                    part = tl.dot(q, tl.trans(x), part, input_precision="ieee")
                else:
                    part = tl.dot(x, tl.trans(q), part, input_precision="ieee")
                if PAIRS:
                    excess = tl.full((BLOCK_N, 2 * BLOCK_C), -pair_excess(TYPE), tl.float32).to(TYPE)
                    if SWAP:
                        part = tl.dot(excess, tl.trans(x), part, input_precision="ieee")
                    else:
                        part = tl.dot(x, tl.trans(excess), part, input_precision="ieee")
        else:
            if CELLS % BLOCK_C == 0:
                x = tl.load(x_rows + cells, mask=inside_m[:, None], other=0.0)
            else:
                x = tl.load(x_rows + cells, mask=inside_m[:, None] & (cells < CELLS), other=0.0)
            if KIND != INT8_INT8:
                x = prepare(
                    x,
                    cells,
                    cells < CELLS,
                    mean,
                    rstd,
                    norm_weight_ptr,
                    norm_bias_ptr,
                    pre_scale_ptr,
                    inverse_x_scale,
                    NORM,
                    KIND,
                    TYPE,
                )
                if KIND != FP8:
                    w = w.to(TYPE)
            if GROUP != 0 and not AFTER:
                inside = inside_n & (cells < CELLS)
                w = with_group(w, scale_ptr, zero_ptr, n[:, None], cells // GROUP, inside, K // GROUP, TYPE)
            if SWAP:
                part = tl.dot(w, tl.trans(x), part, input_precision="ieee", out_dtype=ACC)
            else:
                part = tl.dot(x, tl.trans(w), part, input_precision="ieee", out_dtype=ACC)
        if AFTER:
            group = start * (8 if KIND == INT4 else 1) // GROUP
            scales = tl.load(scale_ptr + n.to(tl.int64) * (K // GROUP) + group, mask=n < N, other=0.0).to(tl.float32)
            if SWAP:
                acc += part * scales[:, None]
            else:
                acc += part * scales[None, :]
        else:
            acc = part
    if SWAP:
        acc = tl.trans(acc)
    return acc


@triton.jit
def _prefetch(w_ptr, n, first, N: tl.constexpr, CELLS: tl.constexpr, COUNT: tl.constexpr):
    """Bring the first cells of weight rows into the L2 cache, 128 bytes at a time."""
    LINE: tl.constexpr = 1024 // w_ptr.dtype.element_ty.primitive_bitwidth
    LINES: tl.constexpr = 1 if COUNT <= LINE else (8 if COUNT >= 8 * LINE else (4 if COUNT >= 4 * LINE else 2))
    cells = tl.minimum(first + tl.arange(0, LINES) * LINE, CELLS - 1)
    pointers = w_ptr + tl.minimum(n, N - 1).to(tl.int64)[:, None] * CELLS + cells[None, :]
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers.to(tl.int64)], tl.int32, is_pure=False, pack=1
    )


@triton.jit(do_not_specialize=["rows"])
def tile_kernel(
    x_ptr,
    w_ptr,
    w2_ptr,
    scale_ptr,
    scale2_ptr,
    zero_ptr,
    zero2_ptr,
    pre_scale_ptr,
    x_scale_ptr,
    bias_ptr,
    bias2_ptr,
    residual_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    rows,
    out_ptr,
    partial_ptr,
    counter_ptr,
    N: tl.constexpr,
    K: tl.constexpr,
    KIND: tl.constexpr,
    GROUP: tl.constexpr,
    NIBBLES: tl.constexpr,
    NORM: tl.constexpr,
    EPSILON: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ONE_SCALE: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SPLIT_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SWAP: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_X: tl.constexpr,
    PDL: tl.constexpr,
):
    """``out = act(norm(x) Wᵀ + b) · (norm(x) W2ᵀ + b2) + residual`` for x (rows, K); each part may be absent.

    Program (i, s) makes block i of the result over part s of the input features. With SPLIT_K above 1 the parts go to
    `partial` (SPLIT_K, blocks, BLOCK_M, BLOCK_N) float32 (twice that with W2), and the program that finishes last adds
    them up in their order; `counter` (blocks,) int32 is zero before and after.
    """
    CELLS: tl.constexpr = K // 8 if KIND == INT4 else K
    BLOCKS_N: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    SHARE: tl.constexpr = ((CELLS + SPLIT_K * BLOCK_C - 1) // (SPLIT_K * BLOCK_C)) * BLOCK_C
    block = tl.program_id(0)
    split = tl.program_id(1)
    # Blocks of GROUP_M rows of blocks run together, so that their weights are still in the cache.
    blocks_m = tl.cdiv(rows, BLOCK_M)
    band = block // (GROUP_M * BLOCKS_N)
    height = tl.minimum(blocks_m - band * GROUP_M, GROUP_M)
    block_m = band * GROUP_M + (block % (GROUP_M * BLOCKS_N)) % height
    block_n = (block % (GROUP_M * BLOCKS_N)) // height
    n = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    inside_m = m < rows
    one = tl.minimum(rows, 1)  # not known to be 1, see `nibble_mantissa`
    first = split * SHARE
    last = tl.minimum(first + SHARE, CELLS)
    if PDL:
        _prefetch(w_ptr, n, first, N, CELLS, BLOCK_C * STAGES)
        if w2_ptr is not None:
            _prefetch(w2_ptr, n, first, N, CELLS, BLOCK_C * STAGES)
        gdc_wait()
    mean, rstd = 0.0, 1.0
    if NORM != 0:
        row_mean, row_rstd = rows_statistics(x_ptr, m, inside_m, NORM, EPSILON, K, BLOCK_X)
        mean, rstd = row_mean[:, None], row_rstd[:, None]
    x_scale, inverse_x_scale = 1.0, 1.0
    if KIND == FP8 or KIND == INT8_INT8:
        if ROW_SCALES:
            x_scale = tl.load(x_scale_ptr + m, mask=inside_m, other=1.0).to(tl.float32)[:, None]
        else:
            x_scale = tl.load(x_scale_ptr).to(tl.float32)
            inverse_x_scale = 1.0 / x_scale
    acc = _tile_sum(
        x_ptr,
        w_ptr,
        scale_ptr,
        zero_ptr,
        norm_weight_ptr,
        norm_bias_ptr,
        pre_scale_ptr,
        inverse_x_scale,
        mean,
        rstd,
        one,
        m,
        inside_m,
        n,
        first,
        last,
        N,
        K,
        KIND,
        GROUP,
        NIBBLES,
        NORM,
        BLOCK_M,
        BLOCK_N,
        BLOCK_C,
        SWAP,
        STAGES,
    )
    acc2 = acc
    if w2_ptr is not None:
        acc2 = _tile_sum(
            x_ptr,
            w2_ptr,
            scale2_ptr,
            zero2_ptr,
            norm_weight_ptr,
            norm_bias_ptr,
            pre_scale_ptr,
            inverse_x_scale,
            mean,
            rstd,
            one,
            m,
            inside_m,
            n,
            first,
            last,
            N,
            K,
            KIND,
            GROUP,
            NIBBLES,
            NORM,
            BLOCK_M,
            BLOCK_N,
            BLOCK_C,
            SWAP,
            STAGES,
        )
    if PDL:  # not before: the next kernel's programs would take the shared memory of this one's
        gdc_launch_dependents()
    if SPLIT_K == 1:
        store_block(
            acc,
            acc2,
            w2_ptr,
            scale_ptr,
            scale2_ptr,
            bias_ptr,
            bias2_ptr,
            residual_ptr,
            x_scale,
            m,
            inside_m,
            n,
            out_ptr,
            N,
            KIND,
            GROUP,
            ONE_SCALE,
            ACTIVATION,
        )
    else:
        CELL: tl.constexpr = BLOCK_M * BLOCK_N
        sums_ptr = partial_ptr.to(tl.pointer_type(acc.dtype))  # integers of the same size for int8 × int8
        inner = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        blocks = tl.num_programs(0)
        second = (SPLIT_K * blocks).to(tl.int64) * CELL
        mine = sums_ptr + (split * blocks + block).to(tl.int64) * CELL + inner
        tl.store(mine, acc, cache_modifier=".cg")
        if w2_ptr is not None:
            tl.store(mine + second, acc2, cache_modifier=".cg")
        tl.debug_barrier()  # all threads of the program have stored before one of them says so
        if tl.atomic_add(counter_ptr + block, 1, sem="acq_rel") == SPLIT_K - 1:
            total = tl.zeros_like(acc)
            total2 = total
            for other in range(SPLIT_K):
                at = sums_ptr + (other * blocks + block).to(tl.int64) * CELL + inner
                total += tl.load(at, cache_modifier=".cg")
                if w2_ptr is not None:
                    total2 += tl.load(at + second, cache_modifier=".cg")
            tl.store(counter_ptr + block, 0)
            store_block(
                total,
                total2,
                w2_ptr,
                scale_ptr,
                scale2_ptr,
                bias_ptr,
                bias2_ptr,
                residual_ptr,
                x_scale,
                m,
                inside_m,
                n,
                out_ptr,
                N,
                KIND,
                GROUP,
                ONE_SCALE,
                ACTIVATION,
            )
