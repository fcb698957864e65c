"""Prompt and decode steps against Hugging Face's logits, and the buffers that make them cheap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.runtime.tiny_models import (
    HEAD_SIZE,
    HEADS,
    LAYERS,
    VOCAB_SIZE,
    HFExecutor,
    model_config,
    prompts,
    tiny_gpt2,
    tiny_llama,
)

from trtbench_lab.backends.protocol import TensorSpec
from trtbench_lab.errors import EngineError, RequestError
from trtbench_lab.runtime import Session
from trtbench_lab.runtime.kv_cache import CAPACITY_STEP, KVCache, round_up

# One model, two ways to batch its float32 sums; logits here reach ±20.
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=[tiny_gpt2, tiny_llama])
def hf_model(request: Any) -> Any:
    return request.param()


def hf_logits(hf_model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return hf_model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("chunk", [1, 4, 5, 100])
def test_ragged_prompts_in_chunks_and_decode_steps(hf_model, chunk):
    batch = prompts(5, 12, 1, 8)
    session = Session(HFExecutor(hf_model), prefill_chunk_tokens=chunk)
    logits = session.prefill(batch, new_tokens=3)
    sequences = [list(prompt) for prompt in batch]
    for _ in range(3):
        expected = torch.stack([hf_logits(hf_model, ids)[-1] for ids in sequences])
        assert torch.allclose(logits, expected, atol=TOLERANCE)
        tokens = expected.argmax(-1)
        for ids, token in zip(sequences, tokens.tolist(), strict=True):
            ids.append(token)
        logits = session.decode(tokens)


@pytest.mark.parametrize("chunk", [3, 100])
def test_logits_at_every_position(hf_model, chunk):
    batch = prompts(7, 2, 11)
    session = Session(HFExecutor(hf_model), prefill_chunk_tokens=chunk)
    for ids, logits in zip(batch, session.logits_of(batch), strict=True):
        assert torch.allclose(logits, hf_logits(hf_model, ids), atol=TOLERANCE)
    firsts = [5, 1, 4]
    for ids, first, logits in zip(batch, firsts, session.logits_of(batch, firsts), strict=True):
        assert logits.shape == (len(ids) - first, VOCAB_SIZE)
        assert torch.allclose(logits, hf_logits(hf_model, ids)[first:], atol=TOLERANCE)


def test_teacher_forcing_can_be_continued(hf_model):
    session = Session(HFExecutor(hf_model))
    (ids,) = prompts(6)
    session.logits_of([ids], new_tokens=1)
    assert torch.allclose(session.decode(torch.tensor([9]))[0], hf_logits(hf_model, [*ids, 9])[-1], atol=TOLERANCE)


def test_decode_steps_bind_nothing(hf_model):
    executor = HFExecutor(hf_model)
    session = Session(executor)
    session.prefill(prompts(4, 6), new_tokens=6)
    session.decode(torch.tensor([1, 2]))
    bound = executor.num_binds
    for _ in range(5):
        session.decode(torch.tensor([3, 4]))
    assert executor.num_binds == bound


def test_logits_of_a_step_are_one_buffer(hf_model):
    session = Session(HFExecutor(hf_model))
    session.prefill(prompts(4), new_tokens=2)
    first = session.decode(torch.tensor([1]))
    assert session.decode(torch.tensor([2])).data_ptr() == first.data_ptr()


def test_the_cache_is_sized_by_the_request_and_its_memory_kept():
    cache = KVCache(HFExecutor(tiny_gpt2()))
    cache.reserve(2, 40)
    assert cache.capacity == 2 * CAPACITY_STEP
    assert cache.tensors["past_key_0"].shape == (2, HEADS, 2 * CAPACITY_STEP, HEAD_SIZE)
    assert cache.allocated_bytes == 2 * LAYERS * 2 * HEADS * 2 * CAPACITY_STEP * HEAD_SIZE * 4
    place = cache.tensors["past_key_0"].data_ptr()
    cache.reserve(1, 70)  # 96 positions of one row are fewer elements than 64 of two
    assert cache.tensors["past_key_0"].data_ptr() == place
    cache.reserve(4, 40)
    assert cache.tensors["past_key_0"].shape[0] == 4


def test_earlier_content_never_reaches_a_request():
    """A weight of 0 times a NaN is NaN, so leftovers must be gone, not only masked."""
    cache = KVCache(HFExecutor(tiny_gpt2()))
    cache.reserve(2, 20)
    for tensor in cache.tensors.values():
        tensor.fill_(float("nan"))
    cache.reserve(1, 30)
    assert all(bool((tensor == 0).all()) for tensor in cache.tensors.values())


@pytest.mark.parametrize(("tokens", "capacity"), [(1, 32), (32, 32), (33, 64), (100, 128)])
def test_capacity_is_rounded_up(tokens, capacity):
    assert round_up(tokens) == capacity


def test_rounding_stops_at_what_the_engine_takes():
    cache = KVCache(HFExecutor(tiny_gpt2()), max_positions=50)
    cache.reserve(1, 40)
    assert cache.capacity == 50
    cache.reserve(1, 10)
    assert cache.capacity == 32


def test_rows_can_exchange_places():
    cache = KVCache(HFExecutor(tiny_gpt2()))
    cache.reserve(3, 8)
    for row in range(3):
        cache.tensors["past_key_0"][row] = row
    cache.take_rows([1, 0, 0], tokens=5)
    filled = cache.tensors["past_key_0"][:, 0, :, 0]
    assert filled[:, 4].tolist() == [1, 0, 0]
    assert filled[:, 5].tolist() == [0, 1, 2]  # past the filled part nothing was moved


def test_columns_that_pad_the_vocabulary_are_cut_off():
    model = tiny_gpt2()
    session = Session(HFExecutor(model, padded_vocab=VOCAB_SIZE + 32))
    (ids,) = prompts(5)
    logits = session.prefill([ids], new_tokens=2)
    assert logits.shape == (1, VOCAB_SIZE)
    assert torch.allclose(logits[0], hf_logits(model, ids)[-1], atol=TOLERANCE)
    assert session.decode(torch.tensor([1])).shape == (1, VOCAB_SIZE)
    assert session.logits_of([ids])[0].shape == (5, VOCAB_SIZE)


def test_a_full_cache_says_so(hf_model):
    session = Session(HFExecutor(hf_model))
    session.prefill(prompts(CAPACITY_STEP - 1), new_tokens=1)
    session.decode(torch.tensor([1]))
    with pytest.raises(RequestError, match="full"):
        session.decode(torch.tensor([1]))


def test_a_pipeline_stage_alone_is_refused():
    executor = HFExecutor(tiny_gpt2())
    executor.io = (TensorSpec("hidden_states_input", "input", "float32", ("B", "T", 32)), *executor.io[1:])
    with pytest.raises(EngineError, match="pipeline"):
        Session(executor)


def test_a_chunk_of_nothing_is_refused(hf_model):
    with pytest.raises(RequestError, match="chunk of 0"):
        Session(HFExecutor(hf_model), prefill_chunk_tokens=0)


def test_memory_and_close(hf_model):
    executor = HFExecutor(hf_model)
    session = Session(executor)
    session.prefill(prompts(4), new_tokens=2)
    kv_heads = model_config(hf_model).num_key_value_heads
    assert session.memory()["kv_cache_bytes"] == 2 * LAYERS * kv_heads * 32 * HEAD_SIZE * 4
    assert session.memory()["weights_bytes"] > 0
    session.close()
    assert executor.closed


class FixedCapacities(HFExecutor):
    """An executor whose engine has three cache capacities, as TensorRT's have one a plan."""

    cache_capacities = (8, 16, 32)
    longest_run = 6


