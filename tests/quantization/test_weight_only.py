"""Weight-only numerics against the definition, written out in NumPy, float64 and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trtbench_lab.errors import QuantizationError
from trtbench_lab.quantization.weight_only import (
    WeightOnlyScheme,
    dequantize,
    integer_zero_points,
    pack_int4,
    quantize,
    scheme_from_config,
    unpack_int4,
)
from trtbench_lab.specs import QuantConfig

SCHEMES = [WeightOnlyScheme(bits, group) for bits in (8, 4) for group in (None, 32, 64, 128)]


def by_definition(weight: np.ndarray, scheme: WeightOnlyScheme) -> tuple[np.ndarray, np.ndarray]:
    """Integers (out, in) and scales (out, groups) of float32 weights."""
    out_features, in_features = weight.shape
    group = scheme.group_size or in_features
    top = 2 ** (scheme.bits - 1)
    integers = np.zeros(weight.shape, dtype=np.int64)
    scales = np.zeros((out_features, in_features // group), dtype=np.float32)
    for row in range(out_features):
        for number in range(in_features // group):
            part = slice(number * group, (number + 1) * group)
            largest = np.abs(weight[row, part]).max()
            scale = np.float32(largest) / np.float32(top) if largest > 0 else np.float32(1)
            scale = max(scale, np.finfo(np.float32).tiny)
            scales[row, number] = scale
            integers[row, part] = np.clip(np.rint(weight[row, part] / scale), -top, top - 1)
    return integers, scales


def unpacked(packed: torch.Tensor, scheme: WeightOnlyScheme) -> np.ndarray:
    """Read stored integers byte by byte, low half first."""
    raw = packed.numpy()
    if scheme.bits == 8:
        return raw.astype(np.int64)
    out = np.zeros((raw.shape[0], 2 * raw.shape[1]), dtype=np.int64)
    unsigned = raw.view(np.uint8)
    for column in range(raw.shape[1]):
        for half, nibble in enumerate((unsigned[:, column] & 15, unsigned[:, column] >> 4)):
            out[:, 2 * column + half] = np.where(nibble > 7, nibble.astype(np.int64) - 16, nibble)
    return out


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_integers_and_scales_are_the_definitions(scheme):
    weight = np.random.default_rng(0).standard_normal((5, 256)).astype(np.float32)
    weight[1] *= 1e-3
    weight[2, :128] = 0
    packed, scales = quantize(torch.from_numpy(weight), scheme)
    integers, expected_scales = by_definition(weight, scheme)
    assert tuple(packed.shape) == scheme.packed_shape(5, 256)
    assert tuple(scales.shape) == scheme.scale_shape(5, 256)
    np.testing.assert_array_equal(scales.numpy().reshape(expected_scales.shape), expected_scales)
    np.testing.assert_array_equal(unpacked(packed, scheme), integers)
    group = scheme.group_size or 256
    restored = integers.reshape(5, -1, group).astype(np.float32) * expected_scales[:, :, None]
    np.testing.assert_array_equal(dequantize(packed, scales, scheme).numpy(), restored.reshape(5, 256))


FLOATS = st.floats(-1e4, 1e4, width=32)


@settings(deadline=None, max_examples=60)
@given(
    weight=hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.sampled_from([32, 64])), elements=FLOATS),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([None, 32]),
)
def test_no_weight_moves_by_more_than_a_step(weight, bits, group):
    """Half a step, or a whole one where a positive extreme is clipped."""
    scheme = WeightOnlyScheme(bits, group)
    packed, scales = quantize(torch.from_numpy(weight), scheme)
    restored = dequantize(packed, scales, scheme).numpy().reshape(weight.shape[0], -1, group or weight.shape[1])
    grouped = weight.reshape(restored.shape).astype(np.float64)
    step = scales.numpy().reshape(weight.shape[0], -1, 1).astype(np.float64)
    assert (step > 0).all()
    assert np.isfinite(step).all()
    clipped = grouped > (2 ** (bits - 1) - 0.5) * step
    # One rounding of the quotient and one of the product: 2^-23 of the weight each.
    slack = np.abs(grouped) * 2.0**-22
    assert (np.abs(restored - grouped) <= np.where(clipped, step, step / 2) + slack).all()


@settings(deadline=None, max_examples=40)
@given(
    hnp.arrays(
        np.int8, st.tuples(st.integers(1, 3), st.integers(1, 8).map(lambda n: 2 * n)), elements=st.integers(-8, 7)
    )
)
def test_packing_is_undone_by_unpacking(integers):
    packed = pack_int4(torch.from_numpy(integers))
    assert packed.shape[-1] == integers.shape[-1] // 2
    np.testing.assert_array_equal(unpack_int4(packed).numpy(), integers)


def test_the_even_element_is_in_the_low_half():
    packed = pack_int4(torch.tensor([[1, -2, 7, -8]], dtype=torch.int8)).view(torch.uint8)
    assert packed.tolist() == [[0xE1, 0x87]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scales_are_rounded_before_weights_are_quantized(dtype):
    """With the stored scale, each weight is at its nearest level; with the unrounded one it would not be."""
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    scheme = WeightOnlyScheme(8)
    packed, scales = quantize(weight, scheme)
    assert scales.dtype == dtype
    levels = weight.double() / scales.double()[:, None]
    nearest = levels.round().clamp(-128, 127)
    assert ((packed.double() - levels).abs() <= (nearest - levels).abs() + 1e-6).all()


def test_scales_never_underflow():
    weight = torch.full((2, 32), 1e-7, dtype=torch.float16)
    _, scales = quantize(weight, WeightOnlyScheme(8))
    assert (scales >= torch.finfo(torch.float16).smallest_normal).all()
    zeros, scales = quantize(torch.zeros(2, 32), WeightOnlyScheme(4, 32))
    assert not zeros.any()
    assert (scales == 1).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(bad):
    weight = torch.zeros(2, 32)
    weight[1, 3] = bad
    with pytest.raises(QuantizationError, match="NaN or infinity") as caught:
        quantize(weight, WeightOnlyScheme(8), name="lm_head.weight")
    assert caught.value.where == "lm_head.weight"


def test_groups_that_do_not_divide_are_refused_with_those_that_do():
    with pytest.raises(QuantizationError, match="96 input features cannot be cut into groups of 128") as caught:
        quantize(torch.zeros(2, 96), WeightOnlyScheme(4, 128))
    assert "Groups of 32 fit" in str(caught.value)
    with pytest.raises(QuantizationError, match="two to a byte"):
        quantize(torch.zeros(2, 33), WeightOnlyScheme(4))


def test_schemes_of_configurations():
    assert scheme_from_config(QuantConfig()) is None
    assert scheme_from_config(QuantConfig(quant_algo="W8A16")) == WeightOnlyScheme(8, None)
    assert scheme_from_config(QuantConfig(quant_algo="W4A16", group_size=64)) == WeightOnlyScheme(4, 64)
    with pytest.raises(QuantizationError, match="'FP8' cannot be executed"):
        scheme_from_config(QuantConfig(quant_algo="FP8"))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    st.floats(1e-4, 1.0),
    st.sampled_from([4, 8]),
    st.data(),
)
def test_zero_points_survive_the_rounding_of_their_product(
    dtype: torch.dtype, scale: float, bits: int, data: st.DataObject
):
    half = 2 ** (bits - 1)
    scales = torch.tensor([[scale]]).to(dtype)
    zero = data.draw(st.integers(-half, half + 1))
    integer = data.draw(st.integers(-half, half - 1))
    stored = (-zero * scales.float()).to(dtype)
    assert integer_zero_points(stored, scales).item() == zero
    pair = torch.tensor([[integer, 0]], dtype=torch.int8)
    packed = pair if bits == 8 else pack_int4(pair)
    got = dequantize(packed, scales, WeightOnlyScheme(bits), zeros=stored)
    exact = torch.tensor((integer - zero) * float(scales.double()), dtype=torch.float64)
    assert got[0, 0] == exact.to(dtype)
