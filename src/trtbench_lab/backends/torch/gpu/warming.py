"""What a first token needs besides weights, made ready in a thread while the weights are on their way.

Triton takes 0.2-0.7 s to import and as long again to hash its own library of 400 MB, which names its compiled kernels;
cuBLAS takes 0.1 s for its first product. All of it is the process's, done once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import torch

from . import ops

MODULES = ("common", "choose", "decode_attention", "inputs", "rows")


@contextmanager
def made_ready(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Make a GPU's libraries ready beside the body, and wait for them at its end; on a CPU there is nothing to do."""
    if device.type != "cuda":
        yield
        return
    thread = Thread(target=_make_ready, args=(device, dtype), name="trtbench-ready", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _make_ready(device: torch.device, dtype: torch.dtype) -> None:
    # Whatever is wrong here is met again, and reported, by the step that needs it.
    with suppress(Exception):
        make_triton_ready()
    with suppress(Exception), torch.inference_mode(), torch.cuda.device(device):
        matrix = torch.zeros(64, 64, dtype=dtype, device=device)
        torch.nn.functional.linear(matrix, matrix)
        torch.cuda.current_stream(device).synchronize()


def make_triton_ready() -> None:
    """Import the kernels, and let Triton hash itself once."""
    from triton.runtime.cache import triton_key

    for name in MODULES:
        ops.kernels(name)
    triton_key()
