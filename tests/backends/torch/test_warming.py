"""What is made ready beside a load, and what an engine's store of kernels holds besides kernels."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from trtbench_lab.backends.torch.gpu import kernel_store, warming
from trtbench_lab.backends.torch.gpu.kernel_store import KernelStore


def test_a_cpu_has_nothing_to_make_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "make_triton_ready", lambda: pytest.fail("Triton is not wanted on a CPU"))
    with warming.made_ready(torch.device("cpu"), torch.float32):
        pass


def test_it_runs_beside_the_body_and_its_faults_are_left_to_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, began = threading.Event(), threading.Event()
    seen: list[bool] = []

    def broken() -> None:
        began.set()
        seen.append(inside.wait(60))
        raise ImportError("no such library")

    monkeypatch.setattr(warming, "make_triton_ready", broken)
    with warming.made_ready(torch.device("cuda", 0), torch.float32):
        assert began.wait(60)
        inside.set()
    assert seen == [True]
    assert not [thread for thread in threading.enumerate() if thread.name == "trtbench-ready"]


def test_triton_is_imported_and_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import cache

    assert callable(cache.triton_key.cache_info)  # kept by Triton itself
    hashed: list[int] = []
    monkeypatch.setattr(cache, "triton_key", lambda: hashed.append(1))
    warming.make_triton_ready()
    assert hashed == [1]


def test_a_store_keeps_the_module_for_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Utils:
        def __init__(self) -> None:
            folder = kernel_store._knobs().cache.dir
            (Path(folder) / "cuda_utils.so").write_bytes(b"module")
            self.made_in = folder

    before = triton.knobs.cache.dir
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with KernelStore(elsewhere).used():
        utils = Utils()

    class Active:
        class active:
            pass

    Active.active.utils = utils  # type: ignore[attr-defined]
    fake: Any = Active
    monkeypatch.setattr("triton.runtime.driver", fake)
    store = tmp_path / "store"
    store.mkdir()
    KernelStore(store).keep_driver()
    assert (store / "cuda_utils.so").read_bytes() == b"module"
    assert utils.made_in == str(elsewhere)  # the one in use stays as it is
    assert triton.knobs.cache.dir == before
