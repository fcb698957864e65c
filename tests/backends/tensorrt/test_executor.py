"""Runs over the simulated TensorRT: numbers against Hugging Face, the order of calls, contexts, graphs, faults."""

from __future__ import annotations

import pytest
import torch
from tests.backends.models import Driver
from tests.backends.tensorrt.running import bound

from trtbench_lab.backends.protocol import Executor
from trtbench_lab.backends.tensorrt import contexts as contexts_module
from trtbench_lab.backends.tensorrt import executor as executor_module
from trtbench_lab.errors import EngineError, RequestError
from trtbench_lab.runtime import Session

# The same float32 network on ONNX Runtime and in transformers; logits reach ±30.
TOLERANCE = 1e-3


def reference(running, tokens: torch.Tensor) -> torch.Tensor:
    return running.workshop.model().logits(tokens)


# ---- numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [12, 24])
def test_prompt_and_decode_steps_with_garbage_in_the_cache(running, capacity):
    """The plan of each capacity, both profiles, graphs and plain runs give the logits of the whole text."""
    executor = running.load()
    tokens = torch.randint(0, 97, (2, 10), generator=torch.Generator().manual_seed(1))
    driver = Driver(executor, 2, capacity)
    logits = [driver.step(tokens[:, :6])] + [driver.step(tokens[:, i : i + 1]) for i in range(6, 10)]
    assert torch.allclose(torch.cat(logits, 1), reference(running, tokens), atol=TOLERANCE)


def test_a_session_moves_from_plan_to_plan_and_writes_what_the_model_would(running):
    executor = running.load()
    session = Session(executor)
    prompt = [5, 9, 33, 2, 71]
    logits = session.prefill([prompt], new_tokens=16)
    ids = list(prompt)
    for _ in range(16):
        assert torch.allclose(logits[0], reference(running, torch.tensor([ids]))[0, -1], atol=TOLERANCE)
        ids.append(int(logits.argmax()))
        logits = session.decode(logits.argmax(-1))
    assert executor.num_graphs == 2  # one a capacity
    assert running.cuda.replays >= 10


def test_it_is_an_executor_and_says_what_it_takes(running):
    executor = running.load()
    assert isinstance(executor, Executor)
    assert executor.backend == "tensorrt"
    assert executor.cache_capacities == (12, 24)
    assert executor.longest_run == 8
    assert {spec.name for spec in executor.io if spec.mode == "output"} >= {"logits", "present_key_0"}


# ---- the order of calls ----------------------------------------------------------------------------


def test_a_context_is_given_everything_before_it_runs(running):
    executor = running.load()
    bound(executor, length=4)
    executor.run()
    context = running.recorder.named("IExecutionContext.execute_async_v3")[0].handle
    names = [call.name.partition(".")[2] for call in running.recorder.calls if call.handle is context]
    assert names[:2] == ["error_recorder=", "set_device_memory"]
    assert names[-2:] == ["infer_shapes", "execute_async_v3"]
    last_shape = max(i for i, name in enumerate(names) if name == "set_input_shape")
    first_address = names.index("set_tensor_address")
    assert last_shape < first_address
    created = running.recorder.named("ICudaEngine.create_execution_context")[0].arguments
    assert created["strategy"].name == "USER_MANAGED"


def test_outputs_get_the_addresses_of_the_inputs_that_tensorrt_says_they_alias(running):
    executor = running.load()
    tensors = bound(executor)
    executor.run()
    addresses = {
        call.arguments["name"]: call.arguments["memory"]
        for call in running.recorder.named("IExecutionContext.set_tensor_address")
    }
    assert addresses["present_value_2"] == addresses["past_value_2"] == tensors["past_value_2"].data_ptr()
    assert running.recorder.named("ICudaEngine.get_aliased_input_tensor")


def test_the_run_is_on_a_stream_of_its_own_between_the_callers_work(running):
    executor = running.load()
    bound(executor)
    executor.run()
    (call,) = running.recorder.named("IExecutionContext.execute_async_v3")
    assert call.arguments["stream_handle"] == 7001
    assert executor._stream.followed == [0]
    assert running.cuda.current_stream().followed == [7001]
    theirs = running.cuda.new_stream()
    executor.run(theirs)
    assert executor._stream.followed == [0, theirs.number]
    assert theirs.followed == [7001]


