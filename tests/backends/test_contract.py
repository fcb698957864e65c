"""The contract of `backends.protocol.Executor`, held over every backend, so that the runtime is proven once."""

from __future__ import annotations

import pytest
import torch
from tests.backends.models import MAX_POSITIONS, VOCAB_SIZE, Driver

from trtbench_lab.backends.protocol import Executor
from trtbench_lab.errors import EngineError, RequestError, TrtbenchError

FAMILY = "llama"  # 3 layers, 4 query heads over 2 K/V heads of 16


def bindings(executor: Executor, batch: int = 2, length: int = 3, capacity: int = 8) -> dict[str, torch.Tensor]:
    """A full, valid set of tensors."""
    tensors = {
        "input_ids": torch.arange(batch * length).view(batch, length),
        "write_indices": torch.zeros(batch, dtype=torch.int64),
        "logit_indices": torch.full((batch, 1), length - 1),
        "logits": torch.full((batch, 1, VOCAB_SIZE), float("nan")),
    }
    for layer in range(3):
        for kind in ("key", "value"):
            tensors[f"past_{kind}_{layer}"] = torch.zeros(batch, 2, capacity, 16)
    return {name: tensor.to(executor.device) for name, tensor in tensors.items()}


def bind_all(executor: Executor, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        executor.bind(name, tensor)


@pytest.fixture
def executor(executor_of) -> Executor:
    return executor_of(FAMILY)


@pytest.fixture
def fresh(bench, executor_of) -> Executor:
    """An executor of this test's own, for tests that leave one unusable or need nothing bound."""
    return bench.fresh_executor(executor_of(FAMILY), FAMILY)


def test_it_is_an_executor(executor):
    assert isinstance(executor, Executor)
    assert executor.backend in ("onnxruntime", "torch")
    assert executor.config.num_hidden_layers == 3


def test_names_types_and_shapes_are_stated(executor):
    stated = {spec.name: (spec.mode, spec.dtype, spec.shape, spec.aliases) for spec in executor.io}
    cache = ("batch", 2, "capacity", 16)
    assert stated == {
        "input_ids": ("input", "int64", ("batch", "length"), None),
        "write_indices": ("input", "int64", ("batch",), None),
        "logit_indices": ("input", "int64", ("batch", "num_logits"), None),
        "logits": ("output", "float32", ("batch", "num_logits", VOCAB_SIZE), None),
        **{f"past_{kind}_{i}": ("input", "float32", cache, None) for kind in ("key", "value") for i in range(3)},
        **{
            f"present_{kind}_{i}": ("output", "float32", cache, f"past_{kind}_{i}")
            for kind in ("key", "value")
            for i in range(3)
        },
    }


def test_every_logit_is_written(executor):
    """Outputs start as NaN: none may be left."""
    tensors = bindings(executor)
    bind_all(executor, tensors)
    executor.run()
    executor.synchronize()
    assert torch.isfinite(tensors["logits"]).all()


def test_caches_are_updated_in_place_and_only_where_tokens_are(executor):
    tensors = bindings(executor, batch=2, length=3, capacity=8)
    tensors["write_indices"] = torch.tensor([0, 4], device=executor.device)
    caches = {name: tensor for name, tensor in tensors.items() if name.startswith("past_")}
    for tensor in caches.values():
        tensor.fill_(0.25)
    places = {name: tensor.data_ptr() for name, tensor in caches.items()}
    bind_all(executor, tensors)
    executor.run()
    executor.synchronize()
    for name, tensor in caches.items():
        assert tensor.data_ptr() == places[name]
        untouched = (tensor == 0.25).all(dim=-1).all(dim=1)  # (B, S)
        assert untouched[0].tolist() == [False] * 3 + [True] * 5
        assert untouched[1].tolist() == [True] * 4 + [False] * 3 + [True]


def test_the_same_buffers_serve_many_runs(executor):
    """Changing bound tensors in place, without binding again, is what a decode loop does."""
    tokens = torch.randint(0, VOCAB_SIZE, (1, 6), generator=torch.Generator().manual_seed(0))
    whole = Driver(executor, batch=1, capacity=8).step(tokens)
    tensors = bindings(executor, batch=1, length=1, capacity=8)
    bind_all(executor, tensors)
    for position in range(6):
        tensors["input_ids"].copy_(tokens[:, position : position + 1])
        tensors["write_indices"].fill_(position)
        executor.run()
        # Rounding in another order: 1e-5 of a logit's size, and a stale input would differ by whole units.
        torch.testing.assert_close(tensors["logits"][0, 0].cpu(), whole[0, position], rtol=1e-4, atol=1e-4)


def test_shapes_may_change_from_run_to_run(executor):
    for batch, length, capacity in ((1, 5, 5), (3, 1, 9), (2, 4, 6), (1, 1, 1)):
        tensors = bindings(executor, batch, length, capacity)
        bind_all(executor, tensors)
        executor.run()
        assert torch.isfinite(tensors["logits"]).all()


def test_logits_of_several_positions_in_any_order(executor):
    tokens = torch.tensor([[3, 1, 4, 1], [2, 7, 1, 8]])
    everything = Driver(executor, batch=2, capacity=4).step(tokens)
    wanted = torch.tensor([[3, 0, 0], [1, 2, 3]])
    some = Driver(executor, batch=2, capacity=4).step(tokens, wanted)
    for row in range(2):
        torch.testing.assert_close(some[row], everything[row, wanted[row]], rtol=1e-5, atol=1e-5)


def test_runs_are_repeatable_to_the_bit(executor):
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    first = Driver(executor, batch=1, capacity=5).step(tokens)
    assert torch.equal(first, Driver(executor, batch=1, capacity=5).step(tokens))


def test_an_unknown_name_is_refused_with_the_nearest(executor):
    with pytest.raises(EngineError, match="no input or output 'inputs_ids'") as caught:
        executor.bind("inputs_ids", torch.zeros(1, 1, dtype=torch.int64))
    assert "input_ids" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("input_ids", torch.zeros(1, 2, dtype=torch.int32), "is int32; the engine takes int64"),
        ("input_ids", torch.zeros(1, 2), "is float32; the engine takes int64"),
        ("input_ids", torch.zeros(2, dtype=torch.int64), r"shape \(2,\); the engine takes \(batch, length\)"),
        ("input_ids", torch.zeros(0, 2, dtype=torch.int64), r"shape \(0, 2\)"),
        ("input_ids", torch.zeros(4, 2, dtype=torch.int64).t(), "not contiguous"),
        ("input_ids", [[1, 2]], "A torch tensor is needed, not list"),
        ("write_indices", torch.zeros(1, 1, dtype=torch.int64), r"the engine takes \(batch\)"),
        ("past_key_0", torch.zeros(1, 2, 8, 16, dtype=torch.float16), "is float16; the engine takes float32"),
        ("past_key_0", torch.zeros(1, 4, 8, 16), r"\(batch, 2, capacity, 16\)"),
        ("past_value_2", torch.zeros(1, 2, 8, 8), r"\(batch, 2, capacity, 16\)"),
        ("logits", torch.zeros(1, 1, VOCAB_SIZE + 1), "num_logits, 97"),
        ("input_ids", torch.zeros(1, 2, dtype=torch.int64, device="meta"), "is on meta; the engine runs on c"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(executor, name, tensor, message):
    if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
        tensor = tensor.to(executor.device)
    with pytest.raises(RequestError, match=message):
        executor.bind(name, tensor)


def test_a_run_with_something_unbound_names_it(fresh):
    tensors = bindings(fresh)
    del tensors["past_value_1"], tensors["logits"]
    bind_all(fresh, tensors)
    with pytest.raises(RequestError, match="Nothing is bound to past_value_1, logits"):
        fresh.run()


def test_sizes_that_disagree_are_refused(executor):
    tensors = bindings(executor)
    bind_all(executor, tensors)
    executor.bind("write_indices", torch.zeros(3, dtype=torch.int64, device=executor.device))
    with pytest.raises(RequestError, match="'write_indices' has batch 3, but 'input_ids' has 2"):
        executor.run()
    bind_all(executor, tensors)
    executor.bind("past_key_1", torch.zeros(2, 2, 9, 16, device=executor.device))
    with pytest.raises(RequestError, match="has capacity 9"):
        executor.run()
    bind_all(executor, tensors)
    executor.run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"write_indices": [6, 0]}, "3 new tokens after 6 do not fit into a cache of 8"),
        ({"write_indices": [0, -1]}, "A write index is -1"),
        ({"input_ids": [[0, 1, 2], [3, 97, 4]]}, r"token id 97 is outside of the vocabulary \(0 to 96\)"),
        ({"input_ids": [[0, 1, 2], [3, -1, 4]]}, "token id -1"),
        ({"logit_indices": [[0], [3]]}, "position 3 of 3 new tokens"),
        ({"logit_indices": [[-1], [0]]}, "position -1"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_written(executor, changes, message):
    tensors = bindings(executor)
    tensors |= {name: torch.tensor(values, device=executor.device) for name, values in changes.items()}
    bind_all(executor, tensors)
    with pytest.raises(RequestError, match=message):
        executor.run()
    assert not any(tensor.any() for name, tensor in tensors.items() if name.startswith("past_"))
    assert tensors["logits"].isnan().all()


def test_positions_end_where_the_engine_was_built_to_end(executor):
    tensors = bindings(executor, batch=1, length=1, capacity=MAX_POSITIONS + 8)
    bind_all(executor, tensors)
    tensors["write_indices"].fill_(MAX_POSITIONS - 1)
    executor.run()
    tensors["write_indices"].fill_(MAX_POSITIONS)
    with pytest.raises(RequestError, match=f"past the engine's {MAX_POSITIONS} positions"):
        executor.run()


def test_the_guard_can_be_left_to_the_caller(executor):
    tensors = bindings(executor)
    bind_all(executor, tensors)
    executor.guards_writes = False
    executor.run()
    assert torch.isfinite(tensors["logits"]).all()


def test_two_caches_in_one_memory_are_refused(executor):
    tensors = bindings(executor)
    tensors["past_value_2"] = tensors["past_key_0"]
    bind_all(executor, tensors)
    with pytest.raises(RequestError, match=r"'past_value_2' and 'past_key_0'|'past_key_0' and 'past_value_2'"):
        executor.run()


def test_an_output_that_aliases_needs_its_inputs_memory(executor):
    tensors = bindings(executor)
    bind_all(executor, tensors)
    executor.bind("present_key_0", tensors["past_key_0"])
    with pytest.raises(RequestError, match="shares the memory of 'past_key_0'"):
        executor.bind("present_key_0", torch.zeros(2, 2, 8, 16, device=executor.device))


def test_a_refused_binding_leaves_the_old_one(executor):
    tensors = bindings(executor)
    bind_all(executor, tensors)
    with pytest.raises(RequestError):
        executor.bind("input_ids", torch.zeros(2, 3))
    executor.run()
    assert torch.isfinite(tensors["logits"]).all()


def test_memory_tells_weights_and_bound_caches(executor):
    bind_all(executor, bindings(executor, batch=2, capacity=8))
    memory = executor.memory()
    # 3 layers of keys and values: 2 rows × 2 heads × 8 slots × 16 floats each
    assert memory["cache_bytes"] == 3 * 2 * (2 * 2 * 8 * 16 * 4)
    num_parameters = 97 * 64 * 2 + 3 * (64 * 128 + 64 * 64 + 3 * 64 * 56 + 2 * 64) + 64
    assert 4 * num_parameters <= memory["weights_bytes"] <= 4 * num_parameters * 2


def test_a_closed_engine_says_so(fresh):
    bind_all(fresh, bindings(fresh))
    fresh.close()
    with pytest.raises(EngineError, match="closed"):
        fresh.run()
    with pytest.raises(EngineError, match="closed"):
        fresh.bind("input_ids", torch.zeros(1, 1, dtype=torch.int64))
    fresh.close()


def test_every_refusal_has_a_remedy(executor):
    with pytest.raises(TrtbenchError) as caught:
        executor.bind("input_ids", torch.zeros(1, 2))
    assert caught.value.where == "input_ids"
    assert caught.value.remedy
