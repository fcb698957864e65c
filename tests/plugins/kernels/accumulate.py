"""A kernel that changes its first input, for tests of the frame."""

import triton
import triton.language as tl


@triton.jit
def accumulate(cache_ptr, x_ptr, out_ptr, W: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    offsets = tl.program_id(0) * W + columns
    total = tl.load(cache_ptr + offsets, mask=columns < W) + tl.load(x_ptr + offsets, mask=columns < W)
    tl.store(out_ptr + offsets, total, mask=columns < W)