def test_nothing_is_set_again_while_the_same_tensors_are_bound(running):
    executor = running.load()
    executor.uses_graphs = False
    tensors = bound(executor)
    executor.run()
    before = len(running.recorder.calls)
    for name, tensor in tensors.items():
        executor.bind(name, tensor)
    executor.run()
    assert [call.name for call in running.recorder.calls[before:]] == ["IExecutionContext.execute_async_v3"]


# ---- contexts and graphs ----------------------------------------------------------------------------


def test_contexts_share_one_memory_as_large_as_the_largest_profile_needs(running):
    executor = running.load()
    for capacity, batch, length in ((12, 1, 1), (12, 2, 1), (24, 2, 5), (12, 1, 3)):
        bound(executor, batch=batch, length=length, capacity=capacity)
        executor.run()
    memories = [call.arguments for call in running.recorder.named("IExecutionContext.set_device_memory")]
    assert len(memories) == 4
    assert len({memory["memory"] for memory in memories}) == 1
    assert {memory["size"] for memory in memories} == {executor.memory_plan.activation_bytes}
    assert running.cuda.allocated == [executor.memory_plan.activation_bytes]


def test_prompts_of_any_length_share_a_context_and_decode_shapes_have_one_each(running):
    executor = running.load()
    for length in (2, 3, 8):
        bound(executor, length=length)
        executor.run()
    assert len(running.recorder.named("ICudaEngine.create_execution_context")) == 1
    for batch in (1, 2):
        bound(executor, batch=batch)
        executor.run()
    assert len(running.recorder.named("ICudaEngine.create_execution_context")) == 3


def test_the_second_run_of_a_decode_step_is_captured_and_later_ones_are_replayed(running):
    executor = running.load()
    tensors = bound(executor)
    for run in range(4):
        tensors["input_ids"].fill_(run)
        tensors["write_indices"].fill_(run)
        executor.run()
    assert executor.num_graphs == 1
    assert running.cuda.replays == 3
    assert len(running.recorder.named("IExecutionContext.execute_async_v3")) == 2
    logits = reference(running, torch.tensor([[0, 1, 2, 3]]))
    assert torch.allclose(tensors["logits"][0, 0], logits[0, -1], atol=TOLERANCE)


def test_other_tensors_get_a_graph_of_their_own_and_earlier_ones_find_theirs(running):
    executor = running.load()
    first = bound(executor)
    executor.run()
    executor.run()
    bound(executor)
    executor.run()
    assert executor.num_graphs == 1
    executor.run()
    assert executor.num_graphs == 2
    executions = len(running.recorder.named("IExecutionContext.execute_async_v3"))
    for name, tensor in first.items():
        executor.bind(name, tensor)
    executor.run()
    assert len(running.recorder.named("IExecutionContext.execute_async_v3")) == executions


def test_prompts_are_not_captured(running):
    executor = running.load()
    bound(executor, length=4)
    for _ in range(3):
        executor.run()
    assert executor.num_graphs == 0


def test_without_graphs_every_step_is_queued(running):
    executor = running.load(cuda_graphs=False)
    bound(executor)
    for _ in range(3):
        executor.run()
    assert executor.num_graphs == running.cuda.replays == 0
    assert len(running.recorder.named("IExecutionContext.execute_async_v3")) == 3


def test_turning_graphs_off_drops_them_after_waiting(running):
    executor = running.load()
    bound(executor)
    executor.run()
    executor.run()
    waits = running.cuda.synchronized
    executor.uses_graphs = False
    assert running.cuda.synchronized == waits + 1
    assert executor.num_graphs == 0
    executor.run()
    assert running.cuda.replays == 1


def test_a_refused_capture_is_told_and_the_step_runs_all_the_same(running):
    running.cuda.captures = False
    executor = running.load()
    tensors = bound(executor)
    for _ in range(3):
        executor.run()
    assert torch.isfinite(tensors["logits"]).all()
    assert executor.notes == ["CUDA refused to capture a decode step: steps are queued layer by layer."]
    assert not executor.uses_graphs


