from __future__ import annotations

import json
from pathlib import Path

import pytest

from trtbench_lab.checkpoint import config_from_source, convert, shard_plan
from trtbench_lab.checkpoint.safetensors_file import read_header
from trtbench_lab.errors import CheckpointError
from trtbench_lab.specs import Mapping

from .sources import gpt2_source, llama_source


def test_the_plan_is_what_conversion_writes(tmp_path: Path) -> None:
    source = llama_source(vocab=101)
    config = config_from_source(source, "float16", Mapping(tp_size=4, pp_size=2), use_parallel_embedding=True)
    plan = shard_plan(config)
    report = convert(source, tmp_path / "c", config=config)
    assert plan.world_size == report.ranks == 8
    for rank in range(8):
        header = read_header(tmp_path / "c" / f"rank{rank}.safetensors")
        assert {row.tensor: (row.shape, row.bytes) for row in plan.rank(rank)} == {
            name: (place.shape, place.nbytes) for name, place in header.items()
        }
        assert plan.total_bytes(rank) == sum(place.nbytes for place in header.values())
    assert len(plan) == report.tensors


def test_rows_say_how_a_tensor_is_divided() -> None:
    config = config_from_source(gpt2_source(), "float16", Mapping(tp_size=2, pp_size=2))
    rows = {(row.rank, row.tensor): row for row in shard_plan(config)}
    dense = rows[3, "transformer.layers.0.attention.dense.weight"]
    assert (dense.pp_rank, dense.tp_rank, dense.layer, dense.split) == (1, 1, 1, "columns")
    assert (dense.shape, dense.whole_shape, dense.dtype, dense.bytes) == ((32, 16), (32, 32), "float16", 1024)


def test_plan_prints_and_serialises() -> None:
    config = config_from_source(gpt2_source(layers=6), "float16", Mapping(tp_size=2))
    plan = shard_plan(config)
    text, page = repr(plan), plan._repr_html_()
    for shown in (text, page):
        assert "transformer.layers.0.attention.qkv.weight" in shown
        assert "transformer.layers.5" not in shown  # alike; one layer stands for them
        assert f"{plan.total_bytes(1):,}" in shown
    assert "<script" not in page
    values = json.loads(json.dumps(plan.to_dict()))
    assert values["bytes_by_rank"] == [plan.total_bytes(0), plan.total_bytes(1)]
    assert len(values["rows"]) == len(plan.table()) == len(plan)


def test_a_plan_that_cannot_be_is_refused_before_anything_is_written() -> None:
    config = config_from_source(gpt2_source(), "float16")
    with pytest.raises(CheckpointError, match="4 attention heads"):
        shard_plan(config.replace(mapping=Mapping(tp_size=3)))
