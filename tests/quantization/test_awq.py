"""AWQ: never worse than rounding on its own sample, and exactly rounding where it chooses nothing."""

from __future__ import annotations

import torch

from trtbench_lab.quantization.awq import awq, clipped
from trtbench_lab.quantization.inputs import LayerInputs
from trtbench_lab.quantization.layer import unclipped_channels
from trtbench_lab.quantization.weight_only import WeightOnlyScheme, dequantize, quantize
from trtbench_lab.specs import ModelConfig

SCHEME = WeightOnlyScheme(4, 32)


def seen(x: torch.Tensor) -> LayerInputs:
    inputs = LayerInputs(x.shape[-1], "layer", num_tokens=len(x))
    inputs.add(x)
    return inputs


def inputs_with_outliers(seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(300, 64, generator=draw)
    x[:, 5::32] *= 30  # one feature of each group carries most of the output
    return x


def error(x: torch.Tensor, weight: torch.Tensor, restored: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    given = x if scale is None else x * scale
    return float((given @ restored.t() - x @ weight.t()).norm() / (x @ weight.t()).norm())


def test_features_that_matter_are_kept_better_than_by_rounding():
    x = inputs_with_outliers()
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(1))
    rounded = dequantize(*quantize(weight, SCHEME, scale_dtype=torch.float32), SCHEME)
    made = awq(weight, seen(x), SCHEME, scale_dtype=torch.float32)
    restored = dequantize(made.packed, made.scales, SCHEME)
    assert made.exponent > 0
    assert error(x, weight, restored, made.inputs_scale) < 0.6 * error(x, weight, rounded)


def test_alike_features_are_rounded_as_they_are():
    """With |x| the same everywhere every exponent gives factors of 1: the first one stays, and nothing is scaled."""
    x = torch.where(torch.rand(300, 64, generator=torch.Generator().manual_seed(2)) < 0.5, 1.0, -1.0)
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(3))
    made = awq(weight, seen(x), SCHEME, scale_dtype=torch.float32, clip=False)
    packed, scales = quantize(weight, SCHEME, scale_dtype=torch.float32)
    assert made.exponent == 0.0
    assert torch.equal(made.inputs_scale, torch.ones(64))
    assert torch.equal(made.packed, packed)
    assert torch.equal(made.scales, scales)


def test_clipping_never_raises_a_groups_error():
    x = inputs_with_outliers(4)[:256]
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(5))
    weight[:, 3] *= 8  # one large weight stretches its group's range
    shrunk = clipped(weight, x, SCHEME)

    def group_errors(candidate: torch.Tensor) -> torch.Tensor:
        restored = dequantize(*quantize(candidate, SCHEME, scale_dtype=torch.float32), SCHEME)
        difference = (restored - weight).view(40, 2, 32)
        return torch.einsum("ogi,ngi->ogn", difference, x.view(-1, 2, 32)).square().sum(-1)

    before, after = group_errors(weight), group_errors(shrunk)
    assert bool((after <= before * (1 + 1e-5)).all())
    assert float(after.sum()) < float(before.sum())
    assert bool((shrunk.abs() <= weight.abs() + 1e-7).all())


def test_queries_and_keys_keep_their_ranges():
    x = inputs_with_outliers(8)
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(9))
    weight[:, 3] *= 8
    whole, shrunk, parts = (
        awq(weight, seen(x), SCHEME, scale_dtype=torch.float32, **options)
        for options in ({"clip": False}, {}, {"clip_from": 32})
    )
    assert torch.equal(parts.scales[:32], whole.scales[:32])
    assert torch.equal(parts.scales[32:], shrunk.scales[32:])
    assert bool((shrunk.scales[:32] < whole.scales[:32]).any())
    grouped = ModelConfig(
        architecture="LlamaForCausalLM", num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        hidden_size=64, vocab_size=97, intermediate_size=128, max_position_embeddings=64,
    )  # fmt: skip
    # 4 query heads and 2 of keys, each 16 wide; the 2 of values after them may be shrunk.
    assert unclipped_channels(grouped, "transformer.layers.0.attention.qkv") == 96
    assert unclipped_channels(grouped, "transformer.layers.0.attention.dense") == 0


def test_scales_are_rounded_with_their_stored_type():
    x = inputs_with_outliers(6)
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(7))
    made = awq(weight, seen(x), SCHEME, scale_dtype=torch.float16)
    assert made.scales.dtype == made.inputs_scale.dtype == torch.float16
    restored = dequantize(made.packed, made.scales, SCHEME, dtype=torch.float32)
    assert error(x, weight, restored, made.inputs_scale.float()) < 0.1
