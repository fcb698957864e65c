"""What a build compiles serves every prompt: no kernel depends on where an index lies or on how long a table is."""

from __future__ import annotations

import itertools
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from tests.backends.models import checkpoint_of, random_model
from tests.ranks.direct_build import build_here
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource
from triton.runtime.jit import create_function_from_signature

from trtbench_lab.backends.protocol import QuietReporter
from trtbench_lab.backends.torch import fused
from trtbench_lab.backends.torch.gpu import ops
from trtbench_lab.backends.torch.gpu.kernel_store import KernelStore, forget_compiled, store_of
from trtbench_lab.backends.torch.gpu.tuning import TOKEN_COUNTS
from trtbench_lab.plugins.gpt_attention.kernels.flash import flash_kernel
from trtbench_lab.runtime import ModelRunner
from trtbench_lab.specs import BuildConfig

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
    report = QuietReporter()
    fused._try_pieces(session, report)
    assert tried == [(count, 2 * count, 1) for count in TOKEN_COUNTS]
    assert session.chunk_tokens == 8192
    tried.clear()
    session.max_tokens = 17
    fused._try_pieces(session, report)
    assert [chunk for chunk, _, _ in tried] == [1, 2, 4, 8]
    assert not report.lines

    def too_large(prompts: list[list[int]], new_tokens: int) -> None:
        raise RuntimeError("out of resource: shared memory")

    session.start = too_large
    fused._try_pieces(session, report)
    assert session.chunk_tokens == 8192
    ((level, line),) = report.lines
    assert level == "warning"
    assert line.endswith("pieces of 1 tokens could not be tried: RuntimeError: out of resource: shared memory")


def test_without_being_told_triton_would_compile_several() -> None:
    told = kernel_of("rows", "rotate_and_write_kernel")
    untold = triton.jit(told.fn)
    assert len({specialized(untold, place, size) for place, size in itertools.product(PLACES, SIZES)}) == 6


def compiled(store: KernelStore) -> bool:
    """Ask for a kernel of a GPU with what `store` holds; return whether it had to be compiled."""
    kernel = kernel_of("choose", "argmax_parts_kernel")
    signature = {"logits_ptr": "*fp32", "top_ptr": "*fp32", "at_ptr": "*i32", "columns": "i32", "V": "i32"}
    constants = {"PARTS": 64, "BLOCK": 128, "PDL": True}
    source = ASTSource(kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constexprs=constants)
    hits: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.knobs.compilation, "listener", lambda cache_hit, **_: hits.append(cache_hit))
        with store.used():
            triton.compile(source, target=GPUTarget("cuda", 90, 32))
    (hit,) = hits
    return not hit


def test_a_kernel_that_travelled_with_an_engine_is_not_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    assert compiled(KernelStore(made))
    assert not compiled(KernelStore(made))
    engine = tmp_path / "rank0.engine"
    assert KernelStore(made).pack(engine.with_suffix(".kernels")) == 1
    shutil.rmtree(made)
    with zipfile.ZipFile(engine.with_suffix(".kernels")) as archive:
        lists = [name for name in archive.namelist() if "__grp__" in name]
        assert lists
        assert all(str(tmp_path).encode() not in archive.read(name) for name in lists)
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path / "home"))
    assert not compiled(store_of(engine))
    # Whole homes are moved, too, and lie elsewhere within a container.
    (tmp_path / "home").rename(tmp_path / "moved")
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path / "moved"))
    assert not compiled(store_of(engine))


def test_a_list_that_is_none_is_left_alone(tmp_path: Path) -> None:
    odd = tmp_path / "made" / "ab" / "__grp__k.json"
    odd.parent.mkdir(parents=True)
    odd.write_text("[1, 2]")
    KernelStore(tmp_path / "made").pack(tmp_path / "rank0.kernels")
    folder = store_of(tmp_path / "rank0.engine").folder
    assert folder is not None
    assert (folder / "ab" / "__grp__k.json").read_text() == "[1, 2]"


@pytest.mark.gpu
def test_first_tokens_of_prompts_of_any_length_compile_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint_of(random_model("llama", tmp_path / "hf"), tmp_path / "checkpoint")
    config = BuildConfig(
        backend="torch", compute_dtype="float16", opt_level=1, max_batch_size=1, max_input_len=40, max_seq_len=48
    )
    engine = build_here(tmp_path / "checkpoint", config, tmp_path / "engine")
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path / "home"))
    forget_compiled()
    found: list[bool] = []
    monkeypatch.setattr(triton.knobs.compilation, "listener", lambda cache_hit, **_: found.append(cache_hit))
    with ModelRunner.from_dir(engine) as runner:
        for length in (1, 2, 3, 4, 7, 8, 16, 17, 33, 40):
            runner.generate([list(range(length))], max_new_tokens=3)
    assert found
    assert all(found)


@pytest.mark.parametrize("early", [False, True])
def test_a_row_without_a_sequence_waits_too_where_kernels_start_before_others_end(early: bool) -> None:
    """The kernel after attention may touch what the kernel before it does: attention has to have waited for that."""
    kernel = kernel_of("decode_attention", "decode_attention_kernel")
    types = dict.fromkeys(("qkv_ptr", "cache_ptr", "cos_ptr", "sin_ptr", "out_ptr"), "*fp16")
    types |= dict.fromkeys(("positions_ptr", "tables_ptr", "count_ptr"), "*i32") | {"M": "i32"}
    types |= {"part_ptr": "*fp32", "stat_ptr": "*fp32", "softmax_scale": "fp32", "kv_scale": "fp32"}
    constants = {
        "H": 4, "HKV": 2, "D": 32, "D_PADDED": 32, "R": 16, "INTERLEAVED": False, "BLOCK_SIZE": 16, "GROUP": 2,
        "GROUP_PADDED": 16, "SPLITS": 2, "TILE": 16, "WINDOW": 0, "KV_QUANT": 0, "PDL": True, "EARLY": early,
        "AHEAD": False,
    }  # fmt: skip
    source = ASTSource(kernel, {**types, **dict.fromkeys(constants, "constexpr")}, constexprs=constants)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"launch_pdl": True}).asm["ptx"]
    assert ptx.count("griddepcontrol.launch_dependents") == 1
    # Early: one on the way to the result, one where the row is empty; else before anything is read.
    assert ptx.count("griddepcontrol.wait") == (2 if early else 1)
    before = ptx[: ptx.index("griddepcontrol.wait")]
    assert ("ld.global" in before) == early
