"""FP8 rounding and products against E4M3's values, listed from the format."""

from __future__ import annotations

import numpy as np
import torch

from trtbench_lab.quantization.fp8 import LARGEST, fp8_product, fp8_weight, rounded_to_fp8
from trtbench_lab.quantization.kv_cache import cache_step
from trtbench_lab.specs import QuantAlgo


def e4m3_values() -> np.ndarray:
    """Every finite value, from sign, 4 bits of exponent (bias 7) and 3 of mantissa; s.1111.111 is NaN."""
    found = []
    for code in range(256):
        sign, exponent, mantissa = code >> 7, (code >> 3) & 15, code & 7
        if exponent == 15 and mantissa == 7:
            continue
        value = mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        found.append(-value if sign else value)
    return np.unique(np.array(found))


def test_rounding_takes_the_nearest_value_and_saturates():
    values = e4m3_values()
    assert values.max() == LARGEST
    x = torch.cat([torch.randn(500, generator=torch.Generator().manual_seed(0)) * 50, torch.tensor([1e6, -1e6, 0.0])])
    got = rounded_to_fp8(x).float().numpy()
    clipped = np.clip(x.numpy().astype(np.float64), -LARGEST, LARGEST)
    distance = np.abs(values[None, :] - clipped[:, None]).min(1)
    np.testing.assert_allclose(np.abs(got - clipped), distance, rtol=0, atol=1e-12)


def test_products_are_those_of_the_rounded_values():
    draw = torch.Generator().manual_seed(1)
    weight, x = torch.randn(6, 32, generator=draw), torch.randn(5, 32, generator=draw)
    rounded, step = fp8_weight(weight)
    x_step = torch.tensor([float(x.abs().max()) / LARGEST])
    got = fp8_product(x, rounded, step, x_step)
    a = rounded_to_fp8(x / x_step).float().numpy().astype(np.float64)
    expected = a @ rounded.float().numpy().astype(np.float64).T * float(step) * float(x_step)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)
    # 3 bits of mantissa: each factor is off by at most 1/16 of itself (less than 2^-10 steps below the normal numbers).
    bound = (2 / 16 + 1 / 256) * (x.abs() @ weight.abs().t()) + 1e-3
    assert bool(((got - x @ weight.t()).abs() <= bound).all())
    assert float(rounded.float().abs().max()) == LARGEST


def test_cache_steps_by_hand():
    assert cache_step(12.7, QuantAlgo.INT8) == 12.7 / 127
    assert cache_step(44.8, QuantAlgo.FP8) == 44.8 / 448
    assert cache_step(0.0, QuantAlgo.INT8) == 1.0


def test_steps_by_output_and_by_token_are_those_of_each_row():
    draw = torch.Generator().manual_seed(2)
    weight, x = torch.randn(6, 32, generator=draw), torch.randn(2, 3, 32, generator=draw)
    weight[2] *= 100  # one step for all outputs would leave little of the others
    x[0, 1] = 0
    steps = weight.abs().amax(1) / LARGEST
    rounded = rounded_to_fp8(weight / steps[:, None])
    got = fp8_product(x, rounded, steps)
    for row in range(2):
        for token in range(3):
            one = x[row, token]
            step = torch.clamp(one.abs().max() / LARGEST, min=1e-30).reshape(1)
            for output in range(6):
                alone = fp8_product(one, rounded[output : output + 1], steps[output : output + 1], step)
                torch.testing.assert_close(got[row, token, output], alone[0], rtol=1e-6, atol=1e-7)
    assert not got[0, 1].any()
