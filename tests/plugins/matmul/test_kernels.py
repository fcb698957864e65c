"""The matrix kernels in Triton's interpreter against NumPy, from the definition: all kinds of weights, odd sizes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from trtbench_lab.errors import SpecError
from trtbench_lab.plugins.matmul import Choice, LinearWeights, Norm, Problem, Workspace, linear
from trtbench_lab.plugins.matmul.reference import linear_reference
from trtbench_lab.plugins.matmul.tuning import random_weights

KERNELS = {
    "matvec": Choice("matvec", 1, 4, 8),
    "slice": Choice("slice", 8, 16, 32, num_warps=2),
    "tile": Choice("tile", 16, 16, 32, 1, num_stages=2),
    "tile, split, turned": Choice("tile", 16, 16, 32, 2, swap=True, num_stages=2),
    "library": Choice("library"),
}
KINDS = (
    ("dense", None),
    ("int8", None),
    ("int8", 32),
    ("int4", None),
    ("int4", 32),
    ("int4", 128),
    ("fp8", None),
    ("int8_int8", None),
)
# One rounding to the type and, in groups, one of each dequantized weight, where the kernel rounds it as the
# definition does; relative to the norm of the whole result. float32: sums in another order, and INT4 weights that are
# met as 1 + q / 256 lose up to 8 bits of 24.
BOUNDS = {torch.float32: 2e-5, torch.float16: 1.5e-3, torch.bfloat16: 1.2e-2}


def dense_of(weights: LinearWeights) -> np.ndarray:
    """The weight that is stored, in float64, element by element from the format's definition."""
    stored = weights.plain()
    if stored.kind in ("dense", "fp8"):
        return stored.weight.double().numpy()
    bytes_ = stored.weight.numpy().view(np.uint8)
    if stored.kind == "int4":
        nibbles = np.stack((bytes_ & 15, bytes_ >> 4), -1).reshape(stored.out_features, -1).astype(np.int64)
        integers = np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.float64)
    else:
        integers = stored.weight.numpy().astype(np.float64)
    if stored.kind == "int8_int8":
        return integers
    group = stored.group_size or stored.in_features
    scale = np.repeat(stored.scale.double().numpy().reshape(stored.out_features, -1), group, 1)
    if stored.zero is not None:
        integers = integers - np.repeat(stored.zero.numpy().astype(np.float64), group, 1)
    return integers * scale


def by_numpy(x, weights, gate, residual, x_scale) -> np.ndarray:
    wide = x.double().numpy()
    if weights.pre_scale is not None:
        wide = (x * weights.pre_scale).double().numpy()
    if weights.kind == "fp8":
        wide = (x.float() / weights.input_scale).clamp(-448, 448).to(torch.float8_e4m3fn).double().numpy()

    def product(stored: LinearWeights) -> np.ndarray:
        y = wide @ dense_of(stored).T
        if stored.kind == "fp8":
            y = y * float(stored.scale) * float(stored.input_scale)
        elif stored.kind == "int8_int8":
            y = y * x_scale.double().numpy()[:, None] * stored.scale.double().numpy()[None, :]
        return y if stored.bias is None else y + stored.bias.double().numpy()

    y = product(weights)
    if gate is not None:
        y = y / (1 + np.exp(-y)) * product(gate)
    return y if residual is None else y + residual.double().numpy()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("kind", "group_size"), KINDS)
