"""Packed formats against NumPy writers and definitions made from each format's documentation, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.intake.quantized.writers import packed_along_rows, packed_awq

from trtbench_lab.checkpoint.source import MemorySource
from trtbench_lab.errors import IntakeError
from trtbench_lab.intake.quantized.awq import read_awq
from trtbench_lab.intake.quantized.compressed import read_packed, read_plain
from trtbench_lab.intake.quantized.gptq import read_gptq
from trtbench_lab.intake.quantized.linear import unpack_words
from trtbench_lab.intake.quantized.modelopt import read_modelopt


def source(**tensors: np.ndarray | torch.Tensor) -> MemorySource:
    made = {f"layer.{name}": torch.as_tensor(value) for name, value in tensors.items()}
    return MemorySource({}, made)


def drawn(seed: int, outputs: int, width: int, groups: int, bits: int):
    random = np.random.default_rng(seed)
    integers = random.integers(0, 2**bits, (width, outputs))
    zeros = random.integers(1, 2**bits, (groups, outputs))
    scales = (random.random((groups, outputs)) * 0.02 + 1e-3).astype(np.float16)
    return random, integers, zeros, scales


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([2, 3, 4, 5, 6, 7, 8]), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_gptq(bits: int, groups: int, act_order: bool, less_one: bool, seed: int):
    width, outputs = 32 * groups, 32
    random, integers, zeros, scales = drawn(seed, outputs, width, groups, bits)
    order = np.arange(width) // 32
    if act_order:
        random.shuffle(order)
    held = source(
        qweight=packed_along_rows(integers, bits),
        qzeros=packed_along_rows((zeros - less_one).T, bits).T.copy(),
        scales=scales,
        g_idx=order.astype(np.int32),
    )
    layer = read_gptq(held, "layer", bits=bits, zeros_less_one=less_one)
    expected = (scales[order].astype(np.float32) * (integers - zeros[order]).astype(np.float32)).astype(np.float16)
    assert np.array_equal(layer.dense().numpy(), expected.T)
    assert layer.has_order is (act_order and not np.array_equal(order, np.arange(width) // 32))
    signed, around = layer.signed()
    assert signed.dtype == torch.int8
    assert np.array_equal((signed.numpy().T - around.numpy().T[order]), integers - zeros[order])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_awq(groups: int, eights: int, seed: int):
    width, outputs = 32 * groups, 8 * eights
    _, integers, zeros, scales = drawn(seed, outputs, width, groups, 4)

    held = source(qweight=packed_awq(integers), qzeros=packed_awq(zeros), scales=scales)
    layer = read_awq(held, "layer")
    group = np.arange(width) // 32
    expected = (scales[group].astype(np.float32) * (integers - zeros[group]).astype(np.float32)).astype(np.float16)
    assert np.array_equal(layer.dense().numpy(), expected.T)
    assert (layer.bits, layer.group_size, layer.has_order) == (4, None if groups == 1 else 32, False)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([4, 8]), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_compressed_tensors_packed(bits: int, groups: int, asymmetric: bool, ordered: bool, seed: int):
    width, outputs = 32 * groups, 16
    random, integers, zeros, scales = drawn(seed, outputs, width, groups, bits)
    order = np.arange(width) // 32
    tensors = {
        "weight_packed": packed_along_rows(integers, bits).T.copy(),
        "weight_scale": scales.T.copy(),
        "weight_shape": np.array([outputs, width]),
    }
    if asymmetric:
        tensors["weight_zero_point"] = packed_along_rows(zeros.T, bits)
    if ordered:
        random.shuffle(order)
        tensors["weight_g_idx"] = order.astype(np.int32)
    layer = read_packed(source(**tensors), "layer", bits=bits)
    around = zeros[order] if asymmetric else 2 ** (bits - 1)
    expected = (scales[order].astype(np.float32) * (integers - around).astype(np.float32)).astype(np.float16)
    assert np.array_equal(layer.dense().numpy(), expected.T)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_compressed_tensors_plain(dtype: torch.dtype, per_channel: bool):
    random = np.random.default_rng(0)
    weight = torch.as_tensor(random.integers(-127, 128, (6, 10))).float().to(dtype)
    scale = torch.as_tensor(random.random((6, 1) if per_channel else (1,)), dtype=torch.float32)
    held = source(weight=weight, weight_scale=scale, input_scale=torch.tensor([0.25]))
    layer = read_plain(held, "layer")
    expected = weight.float().numpy() * scale.numpy().reshape(-1, 1)
    assert np.array_equal(layer.dense().numpy(), expected)
    assert layer.input_scale.tolist() == [0.25]
    assert layer.group_size is None


def test_modelopt_int4():
    random = np.random.default_rng(1)
    integers = random.integers(-8, 8, (10, 64))
    scales = random.random((10, 2)).astype(np.float32)
    nibbles = (integers & 15).astype(np.uint8)
    before = random.random(64).astype(np.float32)
    held = source(weight=nibbles[0::2] | (nibbles[1::2] << 4), weight_scale=scales, pre_quant_scale=before)
    layer = read_modelopt(held, "layer")
    assert np.array_equal(layer.dense().numpy(), integers.astype(np.float32) * scales.repeat(32, axis=1))
    assert np.array_equal(layer.pre_scale.numpy(), before)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([2, 3, 4, 5, 6, 7, 8]), st.integers(1, 70), st.integers(0, 10**6))
def test_words_hold_any_number_of_integers(bits: int, count: int, seed: int):
    integers = np.random.default_rng(seed).integers(0, 2**bits, (count, 3))
    words = torch.as_tensor(packed_along_rows(integers, bits))
    assert np.array_equal(unpack_words(words, bits, count, 0).numpy(), integers)
    assert np.array_equal(unpack_words(words.t().contiguous(), bits, count, 1).numpy(), integers.T)


def test_tensors_that_do_not_fit_are_named():
    _, integers, zeros, scales = drawn(0, 32, 64, 2, 4)
    whole = {
        "qweight": packed_along_rows(integers, 4), "qzeros": packed_along_rows(zeros.T, 4).T.copy(), "scales": scales,
    }  # fmt: skip
    with pytest.raises(IntakeError, match=r"layer\.qzeros.*int32 \(2, 4\)"):
        read_gptq(source(**{**whole, "qzeros": whole["qzeros"][:1]}), "layer", bits=4, zeros_less_one=True)
    held = source(**whole, g_idx=np.full(64, 2, dtype=np.int32))
    with pytest.raises(IntakeError, match="groups beyond the 2"):
        read_gptq(held, "layer", bits=4, zeros_less_one=True)
    with pytest.raises(IntakeError, match="9 bits are not known"):
        read_gptq(source(**whole), "layer", bits=9, zeros_less_one=True)
    with pytest.raises(IntakeError, match=r"no tensor 'layer\.scales'"):
        read_awq(source(qweight=whole["qweight"]), "layer")
