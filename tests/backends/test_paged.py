"""The paged form on every backend that has it: logits of every family against Hugging Face, and the contract.

Tolerance: that of `test_families`, for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.backends.models import FAMILIES, MAX_POSITIONS, VOCAB_SIZE, built_executor
from tests.backends.paged_driver import PAGED, PagedDriver
from tests.backends.test_families import assert_close, tokens_for

from trtbench_lab.backends.protocol import Executor
from trtbench_lab.errors import RequestError
from trtbench_lab.specs import BuildConfig, PluginConfig

BACKENDS = ("onnxruntime", "torch")
CONFIG = BuildConfig(plugin_config=PluginConfig(**PAGED), compute_dtype="float32")


@pytest.fixture(scope="module")
def engines(bench) -> Callable[[str, str], Executor]:
    """(family, backend) → executor, each made once."""
    made: dict[tuple[str, str], Executor] = {}

    def engine(family: str, backend: str) -> Executor:
        if (family, backend) not in made:
            bench.model(family)
            folder = bench.folder / family / f"paged {backend}"
            made[family, backend] = built_executor(backend, "cpu", bench.checkpoint(family), folder, CONFIG)
        made[family, backend].guards_writes = True
        return made[family, backend]

    return engine


@pytest.fixture(params=BACKENDS)
def executor(request, engines) -> Executor:
    return engines("llama", request.param)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_prompts_in_pieces_then_decode_steps(bench, engines, family, backend):
    """Rows of 21, 3 and 16 tokens: the first in three pieces, while the others decode; an empty row between them."""
    driver = PagedDriver(engines(family, backend), num_rows=4, columns=3, padding=2)
    rows = [tokens_for(1, 33, seed=row) for row in range(4)]
    expected = [bench.model(family).logits(tokens)[0] for tokens in rows]
    taken = [0, 0, 0, 0]
    for counts in ([9, 3, 0, 15], [7, 1, 0, 1], [5, 1, 0, 1], *[[1, 1, 0, 1]] * 8, [1, 15, 2, 0]):
        new = [rows[row][0, taken[row] : taken[row] + count].tolist() for row, count in enumerate(counts)]
        got = driver.step(new)
        for row, count in enumerate(counts):
            if count:
                assert_close(got[row], expected[row][taken[row] : taken[row] + count])
            taken[row] += count


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_position_can_be_reached(bench, engines, backend):
    tokens = tokens_for(1, MAX_POSITIONS, seed=4)
    driver = PagedDriver(engines("gpt2", backend), num_rows=1, columns=4)
    assert_close(driver.step([tokens[0].tolist()])[0], bench.model("gpt2").logits(tokens)[0])


def test_a_prefix_is_shared_by_its_blocks(bench, executor):
    """Row 1 takes over row 0's first block, as prefix reuse does, and goes on from there."""
    driver = PagedDriver(executor, num_rows=2, columns=2)
    tokens = tokens_for(1, 20, seed=5)
    whole = bench.model("llama").logits(tokens)[0]
    driver.step([tokens[0, :18].tolist(), []])
    driver.tables[1, 0] = driver.tables[0, 0]
    driver.lengths[1] = 16
    assert_close(driver.step([[], tokens[0, 16:].tolist()])[1], whole[16:])


def test_names_types_and_shapes_are_stated(executor):
    stated = {spec.name: (spec.mode, spec.dtype, spec.shape) for spec in executor.io}
    assert stated["input_ids"] == ("input", "int32", ("num_tokens",))
    assert stated["query_starts"] == ("input", "int32", ("num_rows_and_end",))
    assert stated["block_tables"] == ("input", "int32", ("num_rows", "blocks_per_row"))
    assert stated["kv_cache_0"] == ("input", "float32", ("num_blocks", 2, 2, 16, 16))
    assert stated["logits"] == ("output", "float32", ("num_logits", VOCAB_SIZE))
    aliases = {spec.name: spec.aliases for spec in executor.io if spec.aliases}
    assert aliases == {f"kv_cache_out_{i}": f"kv_cache_{i}" for i in range(3)}


def test_only_the_tokens_slots_are_written(executor):
    driver = PagedDriver(executor, num_rows=2, columns=2, padding=3)
    driver.step([[1, 2, 3], [4]])
    driver.step([[5], list(range(17))])
    for pool in driver.pools.values():
        written = {
            (int(block), int(slot))
            for block, slot in pool.isfinite().all(dim=-1).all(dim=2).all(dim=1).nonzero().tolist()
        }
        first, second = driver.tables.tolist()
        expected = {(first[0], slot) for slot in range(4)} | {(second[0], slot) for slot in range(16)}
        assert written == expected | {(second[1], 0), (second[1], 1)}


def test_runs_are_repeatable_to_the_bit(executor):
    outcomes = [
        [*PagedDriver(executor, num_rows=2, columns=2).step([[1, 2, 3, 4], [7]])] for _ in range(2)
    ]  # fmt: skip
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("input_ids", [0, 1, VOCAB_SIZE, 3], "97"),
        ("logit_indices", [0, 1, 2, 4], "logit_indices|logits"),
        ("block_tables", [[9, 0], [5, 6]], "block"),
        ("kv_lengths", [2, 40], "kv_lengths|tokens|hold"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_written(executor, name, values, message):
    driver = PagedDriver(executor, num_rows=2, columns=2)
    tensors = driver.tensors([[1, 2], [3, 4]])
    for each, tensor in tensors.items():
        executor.bind(each, tensor)
    tensors[name].copy_(torch.tensor(values, dtype=torch.int32))
    with pytest.raises(RequestError, match=message):
        executor.run()
    assert all(pool.isnan().all() for pool in driver.pools.values())
    assert tensors["logits"].isnan().all()


def test_sizes_that_disagree_are_refused(executor):
    driver = PagedDriver(executor, num_rows=2, columns=2)
    for name, tensor in driver.tensors([[1, 2], [3, 4]]).items():
        executor.bind(name, tensor)
    executor.bind("kv_lengths", torch.zeros(3, dtype=torch.int32))
    with pytest.raises(RequestError, match="num_rows"):
        executor.run()
    executor.bind("kv_lengths", torch.tensor([2, 2], dtype=torch.int32))
    executor.bind("query_starts", torch.zeros(4, dtype=torch.int32))
    with pytest.raises(RequestError, match="query_starts"):
        executor.run()