@settings(max_examples=2, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(
    rows=st.integers(1, 19),
    out_features=st.integers(1, 37),
    blocks=st.integers(1, 3),
    dtype=st.sampled_from((torch.float32, torch.float16, torch.bfloat16)),
    gated=st.booleans(),
    with_residual=st.booleans(),
    interleaved=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_a_kernel_computes_the_definition(
    kernel, kind, group_size, rows, out_features, blocks, dtype, gated, with_residual, interleaved, seed
):
    if kernel == "matvec":
        if kind == "int8_int8":
            return  # one row of integers goes to the tensor cores
        rows = 1
    problem = Problem(rows, out_features, 128 * blocks, kind, str(dtype).removeprefix("torch."), group_size)
    generator = torch.Generator().manual_seed(seed)
    weights = random_weights(problem, generator)
    weights = dataclasses.replace(weights, bias=torch.randn(out_features, generator=generator).to(dtype))
    gate = random_weights(problem, generator) if gated else None
    if group_size is not None:
        zero = torch.randint(-8, 8, weights.scale.shape, generator=generator, dtype=torch.int8)
        weights = dataclasses.replace(weights, zero=zero)
        if gate is not None:
            gate = dataclasses.replace(gate, zero=zero)
    if not interleaved:
        weights, gate = weights.plain(), gate and gate.plain()
    x_scale = None
    if kind == "int8_int8":
        x = torch.randint(-128, 128, (rows, 128 * blocks), generator=generator, dtype=torch.int8)
        x_scale = torch.rand(rows, generator=generator) * 0.01
    else:
        x = torch.randn(rows, 128 * blocks, generator=generator).to(dtype)
    residual = torch.randn(rows, out_features, generator=generator).to(dtype) if with_residual else None
    choice = KERNELS[kernel]
    if kind == "int4" and choice.kernel in ("slice", "tile"):
        choice = dataclasses.replace(choice, block_c=16)
    results = []
    for _ in range(2):
        out = torch.full((rows, out_features), float("nan"), dtype=dtype)
        activation = "silu" if gated else None
        linear(
            x,
            weights,
            out,
            choice,
            gate=gate,
            activation=activation,
            residual=residual,
            x_scale=x_scale,
            workspace=Workspace(torch.device("cpu")),
        )
        results.append(out)
    expected = by_numpy(x, weights, gate, residual, x_scale)
    # A gate can close every output: what is left is then compared with numbers of size 1.
    error = np.linalg.norm(results[0].double().numpy() - expected) / max(1.0, np.linalg.norm(expected))
    assert error < BOUNDS[dtype]
    assert torch.equal(*results)


@pytest.mark.parametrize("kernel", ["matvec", "slice", "tile, split, turned"])
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("in_features", [64, 100])
def test_the_norm_before_a_product_is_the_separate_one(kernel, kind, in_features):
    """Against torch's own norms; 64 inputs are one step of the kernel, which normalises them in registers."""
    choice = dataclasses.replace(KERNELS[kernel], block_c=32 if kernel != "matvec" else 8)
    rows = 1 if kernel == "matvec" else 3
    generator = torch.Generator().manual_seed(1)
    x = 3 + torch.randn(rows, in_features, generator=generator)
    weight, bias = torch.randn(2, in_features, generator=generator)
    stored = LinearWeights("dense", torch.randn(21, in_features, generator=generator), 21, in_features)
    if kind == "rms":
        normed = torch.nn.functional.rms_norm(x, (in_features,), weight, 1e-5)
    else:
        normed = torch.nn.functional.layer_norm(x, (in_features,), weight, bias, 1e-5)
    out = torch.full((rows, 21), float("nan"))
    norm = Norm(kind, weight, bias if kind == "layer" else None, 1e-5)
    linear(x, stored, out, choice, norm=norm, workspace=Workspace(torch.device("cpu")))
    torch.testing.assert_close(out, normed @ stored.weight.t(), rtol=1e-4, atol=1e-4)  # sums in another order
    torch.testing.assert_close(linear_reference(x, stored, norm=norm), normed @ stored.weight.t(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu_new", lambda y: torch.nn.functional.gelu(y, approximate="tanh")),
        ("gelu", torch.nn.functional.gelu),
        ("silu", torch.nn.functional.silu),
        ("relu", torch.relu),
        ("squared_relu", lambda y: torch.relu(y).square()),
    ],
)
def test_activations(name, function):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 32, generator=generator)
    stored = LinearWeights("dense", torch.randn(16, 32, generator=generator), 16, 32)
    out = linear(x, stored, torch.empty(2, 16), KERNELS["slice"], activation=name)
    torch.testing.assert_close(out, function(x @ stored.weight.t()), rtol=1e-4, atol=1e-4)


def test_a_pre_scale_multiplies_the_inputs():
    problem = Problem(2, 16, 128, "int4", "float16", 32)
    generator = torch.Generator().manual_seed(3)
    weights = random_weights(problem, generator)
    weights = dataclasses.replace(weights, pre_scale=(0.5 + torch.rand(128, generator=generator)).half())
    x = torch.randn(2, 128, generator=generator).half()
    choice = dataclasses.replace(KERNELS["slice"], block_c=16)
    out = linear(x, weights, torch.empty(2, 16, dtype=torch.float16), choice)
    expected = by_numpy(x, weights, None, None, None)
    assert np.linalg.norm(out.double().numpy() - expected) / np.linalg.norm(expected) < BOUNDS[torch.float16]


def test_the_direct_kernel_says_where_it_does_not_run():
    weights = random_weights(Problem(1, 16, 128, "fp8", "float16"), torch.Generator().manual_seed(4))
    x, out, choice = torch.zeros(1, 128).half(), torch.zeros(1, 16).half(), Choice("direct", 8, 16, 32, num_warps=1)
    with pytest.raises(SpecError, match="Gluon"):
        linear(x, weights, out, choice)
    with pytest.raises(SpecError, match="up to 8 rows in 16 bits"):
        linear(x.float(), weights, out.float(), choice)
    integers = random_weights(Problem(1, 16, 128, "int8", "float16"), torch.Generator().manual_seed(4))
    with pytest.raises(SpecError, match="dense, fp8, or int4"):
        linear(x, integers, out, choice)


def test_the_stream_kernel_says_what_it_does_not_take():
    generator = torch.Generator().manual_seed(4)
    weights = random_weights(Problem(1, 16, 128, "int8", "float16"), generator)
    x, out, choice = torch.zeros(1, 128).half(), torch.zeros(1, 16).half(), Choice("stream", 8, 16, 16, num_warps=1)
    with pytest.raises(SpecError, match="Gluon"):
        linear(x, weights, out, choice)
    biased = dataclasses.replace(weights, bias=torch.zeros(16).half())
    with pytest.raises(SpecError, match="One of the two weights"):
        linear(x, biased, out, choice, gate=weights)
    in_groups = random_weights(Problem(1, 16, 128, "int8", "float16", 128), generator)
    with pytest.raises(SpecError, match="not these"):  # the kernel has scales of whole outputs for bytes
        linear(x, in_groups, out, choice)
    groups = random_weights(Problem(1, 16, 256, "int4", "float16", 256), generator)
    with pytest.raises(SpecError, match="groups of 128"):
        linear(torch.zeros(1, 256).half(), groups, out, choice)


def test_wrong_calls_are_told():
    stored = LinearWeights("dense", torch.zeros(8, 32), 8, 32)
    with pytest.raises(SpecError, match="takes one row"):
        linear(torch.zeros(2, 32), stored, torch.zeros(2, 8), KERNELS["matvec"])
    with pytest.raises(SpecError, match="x is"):
        linear(torch.zeros(2, 16), stored, torch.zeros(2, 8), KERNELS["tile"])
    with pytest.raises(SpecError, match="workspace"):
        linear(torch.zeros(2, 32), stored, torch.zeros(2, 8), KERNELS["tile, split, turned"])
    assert linear(torch.zeros(0, 32), stored, torch.zeros(0, 8), KERNELS["tile"]).shape == (0, 8)
    quantized = random_weights(Problem(1, 8, 128, "int4"), torch.Generator())
    with pytest.raises(SpecError, match="order"):
        linear(
            torch.zeros(1, 128, dtype=torch.bfloat16),
            quantized,
            torch.zeros(1, 8, dtype=torch.bfloat16),
            KERNELS["matvec"],
            gate=quantized.plain(),
        )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["x", "out", "residual", "weight", "bias", "gate", "norm_weight"])
