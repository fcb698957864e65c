"""GPTQ against the algorithm it shortens: one column at a time, with the inverse of what is left of H at each step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trtbench_lab.errors import QuantizationError
from trtbench_lab.quantization.gptq import DAMPING, _upper_factor, gptq
from trtbench_lab.quantization.inputs import LayerInputs
from trtbench_lab.quantization.weight_only import WeightOnlyScheme, dequantize, quantize, unpack_int4


def seen(x: torch.Tensor) -> LayerInputs:
    inputs = LayerInputs(x.shape[-1], "layer", num_tokens=len(x), with_gram=True)
    inputs.add(x)
    return inputs


def problem(tokens: int = 400, width: int = 64, outputs: int = 24, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=draw) / width**0.5
    x = torch.randn(tokens, width, generator=draw) @ mixing + 0.3 * torch.randn(tokens, width, generator=draw)
    return x, torch.randn(outputs, width, generator=draw)


def by_definition(weight: np.ndarray, hessian: np.ndarray, order: list[int], group: int, bits: int, fixed: bool):
    """Optimal brain quantization in a fixed order, float64: the paper's equations (2) and (3), no factorization."""
    half = 2 ** (bits - 1)
    w = weight.astype(np.float64).copy()
    h = hessian.astype(np.float64).copy()
    h[np.diag_indices_from(h)] += DAMPING * np.mean(np.diag(h))
    steps = np.abs(w.reshape(len(w), -1, group)).max(-1) / half
    integers = np.zeros(w.shape, dtype=np.int64)
    left = list(order)
    while left:
        column = left[0]
        if not fixed and column % group == 0:
            steps[:, column // group] = np.abs(w[:, column : column + group]).max(-1) / half
        step = steps[:, column // group]
        integers[:, column] = np.clip(np.rint(w[:, column] / step), -half, half - 1)
        inverse = np.linalg.inv(h[np.ix_(left, left)])
        error = (w[:, column] - integers[:, column] * step) / inverse[0, 0]
        w[:, left] -= error[:, None] * inverse[0][None, :]
        left = left[1:]
    return integers, steps


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_integers_are_those_of_the_definition(bits: int, act_order: bool):
    x, weight = problem()
    inputs = seen(x)
    made = gptq(weight, inputs, WeightOnlyScheme(bits, 32), scale_dtype=torch.float32, act_order=act_order)
    order = list(range(64))
    if act_order:
        order = torch.argsort(inputs.gram.diagonal(), descending=True, stable=True).tolist()
    expected, steps = by_definition(weight.numpy(), inputs.gram.numpy(), order, 32, bits, act_order)
    got = made.packed if bits == 8 else unpack_int4(made.packed)
    # float32 against float64: a value half way between two integers may go either way, and then moves what follows.
    assert np.mean(got.numpy() == expected) > 0.99
    np.testing.assert_allclose(made.scales.numpy(), steps, rtol=1e-2 if bits == 4 else 1e-3)


def test_the_gram_matrix_is_whole_whenever_it_is_asked_for():
    """Only half of it is summed up, in blocks that the width does not fill; reading it must not disturb later sums."""
    x = torch.randn(90, 600, generator=torch.Generator().manual_seed(4))
    inputs = LayerInputs(600, "layer", num_tokens=90, with_gram=True)
    for start in range(0, 90, 30):
        inputs.add(x[start : start + 30])
        seen_so_far = x[: start + 30].double().numpy()
        np.testing.assert_allclose(inputs.gram.numpy(), seen_so_far.T @ seen_so_far, atol=1e-4)  # float32 sums of 90


def test_the_factor_is_that_of_the_inverse():
    x = torch.randn(700, 300, generator=torch.Generator().manual_seed(5))
    hessian = x.t() @ x
    upper = _upper_factor(hessian, DAMPING, "layer").double().numpy()
    damped = hessian.double().numpy() + DAMPING * float(hessian.diagonal().mean()) * np.eye(300)
    # NumPy's factor is lower: L Lᵀ with L = Uᵀ.
    np.testing.assert_allclose(upper.T, np.linalg.cholesky(np.linalg.inv(damped)), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("act_order", [False, True])
def test_outputs_are_nearer_than_by_rounding_alone(zero_point: bool, act_order: bool):
    x, weight = problem(seed=1)
    scheme = WeightOnlyScheme(4, 32)
    made = gptq(weight, seen(x), scheme, scale_dtype=torch.float32, zero_point=zero_point, act_order=act_order)
    rounded = dequantize(*quantize(weight, scheme, scale_dtype=torch.float32), scheme)

    def error(dense: torch.Tensor) -> float:
        return float(((dense - weight) @ x.t()).norm())

    assert error(made.dense(scheme)) < 0.8 * error(rounded)


def test_zero_points_are_whole_steps_of_the_format():
    """`zero` is (8 − z) · step with an integer z of 0 … 15, as the kernels of the format expect."""
    x, weight = problem(seed=2)
    made = gptq(weight + 0.5, seen(x), WeightOnlyScheme(4, 32), scale_dtype=torch.float32, zero_point=True)
    levels = 8 - made.zeros / made.scales
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert bool(((levels > -0.5) & (levels < 15.5)).all())


def test_an_input_that_is_always_zero_gets_no_weight():
    x, weight = problem(seed=3)
    x[:, 5] = 0
    made = gptq(weight, seen(x), WeightOnlyScheme(8, 32), scale_dtype=torch.float32)
    assert not made.packed[:, 5].any()


def test_faults_are_named():
    x, weight = problem()
    plain = LayerInputs(64, "layer", num_tokens=1)
    plain.add(x)
    with pytest.raises(QuantizationError, match="Gram"):
        gptq(weight, plain, WeightOnlyScheme(4, 32), scale_dtype=torch.float32)
    with pytest.raises(QuantizationError, match="groups of 48"):
        gptq(weight, seen(x), WeightOnlyScheme(4, 48), scale_dtype=torch.float32)
    broken = seen(x)
    broken.gram[0, 0] = float("nan")
    with pytest.raises(QuantizationError, match="factorized"):
        gptq(weight, broken, WeightOnlyScheme(4, 32), scale_dtype=torch.float32)
    with pytest.raises(QuantizationError, match="not finite"):
        seen(torch.tensor([[1.0, float("inf")]]))
