"""A file is read once, in threads: every byte reaches its tensor, and the digest is of what was sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from trtbench_lab import file_digest
from trtbench_lab.backends.torch.gpu import transfer
from trtbench_lab.backends.torch.gpu.transfer import Target, read_file, tensors_on_gpu
from trtbench_lab.checkpoint.safetensors_file import SafetensorsFile
from trtbench_lab.errors import EngineError, StorageError
from trtbench_lab.file_digest import digest_by_chunk


class PlainBuffers:
    """One buffer of ordinary memory, spoilt when it is handed out again."""

    def __init__(self, size: int) -> None:
        self._buffer = torch.empty(size, dtype=torch.uint8)

    def next(self) -> torch.Tensor:
        return self._buffer.fill_(0xEE)

    def send(self, piece: torch.Tensor, target: torch.Tensor) -> None:
        target.copy_(piece)

    def sent(self) -> None:
        """Nothing is under way."""


@settings(deadline=None, max_examples=60)
@given(
    header=st.integers(0, 40),
    sizes=st.lists(st.integers(1, 90), max_size=8),
    chunk=st.integers(5, 60),
    piece=st.integers(3, 40),
    data=st.data(),
)
def test_every_byte_arrives(
    tmp_path_factory: pytest.TempPathFactory, header: int, sizes: list[int], chunk: int, piece: int, data: Any
) -> None:
    gaps = data.draw(st.lists(st.integers(0, 30), min_size=len(sizes), max_size=len(sizes)))
    path = tmp_path_factory.getbasetemp() / "weights"
    content = np.random.default_rng().integers(0, 256, header + sum(sizes) + sum(gaps), np.uint8)
    path.write_bytes(content.tobytes())
    targets, at = [], header
    for size, gap in zip(sizes, gaps, strict=True):
        targets.append(Target(at, torch.full((size,), 0xAA, dtype=torch.uint8)))
        at += size + gap
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "CHUNK_BYTES", chunk)
        patch.setattr(transfer, "PIECE_BYTES", piece)
        patch.setattr(file_digest, "CHUNK_BYTES", chunk)
        patch.setattr(transfer, "reading_threads", lambda: 3)
        found = read_file(path, targets, lambda: PlainBuffers(piece), hashing=True)
        assert found == digest_by_chunk(path)
        assert read_file(path, targets, lambda: PlainBuffers(piece), hashing=False) is None
    for target in targets:
        assert target.memory.numpy().tobytes() == content[target.start : target.end].tobytes()


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="read the engine"):
        read_file(tmp_path / "none", [], lambda: PlainBuffers(1), hashing=True)


def test_fault_of_a_thread_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"12345678")

    class Broken(PlainBuffers):
        def send(self, piece: torch.Tensor, target: torch.Tensor) -> None:
            raise RuntimeError("no such device")

    target = Target(2, torch.zeros(4, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="no such device"):
        read_file(path, [target], lambda: Broken(8), hashing=False)


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "rank0.engine"
    tensors = {
        "large": torch.randn(3001, 4099).to(torch.bfloat16),  # 24.6 MB: over chunks and pieces
        "odd": torch.randn(7),
        "none": torch.empty(0, 3),
        "bytes": torch.randint(0, 256, (12_345_679,), dtype=torch.uint8),
    }
    save_file(tensors, path)
    digest = digest_by_chunk(path)
    file, device = SafetensorsFile(path), torch.device("cuda", 0)
    for _ in range(3):
        found = tensors_on_gpu(path, file, device, digest)
        assert all(torch.equal(found[name].cpu(), tensor) for name, tensor in tensors.items())
        del found
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(EngineError, match="has changed since it was built"):
        tensors_on_gpu(path, file, device, digest)


def test_pairs_lie_one_behind_the_other_where_that_keeps_both_aligned(tmp_path: Path) -> None:
    path = tmp_path / "rank0.engine"
    save_file({"a": torch.zeros(64, 4), "b": torch.zeros(32, 4), "c": torch.zeros(5), "d": torch.zeros(5)}, path)
    file = SafetensorsFile(path)
    found = transfer._memories(file, torch.device("cpu"), {"a": "b", "c": "d", "absent": "d"})
    assert {name: memory.numel() for name, memory in found.items()} == {"a": 1024, "b": 512, "c": 20, "d": 20}
    assert found["a"].data_ptr() + 1024 == found["b"].data_ptr()
    assert found["c"].untyped_storage().data_ptr() != found["d"].untyped_storage().data_ptr()
