"""What a build compiles serves every prompt: no kernel depends on where an index lies or on how long a table is."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.jit import create_function_from_signature

from trtbench_lab.backends.torch import fused
from trtbench_lab.backends.torch.gpu import ops
from trtbench_lab.backends.torch.gpu.tuning import TOKEN_COUNTS
from trtbench_lab.plugins.gpt_attention.kernels.flash import flash_kernel

MEMORY = torch.zeros(64, dtype=torch.int32)
PLACES = [MEMORY[at:] for at in (0, 1, 2, 3, 4)]  # four bytes apart: of any alignment
SIZES = (1, 2, 3, 16, 128, 8192)
X = torch.zeros(64, dtype=torch.bfloat16)


def kernel_of(module: str, name: str) -> Any:
    return getattr(ops.kernels(module), name)


def specialized(kernel: Any, indices: torch.Tensor, size: int) -> str:
    """Return what tells compiled kernels apart, with `indices` for its arrays of integers and `size` for its sizes."""
    integers = ("ids_ptr", "positions_ptr", "rows_ptr", "tables_ptr", "starts_ptr", "lengths_ptr")
    sizes = ("M", "B", "num_tokens", "num_rows", "table_width", "num_tiles")
    given = []
    for parameter in kernel.params:
        if parameter.is_constexpr:
            given.append(64)
        elif parameter.name in integers:
            given.append(indices)
        elif parameter.name in sizes:
            given.append(size)
        else:
            given.append(0.5 if parameter.name in ("kv_scale", "softmax_scale") else X)
    binder = create_function_from_signature(kernel.signature, kernel.params, CUDABackend(GPUTarget("cuda", 90, 32)))
    return str(binder(*given)[1])


@pytest.mark.parametrize(
    "kernel",
    [
        kernel_of("rows", "embed_kernel"),
        kernel_of("rows", "rotate_and_write_kernel"),
        kernel_of("choose", "take_token_kernel"),
        kernel_of("decode_attention", "decode_attention_kernel"),
        flash_kernel,
    ],
    ids=lambda kernel: kernel.__name__,
)
def test_one_kernel_for_every_place_and_size(kernel: Any) -> None:
    # The ids and positions that `take_token_kernel` changes are buffers of their own, always aligned.
    places = PLACES[:1] if kernel.__name__ == "take_token_kernel" else PLACES
    assert len({specialized(kernel, place, size) for place, size in itertools.product(places, SIZES)}) == 1


def test_a_build_tries_a_second_piece_of_every_count() -> None:
    tried = []

    def start(prompts: list[list[int]], new_tokens: int) -> None:
        tried.append((session.chunk_tokens, len(prompts[0]), new_tokens))

    session: Any = SimpleNamespace(chunk_tokens=8192, max_tokens=1024, start=start)
    fused._try_pieces(session)
    assert tried == [(count, 2 * count, 1) for count in TOKEN_COUNTS]
    assert session.chunk_tokens == 8192
    tried.clear()
    session.max_tokens = 17
    fused._try_pieces(session)
    assert [chunk for chunk, _, _ in tried] == [1, 2, 4, 8]


def test_without_being_told_triton_would_compile_several() -> None:
    told = kernel_of("rows", "rotate_and_write_kernel")
    untold = triton.jit(told.fn)
    assert len({specialized(untold, place, size) for place, size in itertools.product(PLACES, SIZES)}) == 6
