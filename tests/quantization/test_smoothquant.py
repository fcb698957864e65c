"""SmoothQuant against NumPy's integer arithmetic, from the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbench_lab.quantization.inputs import LayerInputs
from trtbench_lab.quantization.smoothquant import (
    _int32_product,
    activation_step,
    integer_inputs,
    integer_product,
    integer_weight,
    smoothing_factors,
)


def seen(x: torch.Tensor) -> LayerInputs:
    inputs = LayerInputs(x.shape[-1], "layer", num_tokens=len(x))
    inputs.add(x)
    return inputs


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 17), st.integers(1, 33), st.booleans(), st.booleans(), st.integers(0, 2**31 - 1)
)
def test_products_are_numpys(tokens: int, outputs: int, width: int, per_channel: bool, per_token: bool, seed: int):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=draw)
    weight = torch.randn(outputs, width, generator=draw)
    made = integer_weight(weight, per_channel=per_channel)
    step = None if per_token else activation_step(seen(x), torch.ones(width))
    got = integer_product(x, made.integers, made.steps, step)

    w = weight.numpy()
    w_step = np.abs(w).max(1, keepdims=True) / np.float32(127) if per_channel else np.abs(w).max() / np.float32(127)
    w_int = np.clip(np.rint(w / w_step), -127, 127).astype(np.int64)
    a = x.numpy()
    x_step = np.abs(a).max(1, keepdims=True) / np.float32(127) if per_token else np.abs(a).max() / np.float32(127)
    x_int = np.clip(np.rint(a / x_step), -127, 127).astype(np.int64)
    assert np.array_equal(made.integers.numpy(), w_int)
    expected = (x_int @ w_int.T).astype(np.float32) * (x_step * np.broadcast_to(w_step, (outputs, 1)).T)
    np.testing.assert_allclose(got.numpy(), expected, rtol=3e-7)  # three float32 products, in one order or another


@pytest.mark.parametrize("width", [1, 1023, 1024, 1025, 5000])
def test_sums_of_the_largest_integers_are_exact(width: int):
    """Sums beyond 2²⁴, where float32 has no odd numbers: no bit may be lost at any width."""
    draw = torch.Generator().manual_seed(width)
    x = torch.where(torch.rand(3, width, generator=draw) < 0.97, 127.0, 126.0)
    weight = torch.where(torch.rand(5, width, generator=draw) < 0.97, -128, -127).to(torch.int8)
    got = integer_product(x.double(), weight, torch.ones(5), torch.ones(1))  # the sums, as int32 → float32 has them
    expected = x.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T
    assert np.array_equal(got.numpy(), expected.astype(np.float32).astype(np.float64))
    assert np.array_equal(_int32_product(x.to(torch.int8), weight).numpy(), expected)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_smoothing_changes_nothing_before_rounding(alpha: float, seed: int):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 16, generator=draw, dtype=torch.float64) * torch.logspace(-2, 2, 16, dtype=torch.float64)
    weights = [torch.randn(5, 16, generator=draw, dtype=torch.float64) for _ in range(2)]
    factors = smoothing_factors(seen(x), [weight.float() for weight in weights], alpha).double()
    for weight in weights:
        torch.testing.assert_close((x / factors) @ (weight * factors).t(), x @ weight.t(), rtol=1e-12, atol=1e-12)


def test_factors_by_hand():
    x = torch.tensor([[8.0, -1.0, 0.0], [-2.0, 4.0, 0.0]])
    weights = [torch.tensor([[0.5, 1.0, 3.0]]), torch.tensor([[-2.0, 0.25, 1.0]])]
    # Largest inputs 8, 4, 0; largest weights 2, 1, 3; alpha 0.5: sqrt(8 / 2), sqrt(4 / 1); a dead input keeps 1.
    torch.testing.assert_close(smoothing_factors(seen(x), weights, 0.5), torch.tensor([2.0, 2.0, 1.0]))
    torch.testing.assert_close(smoothing_factors(seen(x), weights, 1.0), torch.tensor([8.0, 4.0, 1.0]))
    torch.testing.assert_close(smoothing_factors(seen(x), weights, 0.0), torch.tensor([0.5, 1.0, 1.0]))


def test_an_outlier_feature_costs_less_after_smoothing():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(256, 64, generator=draw)
    x[:, 7] *= 100
    weight = torch.randn(32, 64, generator=draw)
    inputs = seen(x)

    def error(factors: torch.Tensor) -> float:
        made = integer_weight(weight * factors, per_channel=True)
        got = integer_product(x / factors, made.integers, made.steps, activation_step(inputs, factors))
        return float((got - x @ weight.t()).norm() / (x @ weight.t()).norm())

    plain, smoothed = error(torch.ones(64)), error(smoothing_factors(inputs, [weight], 0.5))
    assert smoothed < plain / 2


@pytest.mark.parametrize("step", [None, torch.tensor([0.5])])
def test_zeros_stay_zeros(step: torch.Tensor | None):
    integers, _ = integer_inputs(torch.zeros(3, 8), step)
    assert not integers.any()
    made = integer_weight(torch.zeros(4, 8), per_channel=True)
    assert torch.equal(integer_product(torch.ones(3, 8), made.integers, made.steps, step), torch.zeros(3, 4))


def test_inputs_beyond_the_static_step_saturate():
    integers, _ = integer_inputs(torch.tensor([[1000.0, -1000.0]]), torch.tensor([1.0]))
    assert integers.tolist() == [[127, -127]]
