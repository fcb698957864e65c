"""Conversion from real files: every kind of weight file gives the same checkpoint, in any order of work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trtbench_lab.checkpoint import config_from_source, convert, open_checkpoint, write_checkpoint
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.specs import Mapping

from .sources import gpt2_source, gpt2_tensors, gpt2_values, llama_source, write_hf_folder


def digest_from(folder: Path, out: Path, workers: int | None = None) -> str:
    source = open_hf_folder(folder)
    config = config_from_source(source, mapping=Mapping(tp_size=2, pp_size=2))
    convert(source, out, config=config, workers=workers)
    return open_checkpoint(out, verify=True).digest


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("whole")
    values = gpt2_values(hidden=64, layers=4)
    model = write_hf_folder(folder / "model", values, gpt2_tensors(values))
    return model, digest_from(model, folder / "out")


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_number_of_threads_changes_nothing(whole: tuple[Path, str], tmp_path: Path, workers: int) -> None:
    assert digest_from(whole[0], tmp_path / "out", workers) == whole[1]


def test_sharded_safetensors_give_the_same_checkpoint(whole: tuple[Path, str], tmp_path: Path) -> None:
    tensors = load_file(whole[0] / "model.safetensors")
    names = sorted(tensors)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text((whole[0] / "config.json").read_text())
    files = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, tmp_path / "model" / file)
        files |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert digest_from(tmp_path / "model", tmp_path / "out") == whole[1]


def test_bin_files_with_strided_tensors_give_the_same_checkpoint(whole: tuple[Path, str], tmp_path: Path) -> None:
    """torch.save keeps strides: a matrix may be stored transposed, a bias as every other element."""
    tensors = load_file(whole[0] / "model.safetensors")
    strided = {
        name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor.repeat_interleave(2)[::2]
        for name, tensor in tensors.items()
    }
    assert not strided["h.0.mlp.c_fc.weight"].is_contiguous()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text((whole[0] / "config.json").read_text())
    torch.save(strided, tmp_path / "model" / "pytorch_model.bin")
    assert digest_from(tmp_path / "model", tmp_path / "out") == whole[1]


def test_the_report_counts_what_was_written(tmp_path: Path) -> None:
    source = llama_source()
    config = config_from_source(source, "bfloat16", Mapping(tp_size=2))
    report = convert(source, tmp_path / "out", config=config, workers=1)
    assert report.bytes_by_rank == tuple(
        (tmp_path / "out" / f"rank{rank}.safetensors").stat().st_size for rank in (0, 1)
    )
    assert report.tensors == sum(len(open_checkpoint(tmp_path / "out").rank(rank)) for rank in (0, 1))
    assert (report.ranks, report.dtype, report.tp_size, report.workers) == (2, "bfloat16", 2, 1)
    assert (
        json.loads(json.dumps(report.to_dict()))["written_bytes"] == report.written_bytes == sum(report.bytes_by_rank)
    )
    assert f"{report.written_bytes:,} bytes" in repr(report)


def test_tensors_by_rank_from_memory_make_the_same_checkpoint(tmp_path: Path) -> None:
    source = gpt2_source()
    config = config_from_source(source, mapping=Mapping(tp_size=2))
    convert(source, tmp_path / "first", config=config)
    first = open_checkpoint(tmp_path / "first")
    again = write_checkpoint(tmp_path / "again", config, first.rank, workers=2)
    assert again.digest == first.digest
