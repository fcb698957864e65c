"""The kernel that prepares a quantized product's inputs, row by row: norm, order, factors, and the rounding."""

from __future__ import annotations

import triton
import triton.language as tl

from .....plugins.kernels.rounding import round_to_int8
from .....plugins.matmul.kernels.common import to_fp8
from .common import normalised, row_statistics


@triton.jit
def prepare_inputs_kernel(
    x_ptr, norm_w_ptr, norm_b_ptr, order_ptr, divisor_ptr, factor_ptr, step_ptr, out_ptr, steps_ptr, eps,
    WIDTH: tl.constexpr, WIDTH_PADDED: tl.constexpr, NORM: tl.constexpr, TO: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Write row ``x[order]``, normed, divided, multiplied, and rounded as TO says; absent parts are None.

    TO 0: as it is; 1: int8; 2: float8_e4m3fn; 3: through float8_e4m3fn and back. A step that is None is the row's own
    and goes to `steps`.
    """
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    column = tl.arange(0, WIDTH_PADDED)[None, :]
    inside = column < WIDTH
    source = column
    if order_ptr is not None:
        source = tl.load(order_ptr + column, mask=inside, other=0)
    if PDL:
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    x = tl.load(x_ptr + row * WIDTH + source, mask=inside, other=0.0)
    if NORM != 0:  # mean and deviation do not depend on the order
        wide = x.to(tl.float32)
        mean, rstd = row_statistics(wide, inside, WIDTH, eps, NORM)
        weight = tl.load(norm_w_ptr + source, mask=inside, other=0.0)
        bias = weight
        if NORM == 2:
            bias = tl.load(norm_b_ptr + source, mask=inside, other=0.0)
        x = normalised(wide, mean[:, None], rstd[:, None], weight, bias, NORM).to(TYPE)
    if divisor_ptr is not None:
        divisor = tl.load(divisor_ptr + column, mask=inside, other=1.0).to(tl.float32)
        x = (x.to(tl.float32) / divisor).to(TYPE)
    if factor_ptr is not None:
        x = (x.to(tl.float32) * tl.load(factor_ptr + column, mask=inside, other=0.0).to(tl.float32)).to(TYPE)
    target = out_ptr + row * WIDTH + column
    if TO == 0:
        tl.store(target, x, mask=inside)
    else:
        wide = tl.where(inside, x.to(tl.float32), 0.0)
        if step_ptr is None:
            largest = tl.max(tl.abs(wide), axis=1)
            step = tl.where(largest > 0.0, tl.div_rn(largest, 127.0 if TO == 1 else 448.0), 1.0)
            tl.store(steps_ptr + row + tl.arange(0, 1), step)
            step = step[:, None]
        else:
            step = tl.load(step_ptr).to(tl.float32)
        if TO == 1:
            tl.store(target, round_to_int8(wide, step), mask=inside)
        elif TO == 2:
            tl.store(target, to_fp8(wide / step), mask=inside)
        else:
            tl.store(target, (to_fp8(wide / step).to(tl.float32) * step).to(TYPE), mask=inside)