def test_a_tensor_with_other_strides_is_refused(kernel, name):
    """Kernels read rows as they lie: what a transposed or cut tensor gave would be wrong numbers."""
    rows = 1 if kernel == "matvec" else 2
    wide = torch.zeros(32, 64)
    given = {"x": torch.zeros(rows, 32), "out": torch.zeros(rows, 8), "residual": torch.zeros(rows, 8)}
    parts = {"weight": torch.zeros(8, 32), "bias": torch.zeros(8)}
    gate = LinearWeights("dense", wide[:8, :32] if name == "gate" else wide[:4].view(8, 32), 8, 32, bias=torch.zeros(8))
    norm = Norm("rms", wide[0, ::2] if name == "norm_weight" else wide[0, :32], None, 1e-5)
    if name in given:
        width = given[name].shape[1]
        given[name] = wide[:width, :rows].t() if rows > 1 else wide[:1, : 2 * width : 2]
    elif name in parts:
        parts[name] = wide[:8, :32] if name == "weight" else wide[:8, 0]
    stored = LinearWeights("dense", parts["weight"], 8, 32, bias=parts["bias"])
    workspace = Workspace(torch.device("cpu"))
    with pytest.raises(SpecError, match=f": {'weight' if name == 'gate' else name} .*has strides"):
        linear(
            given["x"], stored, given["out"], KERNELS[kernel], gate=gate, residual=given["residual"], norm=norm,
            workspace=workspace,
        )  # fmt: skip


