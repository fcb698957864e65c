"""NaN and infinity are found in every type, counted and placed; sound weights pass, the largest ones too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trtbench_lab.errors import IntakeError
from trtbench_lab.intake.finite import check_finite

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NAN, INF = float("nan"), float("inf")
# E4M3 (the "fn" kind) has no infinity: torch stores its largest value instead.
BAD = [(dtype, bad) for dtype in (*FLOATS, torch.float8_e5m2) for bad in (NAN, INF, -INF)] + [
    (torch.float8_e4m3fn, NAN)
]


@pytest.mark.parametrize("dtype", FLOATS)
def test_largest_finite_values_pass(dtype: torch.dtype) -> None:
    """Their sum overflows; they are sound all the same."""
    largest = torch.finfo(dtype).max
    check_finite("w", torch.full((3, 5), largest, dtype=dtype))
    check_finite("w", torch.full((3, 5), -largest, dtype=dtype))


@pytest.mark.parametrize(("dtype", "bad"), BAD)
def test_one_bad_value_is_counted_and_placed(dtype: torch.dtype, bad: float) -> None:
    values = torch.ones(4, 6)
    values[2, 3] = bad
    tensor = values.to(dtype)
    kind = "1 NaN and 0 infinite" if bad != bad else "0 NaN and 1 infinite"
    with pytest.raises(IntakeError) as caught:
        check_finite("layers.0.w", tensor, where="model.safetensors")
    assert f"Tensor layers.0.w holds {kind} values of 24" in str(caught.value)
    assert "at [2, 3]" in str(caught.value)
    assert str(caught.value).startswith("model.safetensors: ")


def test_both_kinds_are_counted() -> None:
    tensor = torch.tensor([1.0, NAN, INF, NAN, -INF])
    with pytest.raises(IntakeError, match=r"2 NaN and 2 infinite values of 5; the first is nan at \[1\]"):
        check_finite("w", tensor)


@pytest.mark.parametrize("tensor", [torch.empty(0, 4), torch.tensor(3), torch.tensor([True]), torch.tensor(1.0)])
def test_empty_integer_and_scalar_tensors_pass(tensor: torch.Tensor) -> None:
    check_finite("w", tensor)


def test_strided_and_complex_and_parameter() -> None:
    base = torch.ones(4, 4)
    base[0, 1] = NAN
    check_finite("even columns", base[:, ::2])
    with pytest.raises(IntakeError):
        check_finite("transposed", base.t())
    with pytest.raises(IntakeError):
        check_finite("complex", torch.complex(torch.zeros(2), torch.tensor([0.0, INF])))
    check_finite("parameter", torch.nn.Parameter(torch.ones(2)))


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40))
def test_agrees_with_numpy_on_any_half_precision_bits(bits: list[int]) -> None:
    array = np.array(bits, dtype=np.uint16).view(np.float16)
    tensor = torch.from_numpy(array)
    if np.isfinite(array).all():
        check_finite("w", tensor)
    else:
        with pytest.raises(IntakeError, match=f"{np.isnan(array).sum()} NaN and {np.isinf(array).sum()} infinite"):
            check_finite("w", tensor)
