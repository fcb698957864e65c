"""The shard plan's figures hold every byte of the plan, once."""

from __future__ import annotations

import time

import pytest
from tests.engine.conftest import tiny_config

from trtbench_lab.checkpoint.plan import ShardPlan, ShardRow, shard_plan
from trtbench_lab.reports.figure import caption_of, numbers_of
from trtbench_lab.reports.figures import shard_balance, shard_treemap
from trtbench_lab.specs import Mapping


@pytest.fixture(scope="module")
def plan() -> ShardPlan:
    return shard_plan(tiny_config(mapping=Mapping(tp_size=2, pp_size=2)))


def test_areas_are_the_plans_bytes(plan: ShardPlan):
    (tree,) = shard_treemap(plan).data
    sizes = dict(zip(tree.ids, tree.values, strict=True))
    for rank in range(4):
        assert sizes[f"rank {rank}"] == plan.total_bytes(rank)
    for node, parent in zip(tree.ids, tree.parents, strict=True):
        if node.count("/") < 2:
            children = [n for n, p in zip(tree.ids, tree.parents, strict=True) if p == node]
            assert not children or sum(sizes[child] for child in children) == sizes[node]
        assert parent in ("", *tree.ids)
    assert len(set(tree.ids)) == len(tree.ids)


def test_the_numbers_are_a_row_a_tensor_of_a_rank(plan: ShardPlan):
    rows = numbers_of(shard_treemap(plan)).rows
    assert len(rows) == len(plan)
    assert sum(int(row[-1].replace(",", "")) for row in rows) == plan.total_bytes()


def test_bars_add_up_to_each_rank(plan: ShardPlan):
    figure = shard_balance(plan)
    divisor = 1024.0
    totals = [sum(trace.x[rank] for trace in figure.data) * divisor for rank in range(4)]
    assert totals == pytest.approx([plan.total_bytes(rank) for rank in range(4)])
    assert "cache and activations come on top" in caption_of(figure)


def test_a_filter_narrows_both_and_says_when_nothing_is_left(plan: ShardPlan):
    rows = [row for row in plan if ".mlp." in row.tensor]
    assert len(numbers_of(shard_treemap(plan, contains=".mlp.")).rows) == len(rows)
    assert [trace.name for trace in shard_balance(plan, contains=".mlp.").data] == ["mlp"]
    assert "No tensor's name contains 'nowhere'" in caption_of(shard_treemap(plan, contains="nowhere"))
    assert "No tensor's name contains 'nowhere'" in caption_of(shard_balance(plan, contains="nowhere"))


def test_ten_thousand_tensors_are_drawn_two_levels_at_a_time():
    rows = tuple(
        ShardRow(rank=r, pp_rank=0, tp_rank=r, tensor=f"transformer.layers.{i}.mlp.{n}.weight", layer=i, shape=(8, 8),
                 whole_shape=(64, 8), split="rows", dtype="float16", bytes=128)
        for r in range(8) for i in range(80) for n in range(16)
    )  # fmt: skip
    began = time.perf_counter()
    (tree,) = shard_treemap(ShardPlan("LlamaForCausalLM", 8, 1, rows)).data
    assert time.perf_counter() - began < 30  # a quadratic look-up would take minutes
    assert len(tree.ids) > 10_000
    assert tree.maxdepth == 3


def test_words_stand_out_from_their_areas(plan: ShardPlan):
    def luminance(colour: str) -> float:  # WCAG 2, relative luminance
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    (tree,) = shard_treemap(plan).data
    for ground, ink in set(zip(tree.marker.colors, tree.textfont.color, strict=True)):
        light, dark = sorted((luminance(ground), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, ink)
