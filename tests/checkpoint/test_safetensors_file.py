"""The safetensors reader against the format's own library, and every way a file can be damaged."""

from __future__ import annotations

import gc
import json
import os
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.torch import load_file, save, save_file

from trtbench_lab.checkpoint.location import TensorLocation
from trtbench_lab.checkpoint.safetensors_file import (
    DTYPE_BITS,
    TORCH_DTYPES,
    SafetensorsFile,
    dtype_name,
    read_header,
    read_metadata,
    torch_dtype,
)
from trtbench_lab.errors import CheckpointError, IntakeError, StorageError

DTYPES = sorted(TORCH_DTYPES)


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors have the same type, shape and bytes (so that NaN equals NaN)."""
    left, right = left.contiguous(), right.contiguous()
    raw = torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8)) if left.numel() else True
    return left.dtype == right.dtype and left.shape == right.shape and raw


def file_of(folder: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    """Write a file by hand: header (text, bytes or JSON-ready), data, and a header length that may lie."""
    raw = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    raw = torch.arange(48, dtype=torch.uint8)
    made = {f"of.{name}": raw.view(torch_dtype(name)).clone() for name in DTYPES if name not in ("BOOL", "F8_E8M0")}
    return {
        **made,
        "of.BOOL": raw > 5,
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "cube": torch.ones(2, 3, 4),
    }


def test_reads_what_the_library_wrote(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    with SafetensorsFile(path) as file:
        assert set(file) == set(tensors)
        assert len(file) == len(tensors)
        assert all(same(file.tensor(name), tensor) for name, tensor in tensors.items())
    assert read_metadata(path) == {"format": "pt"}


def test_locations_are_the_bytes_of_the_tensors(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    content = path.read_bytes()
    located = read_header(path)
    assert [place.offset for place in located.values()] == sorted(place.offset for place in located.values())
    for name, tensor in load_file(path).items():
        place = located[name]
        expected = TensorLocation(path, place.offset, tensor.nbytes, dtype_name(tensor.dtype), tuple(tensor.shape))
        assert place == expected
        raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        assert content[place.offset : place.offset + place.nbytes] == raw


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from(["F32", "F16", "BF16", "I8", "U8", "I64", "BOOL"]), st.lists(st.integers(0, 5), max_size=4)
        ),
        max_size=6,
    )
)
def test_any_file_of_the_library_reads_back(
    tmp_path_factory: pytest.TempPathFactory, plan: dict[str, tuple[str, list[int]]]
) -> None:
    source = {name: (torch.rand(shape) * 100).to(torch_dtype(dtype)) for name, (dtype, shape) in plan.items()}
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    path.write_bytes(save(source))
    file = SafetensorsFile(path)
    assert set(file) == set(source)
    assert all(same(file.tensor(name), tensor) for name, tensor in source.items())


def test_tensors_share_the_files_pages_and_never_write_to_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    before = path.read_bytes()
    file = SafetensorsFile(path)
    first, second = file.tensor("a"), file.tensor("a")
    assert first.data_ptr() == second.data_ptr()
    first.zero_()
    assert path.read_bytes() == before
    assert SafetensorsFile(path).tensor("a").sum() == 1000


def test_tensors_outlive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(5)}, path)
    with SafetensorsFile(path) as file:
        tensor = file.tensor("a")
    del file
    gc.collect()
    path.unlink()
    assert tensor.tolist() == [0, 1, 2, 3, 4]


def test_unaligned_bytes_are_read_right(tmp_path: Path) -> None:
    """The format allows any order; a float after three bytes of U8 is not aligned."""
    values = torch.tensor([1.5, -2.5])
    header = {
        "odd": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "float": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
    }
    path = file_of(tmp_path, header, b"\1\2\3" + values.numpy().tobytes())
    assert same(SafetensorsFile(path).tensor("float"), values)
    assert same(load_file(path)["float"], values)


def test_release_gives_memory_back_and_the_tensor_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    count = 8 << 20  # 32 MiB of floats
    save_file({"a": torch.ones(count)}, path)
    file = SafetensorsFile(path)
    tensor = file.tensor("a")
    assert tensor.sum() == count
    resident = psutil.Process().memory_info().rss
    file.release("a")
    released = resident - psutil.Process().memory_info().rss
    assert released > 24 << 20  # all but what the process took for itself meanwhile
    assert tensor.sum() == count


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    source = {f"t{i}": torch.full((1000,), float(i)) for i in range(20)}
    save_file(source, path)
    file = SafetensorsFile(path)
    wrong: list[str] = []

    def read() -> None:
        wrong.extend(name for name, tensor in source.items() if not same(file.tensor(name), tensor))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_unknown_name_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(IntakeError, match="no tensor 'b'"):
        SafetensorsFile(path, error=IntakeError).tensor("b")


def test_every_dtype_of_the_format_is_known() -> None:
    """The library refuses an unknown type, so its refusals tell which ones there are."""
    unknown = set()
    for name, bits in DTYPE_BITS.items():
        header = {"t": {"dtype": name, "shape": [8], "data_offsets": [0, bits]}}  # eight elements: whole bytes always
        raw = json.dumps(header).encode()
        try:
            deserialize(struct.pack("<Q", len(raw)) + raw + bytes(bits))
        except SafetensorError:
            unknown.add(name)
    assert unknown <= {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"}  # newer than 0.6


def test_packed_dtype_has_bytes_and_no_tensor(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"t": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, b"\x12\x34")
    file = SafetensorsFile(path)
    assert bytes(file.raw("t")) == b"\x12\x34"
    with pytest.raises(CheckpointError, match="F4 has no counterpart in torch"):
        file.tensor("t")


def test_torch_dtype_that_the_format_lacks() -> None:
    with pytest.raises(CheckpointError, match="complex128 cannot be stored"):
        dtype_name(torch.complex128)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED: dict[str, tuple[Any, bytes, str]] = {
    "not JSON": ("{nonsense", b"", "not valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', b"", "not valid JSON"),
    "nested thousands deep": ("[" * 100000, b"", "not valid JSON"),
    "number of ten thousand digits": ('{"a": ' + "9" * 10000 + "}", b"", "not valid JSON"),
    "a list": ("[]", b"", "not a JSON object"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
    "entry that is no table": ({"t": 5}, b"", "lacks dtype"),
    "entry without offsets": ({"t": {"dtype": "F32", "shape": [2]}}, b"", "lacks dtype"),
    "unknown type": ({"t": {**F32, "dtype": "F31"}}, bytes(8), "Unknown element type 'F31'"),
    "type that is no text": ({"t": {**F32, "dtype": ["F32"]}}, bytes(8), "Unknown element type"),
    "negative extent": ({"t": {**F32, "shape": [-2]}}, bytes(8), "not a list of counts"),
    "extent of a float": ({"t": {**F32, "shape": [2.0]}}, bytes(8), "not a list of counts"),
    "extent of a truth value": ({"t": {**F32, "shape": [True, 2]}}, bytes(8), "not a list of counts"),
    "three offsets": ({"t": {**F32, "data_offsets": [0, 4, 8]}}, bytes(8), "data_offsets"),
    "offsets backwards": ({"t": {**F32, "data_offsets": [8, 0]}}, bytes(8), "data_offsets"),
    "shape of other size": ({"t": {**F32, "shape": [3]}}, bytes(8), "shape (3,) of F32 takes 12"),
    "shape beyond 64 bits": ({"t": {**F32, "shape": [2**63, 2**63]}}, bytes(8), "takes"),
    "data cut": ({"t": F32}, bytes(7), "truncated: 't' should end"),
    "data too long": ({"t": F32}, bytes(9), "1 bytes follow the last tensor"),
    "no tensors but data": ({}, bytes(9), "9 bytes follow"),
    "overlap": ({"t": F32, "u": {**F32, "data_offsets": [4, 12]}}, bytes(12), "'u' overlap those of 't' by 4"),
    "hole": ({"t": F32, "u": {**F32, "data_offsets": [12, 20]}}, bytes(20), "4 bytes between 't' and 'u'"),
    "hole at the front": ({"t": {**F32, "data_offsets": [4, 12]}}, bytes(12), "4 bytes between 'the header' and 't'"),
    "a name twice": ('{"t": 1, "t": 2}', b"", "names 't' twice"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_named(tmp_path: Path, case: str) -> None:
    header, data, message = DAMAGED[case]
    path = file_of(tmp_path, header, data)
    with pytest.raises(IntakeError) as caught:
        read_header(path, error=IntakeError)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    with pytest.raises((SafetensorError, OverflowError)), safe_open(path, framework="pt"):
        pytest.fail("the format's own library accepts what is refused here")


FOREIGN = {
    "empty": (b"", "has 0 bytes"),
    "four bytes": (b"\0\0\0\0", "has 4 bytes"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS pointer"),
    "web page": (b"<!DOCTYPE html><html><head><title>Sign in</title>", "web page"),
    "zip archive": (b"PK\x03\x04" + bytes(60), "PyTorch archive"),
    "GGUF": (b"GGUF" + b"\xff" * 60, "GGUF"),
    "huge header length": (b"\xff" * 80, "above the format's limit"),
    "header length past the end": (struct.pack("<Q", 5000) + b"{}", "header should have 5,000 bytes, and only 2"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_and_cut_files_are_named(tmp_path: Path, case: str) -> None:
    content, message = FOREIGN[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert message in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = save({"a": torch.ones(3), "b": torch.zeros(2, 2)})
    path = tmp_path / "x.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_header(path)
    path.write_bytes(whole)
    assert set(read_header(path)) == {"a", "b"}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_flipped_byte_never_passes_for_another_layout(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    """Either the error is ours, or what is read lies inside the file and the library accepts the file too."""
    whole = bytearray(save({"a": torch.ones(3), "b": torch.zeros(2, 2)}, metadata={"format": "pt"}))
    whole[position % len(whole)] = value
    path = tmp_path_factory.mktemp("flip") / "x.safetensors"
    path.write_bytes(whole)
    try:
        located = read_header(path)
    except CheckpointError:
        return
    assert all(0 <= place.offset <= place.offset + place.nbytes <= len(whole) for place in located.values())
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(located)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=120))
def test_random_bytes_end_in_our_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content)
    with suppress(CheckpointError):
        assert read_header(path) == {}


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(StorageError):
            read_header(path)


@pytest.mark.parametrize(
    "name", ["with space.safetensors", "模型-Größe.safetensors", os.fsdecode(b"raw-\xff.safetensors")]
)
def test_any_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(save({"a": torch.ones(2)}))
    assert same(SafetensorsFile(path).tensor("a"), torch.ones(2))
