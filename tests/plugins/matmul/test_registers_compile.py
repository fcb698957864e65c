"""The kernels whose weights lie in the tensor cores' registers, compiled for a GPU on a machine without one.

In a process of their own: where Triton's interpreter has run, its language no longer compiles.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from trtbench_lab.plugins.matmul import Choice, LinearWeights, Norm, Problem
from trtbench_lab.plugins.matmul.candidates import candidates
from trtbench_lab.plugins.matmul.launch import plan, registers_of
from trtbench_lab.plugins.matmul.tuning import random_weights

TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32"}


@pytest.mark.parametrize(
    ("problem", "choice", "cell_bytes"),
    [
        (Problem(1, 64, 1024, "int4", "bfloat16", 128), Choice("direct", 8, 16, 16, num_warps=4), 4),
        (Problem(8, 64, 512, "dense", "float16"), Choice("direct", 8, 16, 128, num_warps=4), 2),
    ],
    ids=["int4", "dense"],
)
def test_weights_are_loaded_widely_and_pass_through_no_shared_memory(compiled, problem, choice, cell_bytes):
    ptx, shared_bytes = compiled(problem, choice)
    places = _wide_reads(ptx[: ptx.index("griddepcontrol.wait")])
    assert len(places) == choice.block_n * choice.block_c * cell_bytes / 32 / 16  # all of a step, 16 bytes at once
    assert "mma.sync" in ptx
    assert "local" not in ptx.replace(".shared::cta", "")
    row = 2 * problem.in_features if problem.rows == 1 else 0  # the prepared inputs
    sums = 4 * choice.num_warps * choice.block_n * 8
    assert shared_bytes <= row + sums


@pytest.mark.parametrize(
    ("problem", "conversion"),
    [
        (Problem(1, 64, 1024, "int4", "bfloat16", 128, gated=True, norm="rms"), "xor"),
        (Problem(1, 64, 1024, "int8", "bfloat16", norm="rms"), "sub.rn.bf16x2"),
        (Problem(1, 64, 1024, "int8", "float16"), "sub.rn.f16x2"),
        (Problem(8, 64, 512, "dense", "float16", norm="layer"), "mma.sync"),
    ],
    ids=["int4 pair", "int8 bfloat16", "int8 float16", "dense"],
)
def test_a_stream_reads_far_ahead_and_every_step_reads_what_follows_at_once(compiled, problem, conversion):
    choice = next(choice for choice in candidates(problem) if choice.kernel == "stream")
    ptx, shared_bytes = compiled(problem, choice)
    assert conversion in ptx
    before, after = ptx.split("griddepcontrol.wait")
    reads = 2 * choice.num_stages  # a thread's 16 bytes of two rows, for every step read ahead
    assert len(_wide_reads(before)) == reads
    # In the loop, a step's reads come before the word that holds the assembler, as often as there are steps.
    steps = after.split("bar.warp.sync")[:-1]
    assert [len(_wide_reads(step)) for step in steps] == [2] * choice.num_stages
    assert shared_bytes <= 2 * problem.rows * problem.in_features + 4 * choice.num_warps * 16 * 8 + 256


def test_a_round_that_passes_the_ends_of_rows_reads_nothing_there(compiled):
    problem = Problem(1, 64, 5120, "int8", "bfloat16")
    choice = Choice("stream", 8, 16, 16, 2, num_warps=8, num_stages=4)  # 2.5 rounds of 4 steps of 128 words
    ptx, _ = compiled(problem, choice)
    assert f", {problem.in_features // 4};" in ptx  # a place in the row is held to its count of words


@pytest.mark.parametrize("choice", [Choice("stream", 8, 16, 32, 2, num_stages=8), Choice("direct", 8, 16, 128)])
def test_weights_of_more_elements_than_int32_counts_are_addressed_in_64_bits(compiled, choice):
    ptx, _ = compiled(Problem(8, 1 << 18, 8208, "dense", "bfloat16"), choice)  # a head of 262,144 tokens: 2.15e9
    # The only products by the bytes of a row widen: one of 32 bits would come round to the front of the weight.
    places = [line.strip().split()[0] for line in ptx.splitlines() if f" {2 * 8208}" in line]
    assert places
    assert all(".wide." in place or place.endswith("64") for place in places), places
    elements = [line.strip().split()[0] for line in ptx.splitlines() if f" {8208}" in line and "setp" not in line]
    assert all(".wide." in place or place.endswith("64") for place in elements), elements


def _wide_reads(ptx: str) -> set[str]:
    """Places of weights that are read 16 bytes at once; some are written twice, and assembled once."""
    lines = [line for line in ptx.splitlines() if "ld.global" in line and "v4.b32" in line and "evict_first" in line]
    return {line.split("[")[1].split("]")[0] for line in lines}


@pytest.fixture(scope="module")
def compiled() -> Iterator[Callable[[Problem, Choice], tuple[str, int]]]:
    pytest.importorskip("triton")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda problem, choice: pool.submit(_compiled, problem, choice).result(timeout=200)


def _compiled(problem: Problem, choice: Choice) -> tuple[str, int]:
    """Return the text of a product's kernel and the bytes of shared memory that it takes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.experimental.gluon._runtime import GluonASTSource

    kernel = getattr(importlib.import_module(f"trtbench_lab.plugins.matmul.kernels.{choice.kernel}"),
                     f"{choice.kernel}_kernel")  # fmt: skip
    dtype, extents = getattr(torch, problem.dtype), (problem.out_features, problem.in_features)
    if problem.out_features > 64:  # the extents alone: nothing is computed
        weights = LinearWeights("dense", torch.empty(extents, dtype=dtype, device="meta"), *extents)
    else:
        weights = random_weights(problem, torch.Generator().manual_seed(0))
    gate = weights if problem.gated else None
    x, out = torch.zeros(problem.rows, problem.in_features, dtype=dtype), torch.zeros(problem.rows, 64, dtype=dtype)
    norm = None if problem.norm is None else Norm(problem.norm, x[0], x[0] if problem.norm == "layer" else None, 1e-5)
    activation = "silu" if gate else None
    _, arguments, constants = plan(x, weights, out, choice, gate, activation, None, norm, None, None, pdl=True)
    names = kernel.arg_names
    signature = dict.fromkeys(names, "constexpr")
    for name, value in zip(names, arguments, strict=False):
        if value is None:
            constants[name] = None
        else:
            signature[name] = "i32" if isinstance(value, int) else TYPES[value.dtype]
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name].startswith("*")
    }
    options = {"num_warps": choice.num_warps, "launch_pdl": True}
    if choice.kernel == "stream":
        options["maxnreg"] = registers_of(choice)
    made = triton.compile(
        GluonASTSource(kernel, signature, constants, aligned), target=GPUTarget("cuda", 90, 32), options=options
    )
    return made.asm["ptx"], made.metadata.shared
