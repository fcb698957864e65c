"""GPTQ: round a weight column by column and let the columns still to come make up for the error (Frantar et al., 2023).

With H = X Xᵀ over the calibration tokens (damped by a share of its mean diagonal) and U the upper Cholesky factor of
H⁻¹, column j is rounded to q_j and every later column k changes by ``−(w_j − q_j) / U_jj · U_jk``. Scales and zero
points of a group come from the weights as they stand when its first column is reached.

With `act_order` the columns with the largest H_jj are rounded first, while there is most left to make up for it. The
groups stay those of neighbouring input features, with ranges found before the first column: the checkpoint needs no
order of its own, and tensor-parallel ranks can cut it anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import QuantizationError
from .inputs import LayerInputs
from .weight_only import WeightOnlyScheme, dequantize, pack_int4

BLOCK_COLUMNS = 128
DAMPING = 0.01
_INVERSE_ROWS = 128


@dataclass(frozen=True)
class GptqWeight:
    """A layer after GPTQ.

    Attributes
    ----------
    packed
        As `weight_only` packs it.
    scales
        (out, groups): the step of each group.
    zeros
        (out, groups): ``−zero point · step`` in the type of the scales; None without zero points.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None

    def dense(self, scheme: WeightOnlyScheme) -> torch.Tensor:
        """Return the weight (out, in) float32 that the integers stand for."""
        return dequantize(self.packed, self.scales, scheme, zeros=self.zeros, dtype=torch.float32)