def test_a_graph_goes_with_its_context(running, monkeypatch):
    monkeypatch.setattr(contexts_module, "MAX_CONTEXTS", 1)
    executor = running.load()
    tensors = bound(executor)
    executor.run()
    executor.run()
    bound(executor, batch=2)
    executor.run()
    assert executor.num_graphs == 0
    for name, tensor in tensors.items():
        executor.bind(name, tensor)
    executor.run()
    assert torch.isfinite(tensors["logits"]).all()
    assert running.cuda.replays == 1


def test_only_so_many_steps_are_remembered(running, monkeypatch):
    monkeypatch.setattr(executor_module, "MAX_STEPS", 2)
    executor = running.load()
    kept = []
    for _ in range(4):
        kept.append(bound(executor))
        executor.run()
        executor.run()
    assert executor.num_graphs == 2


# ---- faults ----------------------------------------------------------------------------


def test_a_cache_of_no_plans_capacity(running):
    executor = running.load()
    bound(executor, capacity=16)
    with pytest.raises(RequestError, match=r"hold 16 tokens a row; the engine has plans for 12, 24"):
        executor.run()


def test_a_run_outside_of_the_profiles_names_the_size(running):
    executor = running.load()
    bound(executor, length=9)
    with pytest.raises(RequestError, match=r"dimension 1 of 'input_ids' is 9, and the engine takes 1 to 8"):
        executor.run()


def test_writes_past_the_cache_are_refused_while_guarded(running):
    executor = running.load()
    tensors = bound(executor)
    tensors["write_indices"].fill_(12)
    with pytest.raises(RequestError, match=r"do not fit into a cache of 12"):
        executor.run()


def test_unbound_tensors_and_unknown_names(running):
    executor = running.load()
    with pytest.raises(RequestError, match="Nothing is bound"):
        executor.run()
    with pytest.raises(EngineError, match="no input or output 'logit'"):
        executor.bind("logit", torch.zeros(1))


def test_what_tensorrt_reports_stands_in_the_error(running):
    executor = running.load()
    bound(executor)

    def failing(context, stream_handle):
        from tests.backends.tensorrt.signatures import core

        context._values["error_recorder"].report_error(core().ErrorCodeTRT.FAILED_EXECUTION, "CUDA error 700")
        return False

    running.recorder.behaviours["IExecutionContext.execute_async_v3"] = failing
    with pytest.raises(EngineError, match=r"CUDA error 700 \(FAILED_EXECUTION\)") as caught:
        executor.run()
    assert "nvidia-smi" in caught.value.remedy


@pytest.mark.parametrize(
    ("method", "answer", "sentence"),
    [
        ("IExecutionContext.set_input_shape", False, "refuses the shape"),
        ("IExecutionContext.set_tensor_address", False, "refuses the tensor's address"),
        ("IExecutionContext.infer_shapes", ["past_key_0"], "misses past_key_0"),
        ("IExecutionContext.execute_async_v3", False, "could not run the engine"),
        ("ICudaEngine.create_execution_context", None, "could not make an execution context"),
        ("IExecutionContext.set_optimization_profile_async", False, "could not switch the optimization profile"),
    ],
)
def test_every_refusal_becomes_a_sentence(running, method, answer, sentence):
    executor = running.load()
    bound(executor)
    running.recorder.behaviours[method] = lambda *_, **__: answer
    with pytest.raises(EngineError, match=sentence) as caught:
        executor.run()
    assert caught.value.remedy
    assert "rank0.s12.engine" in str(caught.value)


def test_a_closed_engine_says_so_and_closes_twice(running):
    executor = running.load()
    tensors = bound(executor)
    executor.run()
    executor.close()
    executor.close()
    for call in (executor.run, lambda: executor.bind("logits", tensors["logits"]), executor.plans):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_memory_is_told(running):
    executor = running.load()
    tensors = bound(executor)
    memory = executor.memory()
    assert memory["cache_bytes"] == sum(t.nbytes for name, t in tensors.items() if name.startswith("past_"))
    assert memory["weights_bytes"] > 0
    assert memory["activation_bytes"] == running.cuda.allocated[0]
