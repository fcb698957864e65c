"""NaN and infinity are found in every type, counted and placed; sound weights pass, the largest ones too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trtbench_lab.checkpoint.finite import all_finite, check_finite
from trtbench_lab.errors import CheckpointError, IntakeError

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
    with pytest.raises(CheckpointError) as caught:
        check_finite("layers.0.w", tensor, where="model.safetensors")
    assert not all_finite(tensor)
    assert f"Tensor layers.0.w holds {kind} values of 24" in str(caught.value)
    assert "at [2, 3]" in str(caught.value)
    assert str(caught.value).startswith("model.safetensors: ")


def test_both_kinds_are_counted() -> None:
    tensor = torch.tensor([1.0, NAN, INF, NAN, -INF])
    with pytest.raises(CheckpointError, match=r"2 NaN and 2 infinite values of 5; the first is nan at \[1\]"):
        check_finite("w", tensor)


@pytest.mark.parametrize("tensor", [torch.empty(0, 4), torch.tensor([3]), torch.tensor([True]), torch.tensor(1.0)])
def test_empty_integer_and_scalar_tensors_pass(tensor: torch.Tensor) -> None:
    check_finite("w", tensor)
    assert all_finite(tensor)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu])
def test_every_finite_8_bit_float_passes(dtype: torch.dtype) -> None:
    values = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(dtype)
    finite = values[torch.isfinite(values.float())]
    assert len(finite) >= 247  # E5M2 spends 8 of 256 patterns on infinity and NaN, the others fewer
    check_finite("w", finite)
    assert all_finite(finite)
    assert not all_finite(values)


def test_strided_tensors_and_parameters() -> None:
    base = torch.ones(4, 4)
    base[0, 1] = NAN
    check_finite("even columns", base[:, ::2])
    with pytest.raises(CheckpointError):
        check_finite("transposed", base.t())
    check_finite("parameter", torch.nn.Parameter(torch.ones(2)))


def test_the_callers_class_is_raised() -> None:
    with pytest.raises(IntakeError):
        check_finite("w", torch.tensor([NAN]), error=IntakeError)


@pytest.mark.parametrize(("stored_as", "fits"), [(torch.float16, False), (torch.bfloat16, True), (None, True)])
def test_values_that_the_stored_type_cannot_hold(stored_as: torch.dtype | None, fits: bool) -> None:
    tensor = torch.tensor([1.0, -70_000.0])  # float16 ends at 65,504
    if fits:
        check_finite("w", tensor, stored_as=stored_as)
    else:
        with pytest.raises(CheckpointError, match=r"reaches 70000, which float16 cannot hold .*65504"):
            check_finite("w", tensor, stored_as=stored_as)


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40))
def test_agrees_with_numpy_on_any_half_precision_bits(bits: list[int]) -> None:
    array = np.array(bits, dtype=np.uint16).view(np.float16)
    tensor = torch.from_numpy(array)
    assert all_finite(tensor) == np.isfinite(array).all()
    if np.isfinite(array).all():
        check_finite("w", tensor)
    else:
        with pytest.raises(CheckpointError, match=f"{np.isnan(array).sum()} NaN and {np.isinf(array).sum()} infinite"):
            check_finite("w", tensor)