def gptq(
    weight: torch.Tensor,
    inputs: LayerInputs,
    scheme: WeightOnlyScheme,
    *,
    scale_dtype: torch.dtype,
    zero_point: bool = False,
    act_order: bool = False,
    damping: float = DAMPING,
) -> GptqWeight:
    """Quantize a layer.

    Parameters
    ----------
    weight
        (out, in), any floating type.
    inputs
        Statistics of its inputs, with their Gram matrix.
    scheme
        4 or 8 bits with groups.
    scale_dtype
        Type of scales and zero points in the checkpoint.
    zero_point
        Give each group the range of its weights instead of one around 0.
    act_order
        Round the columns of the largest inputs first.
    damping
        Share of the mean diagonal added to the diagonal of H.

    Raises
    ------
    QuantizationError
        When H cannot be factorized even with a hundred times the damping.
    """
    if inputs.gram is None:
        raise QuantizationError("GPTQ needs the inputs' Gram matrix.", where=inputs.name, remedy="Calibrate for GPTQ.")
    out_features, in_features = weight.shape
    group = scheme.group_size or in_features
    scheme.check_fits(inputs.name, out_features, in_features)
    work = weight.float().clone()
    hessian = inputs.gram.clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    work[:, dead] = 0  # an input that is always 0: any weight does
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if act_order else None
    # A row a group, and below a row a column: what a column needs is one piece of memory.
    steps = torch.empty(in_features // group, out_features, device=work.device)
    zeros = torch.zeros_like(steps)
    if order is not None:
        found = _ranges(work.view(out_features, -1, group), scheme.bits, scale_dtype, zero_point)
        steps, zeros = (kind.t().contiguous() for kind in found)
        work, hessian = work[:, order], hessian[order][:, order]
    features = range(in_features) if order is None else order.tolist()
    upper = _upper_factor(hessian, damping, inputs.name)
    columns = work.t().contiguous()  # (in, out)
    integers = torch.empty(in_features, out_features, dtype=torch.int8, device=work.device)
    for start in range(0, in_features, BLOCK_COLUMNS):
        end = min(start + BLOCK_COLUMNS, in_features)
        block = _Block(columns[start:end], upper[start:end, start:end], 1 << (scheme.bits - 1))
        for column, feature in enumerate(features[start:end]):
            if order is None and feature % group == 0:
                ahead = columns[feature : feature + group].t()
                found = _ranges(ahead[:, None, :], scheme.bits, scale_dtype, zero_point)
                steps[feature // group], zeros[feature // group] = found[0][:, 0], found[1][:, 0]
            block.round(column, steps[feature // group], zeros[feature // group] if zero_point else None)
        integers[start:end] = block.rounded.to(torch.int8)
        columns[end:].addmm_(upper[start:end, end:].t(), block.errors, alpha=-1)
    if order is not None:
        integers = integers[torch.argsort(order)]
    stored = integers.t().contiguous()
    packed = stored if scheme.bits == 8 else pack_int4(stored)
    steps, zeros = steps.t().contiguous(), zeros.t().contiguous()
    return GptqWeight(packed, steps.to(scale_dtype), zeros.to(scale_dtype) if zero_point else None)


class _Block:
    """Neighbouring columns that are rounded one after the other; what the rest of the matrix owes them waits.

    A GPU spends its time here on starting kernels, seven a column, so nothing else is done to a column alone.

    Parameters
    ----------
    columns
        (n, out), changed in place.
    factor
        (n, n): U of these columns.
    half
        Half the number of levels.

    Attributes
    ----------
    rounded
        (n, out) the integers, in float32.
    errors
        (n, out) ``(w_j − q_j) / U_jj``.
    """

    def __init__(self, columns: torch.Tensor, factor: torch.Tensor, half: int):
        self.columns, self.factor, self.half = columns, factor, half
        self.rounded, self.errors = torch.empty_like(columns), torch.empty_like(columns)

    def round(self, column: int, step: torch.Tensor, zero: torch.Tensor | None) -> None:
        """Round one column with the step and zero of each output, (out,), and let the later ones make up for it."""
        values, rounded, error = self.columns[column], self.rounded[column], self.errors[column]
        torch.div(values if zero is None else values - zero, step, out=rounded)
        rounded.round_().clamp_(-self.half, self.half - 1)
        torch.mul(rounded, step, out=error)
        restored = error if zero is None else error.add_(zero)
        torch.sub(values, restored, out=error).div_(self.factor[column, column])
        self.columns[column + 1 :].addr_(self.factor[column, column + 1 :], error, alpha=-1)


def _ranges(
    grouped: torch.Tensor, bits: int, dtype: torch.dtype, zero_point: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return step, as the checkpoint's type stores it, and ``−zero point · step`` of each group, in float32.

    `grouped` is (out, groups, group). The zero point is an integer, which whoever reads the checkpoint finds again
    (`weight_only.integer_zero_points`), so its product is not rounded here.
    """
    half = 1 << (bits - 1)
    if zero_point:
        low, high = grouped.amin(-1).clamp_max(0), grouped.amax(-1).clamp_min(0)
        steps = ((high - low) / (2 * half - 1)).to(dtype).float()
        steps = torch.where(steps > 0, steps, 1.0)
        # integer −half stands for the lowest value.
        return steps, (torch.round(-low / steps) - half) * -steps
    steps = (grouped.abs().amax(-1) / half).to(dtype).float()
    return torch.where(steps > 0, steps, 1.0), torch.zeros_like(steps)


def _upper_factor(hessian: torch.Tensor, damping: float, name: str) -> torch.Tensor:
    """Return the upper U with positive diagonal for which ``Uᵀ U`` is the inverse of the damped matrix.

    With ``H = R Rᵀ`` and R upper, which is Cholesky's factorization from the last row up, U is R⁻¹: a factorization
    and a triangular inverse, n³ / 3 multiplications, where inverting H and factorizing again takes twice as many.
    """
    mean = hessian.diagonal().mean()
    for share in (damping, 10 * damping, 100 * damping):
        damped = hessian.flip(0, 1)
        damped.diagonal().add_(share * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if int(failed) == 0:
            return _inverse_of_upper(lower.flip(0, 1))
    raise QuantizationError(
        "The products of this layer's inputs cannot be factorized.",
        where=name,
        remedy="Calibrate on more text: the inputs seen do not span the layer's input features.",
    )


def _inverse_of_upper(upper: torch.Tensor) -> torch.Tensor:
    """Return the inverse of an upper triangular matrix by halves, so that nearly all of it is matrix products."""
    size = len(upper)
    if size <= _INVERSE_ROWS:
        return torch.linalg.solve_triangular(upper, torch.eye(size, device=upper.device), upper=True)
    half = size // 2
    first, last = _inverse_of_upper(upper[:half, :half]), _inverse_of_upper(upper[half:, half:])
    inverse = torch.zeros_like(upper)
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[:half, half:] = -(first @ upper[:half, half:] @ last)
    return inverse
