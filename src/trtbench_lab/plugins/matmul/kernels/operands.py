"""Weights as the tensor cores' first operand, made in registers out of what a thread has read at once.

The order in which features are added up is free, so 16 bytes of a weight row, wherever they lie, can be a thread's part
of the operand. What is stored in 8 or 4 bits becomes 16-bit numbers by a few operations on whole words.

Written in Gluon, Triton's language with explicit layouts.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .common import FP8, INT8


@gluon.constexpr_function
def sums_layout(slices):
    return gl.NVMMADistributedLayout(version=[2, 0], warps_per_cta=[slices, 1, 1], instr_shape=[1, 16, 8])


@gluon.jit
def pairs_of_nibbles(words, one, I: gl.constexpr, TYPE: gl.constexpr):
    """Nibbles `I` and I + 4 of words as neighbours, numbers of a 16-bit TYPE with `pair_excess` on top."""
    pairs = (words >> (4 * I)) & (one * 0x000F000F)
    if TYPE == gl.bfloat16:
        pairs = pairs ^ 0x43084308
    else:
        pairs = pairs ^ 0x64086408
    low, high = gl.inline_asm_elementwise("mov.b32 {$0, $1}, $2;", "=h,=h,r", [pairs], (gl.int16, gl.int16), True, 1)
    both = gl.join(low.to(TYPE, bitcast=True), high.to(TYPE, bitcast=True))
    return gl.reshape(both, [words.shape[0], words.shape[1], 2 * words.shape[2]])


@gluon.jit
def _side_by_side(e0, e1, e2, e3):
    """Place the four elements of each word beside each other: (SLICES, BLOCK_N, 4 · words)."""
    both = gl.join(gl.join(e0, e2), gl.join(e1, e3))
    return gl.reshape(both, [e0.shape[0], e0.shape[1], 4 * e0.shape[2]])


@gluon.jit
def rounded_to_fp8(x):
    """Round to float8_e4m3fn, kept as float16, which holds every one of them."""
    return gl.inline_asm_elementwise(
        "{ .reg .b16 both; cvt.rn.satfinite.e4m3x2.f32 both, $2, $1; cvt.rn.f16x2.e4m3x2 $0, both; }",
        "=r,f,f",
        [x],
        gl.float16,
        True,
        2,
    )


@gluon.jit
def floats_of_bytes(words):
    """The four float8_e4m3fn of each word as float16: (SLICES, BLOCK_N, 4 · words)."""
    e0, e1, e2, e3 = gl.inline_asm_elementwise(
        """{
        .reg .b16 low, high;
        .reg .b32 first, second;
        mov.b32 {low, high}, $4;
        cvt.rn.f16x2.e4m3x2 first, low;
        cvt.rn.f16x2.e4m3x2 second, high;
        mov.b32 {$0, $1}, first;
        mov.b32 {$2, $3}, second;
        }""",
        "=h,=h,=h,=h,r",
        [words],
        (gl.float16, gl.float16, gl.float16, gl.float16),
        True,
        1,
    )
    return _side_by_side(e0, e1, e2, e3)


@gluon.jit
def integers_of_bytes(words, TYPE: gl.constexpr):
    """The four signed bytes of each word as numbers of a 16-bit TYPE, exactly: (SLICES, BLOCK_N, 4 · words).

    float16: q + 128 is placed in the mantissa of 1024, and 1152 is subtracted. bfloat16 has eight bits of mantissa:
    the lower seven bits are placed in that of 128, and 128 or 256, which is what the sign bit makes of it, subtracted.
    """
    if TYPE == gl.bfloat16:
        e0, e1, e2, e3 = gl.inline_asm_elementwise(
            """{
            .reg .b32 low, high, base;
            prmt.b32 low, $4, 0x43434343, 0x4140;
            prmt.b32 high, $4, 0x43434343, 0x4342;
            and.b32 base, low, 0xff80ff80;
            and.b32 low, low, 0xff7fff7f;
            sub.rn.bf16x2 low, low, base;
            and.b32 base, high, 0xff80ff80;
            and.b32 high, high, 0xff7fff7f;
            sub.rn.bf16x2 high, high, base;
            mov.b32 {$0, $1}, low;
            mov.b32 {$2, $3}, high;
            }""",
            "=h,=h,=h,=h,r",
            [words],
            (gl.bfloat16, gl.bfloat16, gl.bfloat16, gl.bfloat16),
            True,
            1,
        )
    else:
        e0, e1, e2, e3 = gl.inline_asm_elementwise(
            """{
            .reg .b32 bytes, low, high, excess;
            xor.b32 bytes, $4, 0x80808080;
            prmt.b32 low, bytes, 0x64646464, 0x4140;
            prmt.b32 high, bytes, 0x64646464, 0x4342;
            mov.b32 excess, 0x64806480;
            sub.rn.f16x2 low, low, excess;
            sub.rn.f16x2 high, high, excess;
            mov.b32 {$0, $1}, low;
            mov.b32 {$2, $3}, high;
            }""",
            "=h,=h,=h,=h,r",
            [words],
            (gl.float16, gl.float16, gl.float16, gl.float16),
            True,
            1,
        )
    return _side_by_side(e0, e1, e2, e3)


@gluon.jit
def numbers(w, KIND: gl.constexpr, TYPE: gl.constexpr, W: gl.constexpr):
    """Turn what a thread has read into its part of the tensor cores' operand; not for 4-bit words."""
    if KIND == FP8:
        return gl.convert_layout(floats_of_bytes(w), W, assert_trivial=True)
    elif KIND == INT8:
        return gl.convert_layout(integers_of_bytes(w, TYPE), W, assert_trivial=True)
    else:
        return w


@gluon.jit
def from_row(row, part, BLOCK: gl.constexpr, SLICES: gl.constexpr, X: gl.constexpr):
    """Read a step's inputs of the only row, the same in all columns: (SLICES, BLOCK, 8)."""
    x = row.index(part).load(gl.SliceLayout(2, X))
    zeros = gl.zeros([SLICES, BLOCK, 8], x.dtype, layout=X)
    return gl.broadcast(gl.expand_dims(x, 2), zeros)[0]
