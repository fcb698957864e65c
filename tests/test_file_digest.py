"""Digests by chunks against their definition in xxhash's own words."""

from __future__ import annotations

from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbench_lab import file_digest
from trtbench_lab.errors import EngineError, StorageError
from trtbench_lab.file_digest import digest_as_recorded, digest_by_chunk, is_by_chunk, reading_threads, refuse_changed
from trtbench_lab.storage import digest_of_file


def defined(content: bytes, chunk_bytes: int) -> str:
    state = xxhash.xxh3_128(len(content).to_bytes(8, "little"))
    for start in range(0, len(content), chunk_bytes):
        state.update(xxhash.xxh3_128_digest(content[start : start + chunk_bytes]))
    return f"xxh3_128_by_16MiB:{state.hexdigest()}"


@settings(deadline=None)
@given(content=st.binary(max_size=300), chunk_bytes=st.integers(4, 80), piece_bytes=st.integers(3, 50))
def test_definition(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, chunk_bytes: int, piece_bytes: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "by chunk"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_digest, "CHUNK_BYTES", chunk_bytes)
        patch.setattr(file_digest, "_PIECE_BYTES", piece_bytes)
        assert digest_by_chunk(path) == defined(content, chunk_bytes)


def test_chunks_are_of_16_mib(tmp_path: Path) -> None:
    content = bytes(range(256)) * (65 * 1024) + b"more"  # 16.25 MiB
    path = tmp_path / "engine"
    path.write_bytes(content)
    found = digest_by_chunk(path)
    assert found == defined(content, 16 << 20)
    path.write_bytes(content[:-1] + b"E")
    assert digest_by_chunk(path) != found


def test_order_and_length_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_digest, "CHUNK_BYTES", 4)
    path, found = tmp_path / "x", set()
    for content in (b"aaaabbbb", b"bbbbaaaa", b"aaaabbbb\0", b"", b"\0"):
        path.write_bytes(content)
        found.add(digest_by_chunk(path))
    assert len(found) == 5


def test_older_folders_have_one_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"content")
    for recorded in (digest_of_file(path), digest_by_chunk(path)):
        assert digest_as_recorded(path, recorded) == recorded
    assert is_by_chunk(digest_by_chunk(path))
    assert not is_by_chunk(digest_of_file(path))


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="read the file"):
        digest_by_chunk(tmp_path / "none")


def test_changed_file_is_refused_with_both_digests(tmp_path: Path) -> None:
    refuse_changed(tmp_path / "x", "a", "a")
    with pytest.raises(EngineError, match=r"'x' has changed since it was built: its digest is a, and b was recorded"):
        refuse_changed(tmp_path / "x", "a", "b")


def test_threads_are_counted() -> None:
    assert 1 <= reading_threads() <= 16
