from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file

from trtbench_lab.checkpoint.rank_digest import digest_of_rank_file
from trtbench_lab.checkpoint.rank_file import RankFile
from trtbench_lab.checkpoint.safetensors_file import SafetensorsFile, read_metadata
from trtbench_lab.errors import CheckpointError

TENSORS = {
    "a": ((3, 5), "float32"), "b": ((7,), "float16"), "c": ((2, 2), "bfloat16"), "d": ((5, 3), "int8"),
    "e": ((4,), "float32"), "empty": ((0, 4), "float32"),
}  # fmt: skip


def contents() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, (shape, dtype) in TENSORS.items():
        values = torch.randn(shape, generator=generator) * 40
        made[name] = values.to(getattr(torch, dtype))
    return made


@pytest.mark.parametrize("backwards", [False, True])
def test_the_safetensors_library_reads_what_was_written_in_any_order(tmp_path: Path, backwards: bool) -> None:
    path, tensors = tmp_path / "x.safetensors", contents()
    with RankFile(path, TENSORS, {"note": "ü"}) as file:
        for name in reversed(file.names) if backwards else file.names:
            file.write(name, tensors[name])
        entry = file.finish()
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors)
    assert entry == {"bytes": path.stat().st_size, "digest": digest_of_rank_file(path)}
    # the digest by its definition: of the header, then of each tensor's digest in the order of the bytes
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    state = xxhash.xxh3_128(content[:end])
    places = [place["data_offsets"] for name, place in json.loads(content[8:end]).items() if name != "__metadata__"]
    for start, stop in sorted(places):
        state.update(xxhash.xxh3_128(content[end + start : end + stop]).digest())
    assert entry["digest"] == f"xxh3_128_by_tensor:{state.hexdigest()}"
    assert read_metadata(path)["note"] == "ü"


def test_every_tensor_begins_where_its_elements_are_aligned(tmp_path: Path) -> None:
    path, tensors = tmp_path / "x.safetensors", contents()
    with RankFile(path, TENSORS) as file:
        for name in file.names:
            file.write(name, tensors[name])
        file.finish()
    with SafetensorsFile(path) as read:
        for name in read:
            assert read.location(name).offset % tensors[name].dtype.itemsize == 0
        assert min(place.offset for place in read.locations.values()) % 64 == 0


def test_values_are_cast_and_strides_do_not_matter(tmp_path: Path) -> None:
    source = torch.arange(24, dtype=torch.float64).view(4, 6)
    layout = {"turned": ((6, 4), "float16"), "cut": ((4, 2), "bfloat16"), "scalar": ((), "float32")}
    with RankFile(tmp_path / "x.safetensors", layout) as file:
        file.write("turned", source.t())
        file.write("cut", source[:, 1:3])
        file.write("scalar", torch.tensor(3.0, dtype=torch.bfloat16))
        file.finish()
    read = load_file(tmp_path / "x.safetensors")
    assert torch.equal(read["turned"], source.t().half())
    assert torch.equal(read["cut"], source[:, 1:3].bfloat16())
    assert read["scalar"] == 3.0


@pytest.mark.parametrize(
    ("name", "tensor", "word"),
    [
        ("zz", torch.zeros(3), "zz"),
        ("a", torch.zeros(5, 3), "(5, 3)"),
        ("b", torch.tensor([0.0] * 6 + [float("nan")]), "NaN"),
        ("b", torch.tensor([0.0] * 6 + [70000.0]), "float16"),
    ],
)
def test_what_does_not_belong_is_refused(tmp_path: Path, name: str, tensor: torch.Tensor, word: str) -> None:
    with RankFile(tmp_path / "x.safetensors", TENSORS) as file, pytest.raises(CheckpointError) as caught:
        file.write(name, tensor)
    assert word in str(caught.value)


def test_missing_doubled_and_short_tensors_are_refused(tmp_path: Path) -> None:
    with RankFile(tmp_path / "x.safetensors", TENSORS) as file:
        file.write("a", torch.zeros(3, 5))
        with pytest.raises(CheckpointError, match="twice"):
            file.write("a", torch.zeros(3, 5))
        with pytest.raises(CheckpointError, match="takes 14"):
            file.write_blocks("b", iter([torch.zeros(3, dtype=torch.float16)]))
        with pytest.raises(CheckpointError, match="5 tensors were not written"):
            file.finish()
