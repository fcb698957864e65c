"""Kernel of the vocabulary-sharded embedding lookup: a block of one token's row a program."""

import triton
import triton.language as tl


@triton.jit
def lookup(ids_ptr, table_ptr, num_rows, rows_ptr, W: tl.constexpr, BLOCK: tl.constexpr, FIRST: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    # A block of one number: newer interpreters make an integer of a scalar comparison and a block's.
    local = tl.load(ids_ptr + token).to(tl.int64) - FIRST + tl.zeros((BLOCK,), tl.int64)
    found = tl.load(table_ptr + local * W + columns, mask=(columns < W) & (local >= 0) & (local < num_rows), other=0.0)
    tl.store(rows_ptr + token * W + columns, found, mask=columns < W)
