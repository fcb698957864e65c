"""The kernels' order of 4-bit weights, dequantizing, choices as data, and what tuning refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbench_lab.errors import QuantizationError, SpecError
from trtbench_lab.plugins.matmul import Choice, LinearWeights, Problem, Workspace, default_choice, linear, tune
from trtbench_lab.plugins.matmul.candidates import candidates
from trtbench_lab.plugins.matmul.choice import KERNELS
from trtbench_lab.plugins.matmul.dequantize import dequantize_into
from trtbench_lab.plugins.matmul.launch import plan
from trtbench_lab.plugins.matmul.reference import dequantized
from trtbench_lab.plugins.matmul.tuning import random_weights
from trtbench_lab.plugins.matmul.weights import deinterleave, interleave, interleave_block
from trtbench_lab.quantization.weight_only import unpack_int4

KINDS = ("dense", "int8", "int4", "fp8", "int8_int8")


@settings(max_examples=20, deadline=None, derandomize=True)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 4), nibbles=st.sampled_from((4, 8, 16)), seed=st.integers(0, 99))
def test_reordering_is_undone_exactly(rows, blocks, nibbles, seed):
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randint(-128, 128, (rows, 4 * nibbles * blocks), generator=generator, dtype=torch.int8)
    there = interleave(packed, nibbles)
    assert there.shape == packed.shape
    assert torch.equal(deinterleave(there, nibbles), packed)


def test_the_order_is_the_one_that_is_written_down():
    """Numbers i and i + 4 of word j of a block are elements 2 · nibbles · i + 2 j and the next."""
    packed = torch.randint(-128, 128, (3, 128), dtype=torch.int8)
    elements = unpack_int4(packed)
    words = interleave(packed, 16).view(torch.int32)
    for word in (0, 5, 17, 31):
        for i in range(8):
            found = ((words[:, word] >> (4 * i)) & 0xF).to(torch.int8)
            element = word // 16 * 128 + 32 * (i % 4) + 2 * (word % 16) + i // 4
            assert torch.equal(found, elements[:, element] & 0xF)


@pytest.mark.parametrize(
    ("in_features", "group_size", "expected"),
    [
        (4096, 128, 16),
        (4096, 64, 8),
        (4096, 32, 4),
        (192, None, 8),
        (96, 32, 4),
        (1040, None, 0),
        (3072, 192, 8),  # a block of 128 would begin in one group and end in the next
    ],
)
def test_a_block_stays_in_its_group_and_divides_the_row(in_features, group_size, expected):
    assert interleave_block(in_features, group_size) == expected


@pytest.mark.parametrize(("kind", "group_size"), [("int8", None), ("int8", 64), ("int4", None), ("int4", 32)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_dense_weight_is_the_definitions_bit_by_bit(kind, group_size, dtype):
    generator = torch.Generator().manual_seed(0)
    weights = random_weights(Problem(1, 9, 384, kind, dtype, group_size), generator)
    if group_size is not None:
        zero = torch.randint(-8, 8, (9, 384 // group_size), generator=generator, dtype=torch.int8)
        weights = dataclasses.replace(weights, zero=zero)
    for form in (weights, weights.plain()):
        dense = torch.full((9, 384), float("nan"), dtype=getattr(torch, dtype))
        assert torch.equal(dequantize_into(form, dense), dequantized(form, dense.dtype))
    assert torch.equal(weights.plain().interleaved().weight, weights.weight)


def test_a_row_that_no_word_holds_is_told():
    weights = random_weights(Problem(1, 4, 20, "int4", "float16"), torch.Generator())
    with pytest.raises(QuantizationError, match="multiple of 8"):
        linear(torch.zeros(1, 20).half(), weights, torch.zeros(1, 4).half(), Choice("matvec", 1, 4, 8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 4, 16, 64, 500])
@pytest.mark.parametrize("gated", [False, True])
def test_candidates_are_distinct_data_for_every_problem(kind, rows, gated):
    problem = Problem(rows, 4096, 1024, kind, "bfloat16", 128 if kind == "int4" else None, gated)
    found = candidates(problem)
    assert len(set(found)) == len(found) >= 2
    assert default_choice(problem) == found[0]
    for choice in found:
        assert choice.kernel in KERNELS
        assert choice.kernel != "matvec" or rows == 1
        assert Choice.from_dict(json.loads(json.dumps(choice.to_dict()))) == choice
    assert Choice.from_dict({**found[0].to_dict(), "of_a_later_version": 1}) == found[0]


@pytest.mark.parametrize(
    ("rows", "kind", "more", "offered"),
    [
        (1, "int4", {"group_size": 128}, True),
        (1, "int4", {"group_size": 128, "gated": True, "norm": "rms"}, True),
        (1, "fp8", {"norm": "rms"}, True),
        (8, "dense", {}, True),
        (2, "dense", {"in_features": 1024, "norm": "layer"}, True),
        (9, "dense", {}, False),  # more rows than the operand has columns
        (1, "int8", {}, False),  # bytes are no numbers of bfloat16 after one operation
        (1, "int4", {"group_size": 128, "zeros": True}, False),
        (1, "int4", {"group_size": 64}, False),  # a word's neighbours of another group
        (1, "fp8", {"dtype": "float32"}, False),
        (1, "fp8", {"in_features": 4100}, False),  # rows that do not begin at 16 bytes
        (8, "dense", {"in_features": 16384, "norm": "rms"}, False),  # rows that no program holds in registers
    ],
)
def test_weights_lie_in_the_tensor_cores_registers_where_they_can(rows, kind, more, offered):
    problem = Problem(**{"rows": rows, "out_features": 4096, "in_features": 4096, "kind": kind, **more})
    found = [choice for choice in candidates(problem) if choice.kernel == "direct"]
    assert bool(found) == offered
    assert candidates(problem)[0].kernel != "direct"  # only a measurement chooses it


@pytest.mark.parametrize(
    ("rows", "kind", "more", "offered"),
    [
        (1, "int8", {"norm": "rms", "gated": True}, True),
        (8, "int4", {"group_size": 128}, True),
        (1, "int4", {}, True),
        (1, "dense", {}, True),
        (9, "int8", {}, False),
        (1, "int4", {"group_size": 256}, False),  # a step of a warp is one group of 128
        (1, "int4", {"group_size": 128, "zeros": True}, False),
        (1, "int8", {"group_size": 128}, False),  # whose scales it would leave out
        (1, "int8", {"dtype": "float32"}, False),
        (8, "dense", {"in_features": 16384}, False),  # inputs that shared memory does not hold
    ],
)
def test_weights_stream_where_they_can(rows, kind, more, offered):
    problem = Problem(**{"rows": rows, "out_features": 4096, "in_features": 4096, "kind": kind, **more})
    found = [choice for choice in candidates(problem) if choice.kernel == "stream"]
    assert bool(found) == offered
    assert candidates(problem)[0].kernel != "stream"  # only a measurement chooses it
    per_cell = {"dense": 1, "int4": 8}.get(kind, 4)
    for choice in found:
        steps = -(-problem.in_features // (per_cell * choice.block_c * choice.num_warps))
        rounds = -(-steps // choice.num_stages)
        # Steps that are read ahead beyond the last one meet inputs too: zeros, up to the next power of two.
        padded = 1 << (problem.in_features - 1).bit_length()
        assert rounds * choice.num_stages * per_cell * choice.block_c * choice.num_warps <= padded


def test_equal_problems_have_equal_keys_and_others_do_not():
    problem = Problem(1, 4096, 1024, "int4", "bfloat16", 128, True, "rms")
    changes = [
        {"rows": 2},
        {"kind": "int8"},
        {"dtype": "float16"},
        {"group_size": 64},
        {"gated": False},
        {"norm": None},
    ]
    keys = {dataclasses.replace(problem, **change).key for change in [{}, *changes]}
    assert len(keys) == len(changes) + 1
    assert problem.key == "1x4096x1024-int4-bfloat16-g128-gated-rms"
    # two weights of half a byte, and a scale of two bytes for each 128
    assert problem.weight_bytes == 2 * 4096 * 1024 * (1 / 2 + 2 / 128)


def test_tuning_needs_a_gpu():
    with pytest.raises(SpecError, match="measured on a GPU"):
        tune(Problem(1, 8, 32), torch.device("cpu"))


def test_a_workspace_grows_and_keeps_its_counters_at_zero():
    workspace = Workspace(torch.device("cpu"))
    choice = Choice("tile", 16, 16, 16, 4, num_stages=2)
    problem = Problem(20, 40, 256, dtype="float32")
    workspace.reserve(problem, choice)
    assert workspace.partial.numel() == 2 * 3 * 4 * 16 * 16
    weights = random_weights(problem, torch.Generator().manual_seed(0))
    x = torch.randn(20, 256)
    out = linear(x, weights, torch.empty(20, 40), choice, workspace=workspace)
    torch.testing.assert_close(out, x @ weights.weight.t(), rtol=1e-4, atol=1e-4)  # sums in another order
    assert not workspace.counters.any()


@pytest.mark.parametrize("kind", ["dense", "int8", "int4", "fp8"])
@pytest.mark.parametrize("rows", [1, 8])
def test_the_launcher_takes_what_is_offered_at_every_width(kind, rows):
    """Inputs are kept up to the next power of two: no step, and no round of steps, may pass that."""
    pytest.importorskip("triton")
    cell, seen = {"dense": 1, "int4": 8}.get(kind, 4), set()
    for in_features in (*range(128, 6000, 112), 8192, 11008, 14336, 16384, 28672):
        problem = Problem(rows, 4096, in_features, kind, group_size=128 if in_features % 128 == 0 else None)
        problem = problem if kind == "int4" else dataclasses.replace(problem, group_size=None)
        stored = _without_numbers(problem)
        x, out = (torch.empty(rows, size, dtype=torch.bfloat16, device="meta") for size in (in_features, 4096))
        for choice in candidates(problem):
            if choice.kernel in ("direct", "stream"):
                seen.add(choice.kernel)
                plan(x, stored, out, choice, None, None, None, None, None, None, pdl=False)
                step, padded = cell * choice.block_c * choice.num_warps, 1 << (in_features - 1).bit_length()
                wider = dataclasses.replace(choice, num_warps=2 * choice.num_warps * padded // step)
                with pytest.raises(SpecError, match="pass the end"):
                    plan(x, stored, out, wider, None, None, None, None, None, None, pdl=False)
    assert "stream" in seen


def test_a_round_of_steps_that_passes_the_inputs_is_refused():
    pytest.importorskip("triton")
    problem = Problem(1, 64, 1024, "int8")  # 4 steps of 64 words
    x, out = (torch.empty(1, size, dtype=torch.bfloat16, device="meta") for size in (1024, 64))
    choice = Choice("stream", 8, 16, 16, num_warps=4, num_stages=4)
    plan(x, _without_numbers(problem), out, choice, None, None, None, None, None, None, pdl=False)
    further = dataclasses.replace(choice, num_stages=8)
    with pytest.raises(SpecError, match="8 steps ahead, pass the end of 1024"):
        plan(x, _without_numbers(problem), out, further, None, None, None, None, None, None, pdl=False)


def _without_numbers(problem: Problem) -> LinearWeights:
    """Weights of a problem as launches see them: extents and types."""
    rows, columns = problem.out_features, problem.in_features
    types = {"dense": torch.bfloat16, "fp8": torch.float8_e4m3fn}
    stored = columns // 2 if problem.kind == "int4" else columns
    weight = torch.empty(rows, stored, dtype=types.get(problem.kind, torch.int8), device="meta")
    scale = torch.empty(1 if problem.kind == "fp8" else rows, device="meta")
    return LinearWeights(
        problem.kind,
        weight,
        rows,
        columns,
        scale=None if problem.kind == "dense" else scale,
        group_size=problem.group_size,
        input_scale=scale if problem.kind == "fp8" else None,
        nibbles=interleave_block(columns, problem.group_size) if problem.kind == "int4" else 0,
    )