def test_operands_that_no_kernel_reads_rightly_are_told():
    generator = torch.Generator().manual_seed(4)
    x, out = torch.zeros(1, 96).half(), torch.zeros(1, 16).half()
    plain = LinearWeights("dense", torch.zeros(16, 96).half(), 16, 96)
    with pytest.raises(SpecError, match="residual is"):  # a row to add to all would be read beyond its end
        linear(torch.zeros(2, 96).half(), plain, torch.zeros(2, 16).half(), KERNELS["slice"], residual=out)
    with pytest.raises(SpecError, match="1 scales are given"):
        linear(x, plain, out, KERNELS["slice"], x_scale=torch.ones(1))
    integers = random_weights(Problem(1, 16, 96, "int8_int8", "float16"), generator)
    with pytest.raises(SpecError, match="no inputs of 8 bits"):
        linear(x.to(torch.int8), integers, out, KERNELS["matvec"], x_scale=torch.ones(1))
    with pytest.raises(SpecError, match="need the scale of the inputs"):
        linear(x.to(torch.int8), integers, out, KERNELS["slice"])
    one_scale = dataclasses.replace(integers, scale=torch.ones(1))
    with pytest.raises(SpecError, match="differ in kind, extents, scales"):
        linear(x.to(torch.int8), integers, out, KERNELS["slice"], gate=one_scale, x_scale=torch.ones(1))
    groups = random_weights(Problem(1, 16, 96, "int4", "float16", 48), generator)
    with pytest.raises(SpecError, match="no multiple of 32"):  # a thread reads 32 elements of 4 bits at once
        linear(x, groups, out, KERNELS["matvec"])
    with pytest.raises(SpecError, match="Groups of 64 do not divide 96"):
        linear(x, dataclasses.replace(groups, group_size=64), out, KERNELS["slice"])
    channels = random_weights(Problem(1, 16, 96, "int8", "float16"), generator)
    with pytest.raises(SpecError, match="Zero points belong to groups"):
        linear(x, dataclasses.replace(channels, zero=torch.zeros(16, dtype=torch.int8)), out, KERNELS["slice"])
