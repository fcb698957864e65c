"""The matrix kernels on a GPU: the definition's numbers, every element written, and the same bits twice."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from trtbench_lab.plugins.matmul import Choice, Norm, Problem, linear
from trtbench_lab.plugins.matmul.candidates import candidates
from trtbench_lab.plugins.matmul.launch import Workspace
from trtbench_lab.plugins.matmul.reference import linear_reference
from trtbench_lab.plugins.matmul.tuning import random_weights

CASES = [
    (1, "matvec", Choice("matvec", 1, 8, 128)),
    (3, "slice", Choice("slice", 8, 16, 64, num_warps=4)),
    (16, "tile", Choice("tile", 16, 64, 128, 4, swap=True, num_stages=4)),
    (200, "tile", Choice("tile", 128, 128, 64, num_warps=8, num_stages=3)),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "kernel", "choice"), CASES, ids=[f"{case[1]}-{case[0]}" for case in CASES])
@pytest.mark.parametrize(("kind", "group_size"), [("dense", None), ("int8", None), ("int4", 128), ("fp8", None)])
def test_a_kernel_computes_the_definition(rows, kernel, choice, kind, group_size):
    device = torch.device("cuda")
    problem = Problem(rows, 1000, 1024, kind, "float16", group_size)
    generator = torch.Generator(device).manual_seed(rows)
    weights = random_weights(problem, generator)
    if kind == "int4" and kernel != "matvec":
        choice = Choice.from_dict({**choice.to_dict(), "block_c": 16})
    x = torch.randn(rows, 1024, generator=generator, device=device).half()
    expected = linear_reference(x, weights, dtype=torch.float64)
    results = []
    for pdl in (False, True):
        out = torch.full((rows, 1000), float("nan"), dtype=torch.float16, device=device)
        linear(x, weights, out, choice, workspace=Workspace(device), pdl=pdl)
        results.append(out)
    assert float((results[0].double() - expected).norm() / expected.norm()) < 1e-3  # one rounding to float16
    assert torch.equal(*results)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(("kind", "in_features"), [("dense", 2560), ("dense", 1008), ("fp8", 5120), ("fp8", 1040)])
def test_nothing_is_read_beyond_a_weight(kind, in_features, rows):
    """What follows its last row is no number; steps, and rounds of steps, that end within a row are among the cases."""
    device, out_features = torch.device("cuda"), 40
    problem = Problem(rows, out_features, in_features, kind, "bfloat16")
    generator = torch.Generator(device).manual_seed(rows)
    weights = random_weights(problem, generator)
    stored = weights.weight.view(torch.uint8)
    memory = torch.full((stored.numel() + (1 << 16),), 0xFF, dtype=torch.uint8, device=device)  # a NaN in both types
    memory[: stored.numel()] = stored.flatten()
    guarded = memory[: stored.numel()].view(stored.shape).view(weights.weight.dtype)
    assert memory[stored.numel() :].view(weights.weight.dtype).isnan().all()
    x = torch.randn(rows, in_features, generator=generator, device=device).bfloat16()
    expected = linear_reference(x, weights, dtype=torch.float64)
    kernels = set()
    for choice in candidates(problem):
        if choice.kernel == "library":
            continue
        out = torch.full((rows, out_features), float("nan"), dtype=x.dtype, device=device)
        linear(x, dataclasses.replace(weights, weight=guarded), out, choice, workspace=Workspace(device))
        assert float((out.double() - expected).norm() / expected.norm()) < 2e-2, choice
        kernels.add(choice.kernel)
    assert "stream" in kernels


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(
    ("kind", "group_size", "in_features", "dtype"),
    [
        ("int8", 128, 1152, "bfloat16"),
        ("int8", 32, 1120, "float16"),
        ("int4", 64, 1152, "bfloat16"),
        ("int4", 32, 1120, "float16"),
        ("int4", None, 1000, "float16"),
        ("dense", None, 1001, "bfloat16"),
        ("dense", None, 1001, "float32"),
        ("int8", None, 1001, "float32"),
    ],
)
def test_every_kernel_that_is_offered_computes_the_definition(kind, group_size, in_features, dtype, rows):
    """Groups of all sizes, rows that begin at odd places, and outputs that fill no block."""
    device, out_features = torch.device("cuda"), 43
    problem = Problem(rows, out_features, in_features, kind, dtype, group_size)
    generator = torch.Generator(device).manual_seed(rows)
    weights = random_weights(problem, generator)
    x = torch.randn(rows, in_features, generator=generator, device=device).to(getattr(torch, dtype))
    expected = linear_reference(x, weights, dtype=torch.float64)
    # One rounding to the type and one of each dequantized weight; float32: sums in another order.
    bound = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.5e-2}[dtype]
    for choice in candidates(problem):
        out = torch.full((rows, out_features), float("nan"), dtype=x.dtype, device=device)
        linear(x, weights, out, choice, workspace=Workspace(device))
        assert float((out.double() - expected).norm() / expected.norm()) < bound, choice


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 5, 200])
def test_tensors_may_begin_anywhere(rows):
    """Views that begin in the middle of 16 bytes, as parts of packed tensors do."""
    device, out_features, in_features = torch.device("cuda"), 48, 1024
    problem = Problem(rows, out_features, in_features, "dense", "bfloat16")
    generator = torch.Generator(device).manual_seed(rows)
    weights = random_weights(problem, generator)

    def shifted(tensor: torch.Tensor) -> torch.Tensor:
        memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=device)
        memory[1:] = tensor.flatten()
        return memory[1:].view(tensor.shape)

    x = torch.randn(rows, in_features, generator=generator, device=device).bfloat16()
    residual = torch.randn(rows, out_features, generator=generator, device=device).bfloat16()
    expected = linear_reference(x, weights, dtype=torch.float64, residual=residual)
    moved = dataclasses.replace(weights, weight=shifted(weights.weight))
    for choice in candidates(problem):
        out = shifted(torch.full((rows, out_features), float("nan"), dtype=x.dtype, device=device))
        linear(shifted(x), moved, out, choice, residual=shifted(residual), workspace=Workspace(device))
        assert float((out.double() - expected).norm() / expected.norm()) < 1.2e-2, choice


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("extras", "dtype"),
    [("norm", "bfloat16"), ("gated", "float16"), ("layer norm", "float16"), ("factors", "bfloat16")],
)
@pytest.mark.parametrize(
    ("kernel", "kind", "group_size", "counts"),
    [
        ("direct", "dense", None, (2, 3, 8)),
        ("direct", "int4", None, (1,)),
        ("direct", "int4", 128, (1,)),
        ("direct", "fp8", None, (1,)),
        ("stream", "dense", None, (1, 3, 8)),
        ("stream", "int8", None, (1, 3)),
        ("stream", "int4", None, (1, 8)),
        ("stream", "int4", 128, (1, 3)),
        ("stream", "fp8", None, (1, 8)),
    ],
)
def test_weights_in_the_tensor_cores_registers(kernel, kind, group_size, counts, extras, dtype):
    """With all that may be fused to the product; after a norm in all shapes of the kernel."""
    device = torch.device("cuda")
    kinds = {"norm": "rms", "layer norm": "layer"}
    for rows in counts:
        problem = Problem(rows, 1000, 1024, kind, dtype, group_size, gated=extras == "gated", norm=kinds.get(extras))
        generator = torch.Generator(device).manual_seed(rows)
        weights = random_weights(problem, generator)
        gate = random_weights(problem, generator) if problem.gated else None
        x = torch.randn(rows, 1024, generator=generator, device=device).to(getattr(torch, dtype))
        residual = torch.randn(rows, 1000, generator=generator, device=device).to(x.dtype)
        norm = Norm(problem.norm, x[0].abs(), x[0] if extras == "layer norm" else None, 1e-5) if problem.norm else None
        if extras == "factors":
            weights = dataclasses.replace(weights, pre_scale=x[0].abs() + 0.5, bias=residual[0].clone())
        given = {"gate": gate, "activation": "silu" if gate else None, "residual": residual, "norm": norm}
        expected = linear_reference(x, weights, dtype=torch.float64, **given)
        tried = [choice for choice in candidates(problem) if choice.kernel == kernel]
        assert tried
        for choice in tried if extras == "norm" and rows == counts[0] else tried[:2]:
            results = []
            for pdl in (False, True):
                out = torch.full((rows, 1000), float("nan"), dtype=x.dtype, device=device)
                results.append(linear(x, weights, out, choice, pdl=pdl, **given))
            # One rounding to the type; inputs that were normed or scaled have been rounded to it once before, and where
            # that fell otherwise than in the reference, FP8 moves by a step of its own, an eighth.
            bound = 2e-3 if dtype == "float16" else 1.2e-2
            bound = bound if kind != "fp8" or extras == "gated" else 2e-2
            assert float((results[0].double() - expected).norm() / expected.norm()) < bound, choice
            assert torch.equal(*results)