def test_caches_grow_from_capacity_to_capacity_and_keep_what_they_hold(hf_model):
    session = Session(FixedCapacities(hf_model))
    assert session.chunk_tokens == 6
    batch = prompts(5, 7)
    logits = session.prefill(batch, new_tokens=14)
    sequences, capacities = [list(prompt) for prompt in batch], []
    for _ in range(14):
        expected = torch.stack([hf_logits(hf_model, ids)[-1] for ids in sequences])
        assert torch.allclose(logits, expected, atol=TOLERANCE)
        tokens = expected.argmax(-1)
        for ids, token in zip(sequences, tokens.tolist(), strict=True):
            ids.append(token)
        logits = session.decode(tokens)
        capacities.append(session._active.capacity)
    assert capacities == [8] + [16] * 8 + [32] * 5
    while len(sequences[0]) < session._active.capacity and max(map(len, sequences)) < 32:
        session.decode(tokens)
        for ids in sequences:
            ids.append(0)
    with pytest.raises(RequestError, match=r"full"):
        session.decode(tokens)


def test_beams_grow_with_their_prompt(hf_model):
    session = Session(FixedCapacities(hf_model))
    (prompt,) = prompts(7)
    session.prefill([prompt], new_tokens=4)
    session.expand(2)
    logits = session.decode(torch.tensor([1, 2]))
    logits = session.decode(torch.tensor([3, 4]))
    expected = torch.stack([hf_logits(hf_model, [*prompt, a, b])[-1] for a, b in ((1, 3), (2, 4))])
    assert torch.allclose(logits, expected, atol=TOLERANCE)
    assert session._active.capacity == 16


def test_a_request_beyond_the_largest_capacity_is_refused_before_it_runs(hf_model):
    session = Session(FixedCapacities(hf_model))
    with pytest.raises(RequestError, match=r"33 tokens a row do not fit into the engine's largest cache of 32"):
        session.prefill(prompts(5), new_tokens=28)
