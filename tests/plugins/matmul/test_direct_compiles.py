"""The kernel whose weights lie in the tensor cores' registers, compiled for a GPU on a machine without one."""

from __future__ import annotations

import pytest
import torch

from trtbench_lab.plugins.matmul import Choice, Problem
from trtbench_lab.plugins.matmul.launch import plan
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
def test_weights_are_loaded_widely_and_pass_through_no_shared_memory(problem, choice, cell_bytes):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.experimental.gluon._runtime import GluonASTSource

    from trtbench_lab.plugins.matmul.kernels.direct import direct_kernel

    weights = random_weights(problem, torch.Generator().manual_seed(0))
    dtype = getattr(torch, problem.dtype)
    x, out = torch.zeros(problem.rows, problem.in_features, dtype=dtype), torch.zeros(problem.rows, 64, dtype=dtype)
    _, arguments, constants = plan(x, weights, out, choice, None, None, None, None, None, None, pdl=True)
    names = direct_kernel.arg_names
    signature = dict.fromkeys(names, "constexpr")
    for name, value in zip(names, arguments, strict=False):
        if value is None:
            constants[name] = None
        else:
            signature[name] = "i32" if isinstance(value, int) else TYPES[value.dtype]
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name].startswith("*")
    }
    compiled = triton.compile(
        GluonASTSource(direct_kernel, signature, constants, aligned),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": choice.num_warps, "launch_pdl": True},
    )
    ptx = compiled.asm["ptx"]
    first = ptx[: ptx.index("griddepcontrol.wait")]
    wide = [line for line in first.splitlines() if "ld.global" in line and "v4.b32" in line and "evict_first" in line]
    places = {line.split("[")[1].split("]")[0] for line in wide}  # some are written twice, and assembled once
    assert len(places) == choice.block_n * choice.block_c * cell_bytes / 32 / 16  # all of a step, 16 bytes at once
    assert "mma.sync" in ptx
    assert "local" not in ptx.replace(".shared::cta", "")
    row = 2 * problem.in_features if problem.rows == 1 else 0  # the prepared inputs
    sums = 4 * choice.num_warps * choice.block_n * 8
    assert compiled.metadata.shared <= row + sums
