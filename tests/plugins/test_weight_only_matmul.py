"""The weight-only product: reference body against NumPy, and the shapes its ONNX functions take.

That the ONNX functions compute the same is tested where networks are exported (tests/network/test_export.py).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trtbench_lab.plugins.weight_only_matmul import block_size, function_name, reference, weight_only_matmul
from trtbench_lab.quantization.weight_only import WeightOnlyScheme, quantize, unpack_int4


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group_size", [None, 32, 64])
def test_the_reference_is_the_product_with_the_dense_weight(bits, group_size):
    scheme = WeightOnlyScheme(bits, group_size)
    generator = torch.Generator().manual_seed(0)
    packed, scales = quantize(torch.randn(6, 64, generator=generator), scheme)
    x = torch.randn(2, 3, 64, generator=generator)
    integers = (packed if bits == 8 else unpack_int4(packed)).numpy().astype(np.float64)
    groups = integers.reshape(6, -1, group_size or 64) * scales.numpy().astype(np.float64).reshape(6, -1, 1)
    expected = x.numpy().astype(np.float64) @ groups.reshape(6, 64).T
    got = reference(x, packed, scales, scheme)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)  # sums of 64 float32 products
    assert torch.equal(weight_only_matmul(x, packed, scales, scheme), got)


def test_the_result_has_the_inputs_type():
    scheme = WeightOnlyScheme(8)
    packed, scales = quantize(torch.randn(4, 32), scheme)
    assert reference(torch.randn(1, 32, dtype=torch.bfloat16), packed, scales, scheme).dtype == torch.bfloat16


def test_functions_are_named_by_variant():
    names = [function_name(WeightOnlyScheme(bits, group)) for bits in (8, 4) for group in (None, 64)]
    assert names == ["Int8MatMul", "Int8GroupMatMul", "Int4MatMul", "Int4MatMul"]


@pytest.mark.parametrize(
    ("bits", "group_size", "in_features", "expected"),
    [
        (4, 64, 256, 64),
        (4, None, 256, 128),
        (4, None, 192, 64),
        (4, None, 96, 96),
        (8, None, 192, 192),
        (8, 32, 64, 32),
    ],
)
def test_four_bit_channels_are_written_in_the_blocks_that_tensorrt_takes(bits, group_size, in_features, expected):
    assert block_size(WeightOnlyScheme(bits, group_size), in_features) == expected
