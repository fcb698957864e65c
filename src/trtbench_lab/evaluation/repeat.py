"""Whether a side gives the same bits twice, and torch's settings under which it must.

Engines of onnxruntime are loaded with deterministic kernels always, and torch on a CPU has no others for what a decoder
does. On a GPU torch may choose kernels that add up in an order of their own (atomic sums): `deterministic_mode` forbids
them. With a fixed seed sampling draws the same numbers in every mode.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def repeats_bit_for_bit(side: Any, tokens: Sequence[int]) -> bool:
    """Run a side twice over the same tokens and compare every bit of the logits."""
    first, second = (side.logits_of([list(tokens)], [0])[0] for _ in range(2))
    return bool(torch.equal(first, second))


@contextmanager
def deterministic_mode() -> Iterator[None]:
    """Let torch use deterministic kernels only, and fail where it has none; both settings come back afterwards.

    cuBLAS needs its workspace fixed before it is first used in the process (``CUBLAS_WORKSPACE_CONFIG=:4096:8``), which
    is set here where nobody has.
    """
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
