"""`ModelRunner.generate`: outputs in TensorRT-LLM's form, tokens equal to Hugging Face's, streaming, limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.runtime.tiny_models import VOCAB_SIZE, HFExecutor, prompts, tiny_gpt2, tiny_llama, tiny_runner

from trtbench_lab.errors import EngineError, RequestError
from trtbench_lab.runtime import HFRunner
from trtbench_lab.runtime.text import new_tokens_of
from trtbench_lab.specs import SamplingConfig


@pytest.fixture(scope="module", params=[tiny_gpt2, tiny_llama])
def hf_model(request: Any) -> Any:
    return request.param()


@pytest.fixture(scope="module")
def gpt2() -> Any:
    return tiny_gpt2()


def hf_tokens(hf_model: Any, prompt: list[int], **options: Any) -> list[int]:
    """Straight from transformers, past all code of this project."""
    ids = torch.tensor([prompt])
    options = {"do_sample": False, **options}
    made = hf_model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
    return made[0, len(prompt) :].tolist()


def test_greedy_tokens_are_hugging_faces(hf_model):
    batch = prompts(5, 9, 2)
    outputs = tiny_runner(hf_model).generate(batch, max_new_tokens=10, pad_id=0)
    for row, prompt in enumerate(batch):
        assert new_tokens_of(outputs, row) == hf_tokens(hf_model, prompt, max_new_tokens=10)
    assert len(set(new_tokens_of(outputs, 0))) > 3  # a model that says one thing for ever would prove nothing


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.8},
        {"top_k": 7},
        {"top_p": 0.6},
        {"temperature": 1.4, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.3},
    ],
)
def test_sampled_tokens_are_hugging_faces_with_the_same_seed(hf_model, options):
    (prompt,) = prompts(6)
    runner = tiny_runner(hf_model)
    ours = {"top_k": 0, "top_p": 1.0, **options}
    theirs = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, **options}
    drawn = set()
    for seed in (1, 2):
        outputs = runner.generate([prompt], max_new_tokens=12, random_seed=seed, **ours)
        torch.manual_seed(seed)
        expected = hf_tokens(hf_model, prompt, max_new_tokens=12, **theirs)
        assert new_tokens_of(outputs, 0) == expected
        drawn.add(tuple(expected))
    assert len(drawn) == 2


def test_the_outputs_have_tensorrt_llms_form(gpt2):
    batch = prompts(3, 7)
    free = tiny_runner(gpt2).generate(batch, max_new_tokens=6)
    end_id = new_tokens_of(free, 0)[2]
    outputs = tiny_runner(gpt2).generate(batch, max_new_tokens=6, end_id=end_id, pad_id=95)
    made = new_tokens_of(free, 0)[: new_tokens_of(free, 0).index(end_id)]
    assert outputs["output_ids"].shape == (2, 1, 7 + 6)
    assert outputs["output_ids"].dtype == torch.int64
    row = outputs["output_ids"][0, 0].tolist()
    assert row == [*batch[0], *made, end_id] + [95] * (13 - 3 - len(made) - 1)
    assert outputs["sequence_lengths"][0, 0] == 3 + len(made)  # the end token is not counted
    assert outputs["input_lengths"] == [3, 7]
    assert outputs["finish_reasons"][0] == ["end_id"]
    assert new_tokens_of(outputs, 0, with_end=True) == [*made, end_id]
    assert outputs["timing"].tokens_per_row[0] == len(made) + 1


def test_padding_falls_back_to_the_end_token(gpt2):
    (prompt,) = prompts(3)
    end_id = new_tokens_of(tiny_runner(gpt2).generate([prompt], max_new_tokens=1), 0)[0]
    outputs = tiny_runner(gpt2).generate([prompt], max_new_tokens=4, end_id=end_id)
    assert outputs["output_ids"][0, 0, 3:].tolist() == [end_id] * 4
    assert outputs["sequence_lengths"].tolist() == [[3]]


def test_any_of_several_end_tokens_ends_a_row(gpt2):
    (prompt,) = prompts(5)
    new = new_tokens_of(tiny_runner(gpt2).generate([prompt], max_new_tokens=8), 0)
    outputs = tiny_runner(gpt2).generate([prompt], max_new_tokens=8, end_id=[VOCAB_SIZE - 1, new[3]])
    assert new_tokens_of(outputs, 0) == new[: new.index(new[3])]


def test_stop_words_end_a_row_and_stay_in_it(gpt2):
    batch = prompts(5, 5, seed=8)
    runner = tiny_runner(gpt2)
    free = runner.generate(batch, max_new_tokens=8)
    word = new_tokens_of(free, 0)[3:5]
    outputs = runner.generate(batch, max_new_tokens=8, stop_words=[[word], []])
    assert new_tokens_of(outputs, 0) == new_tokens_of(free, 0)[:5]
    assert new_tokens_of(outputs, 1) == new_tokens_of(free, 1)
    assert outputs["finish_reasons"] == [["stop_words"], ["length"]]


def test_a_stop_word_does_not_begin_in_the_prompt(gpt2):
    (prompt,) = prompts(5)
    runner = tiny_runner(gpt2)
    first = new_tokens_of(runner.generate([prompt], max_new_tokens=1), 0)[0]
    outputs = runner.generate([prompt], max_new_tokens=4, stop_words=[[prompt[-1], first]])
    assert outputs["finish_reasons"] == [["length"]]


def test_bad_words_never_appear(gpt2):
    (prompt,) = prompts(5)
    runner = tiny_runner(gpt2)
    free = new_tokens_of(runner.generate([prompt], max_new_tokens=8), 0)
    banned = new_tokens_of(runner.generate([prompt], max_new_tokens=8, bad_words=[[free[0]], free[2:4]]), 0)
    assert free[0] not in banned
    expected = hf_tokens(gpt2, prompt, max_new_tokens=8, bad_words_ids=[[free[0]], free[2:4]])
    assert banned == expected


def test_minimum_length_and_repetition_penalty_are_hugging_faces(gpt2):
    (prompt,) = prompts(5)
    runner = tiny_runner(gpt2)
    end_id = new_tokens_of(runner.generate([prompt], max_new_tokens=2), 0)[1]
    outputs = runner.generate([prompt], max_new_tokens=9, end_id=end_id, min_length=4, repetition_penalty=1.4)
    expected = hf_tokens(gpt2, prompt, max_new_tokens=9, eos_token_id=end_id, min_new_tokens=4, repetition_penalty=1.4)
    assert new_tokens_of(outputs, 0, with_end=True) == expected
    assert len(expected) >= 4


def test_logits_and_log_probs_are_hugging_faces(hf_model):
    (prompt,) = prompts(6)
    outputs = tiny_runner(hf_model).generate(
        [prompt], max_new_tokens=5, output_logits=True, output_context_logits=True, output_log_probs=True
    )
    sequence = [*prompt, *new_tokens_of(outputs, 0)]
    with torch.no_grad():
        expected = hf_model(torch.tensor([sequence])).logits[0]
    # The same float32 model, decoded step by step there and at once here.
    assert torch.allclose(outputs["context_logits"][0], expected[:6], atol=1e-4)
    assert torch.allclose(outputs["generation_logits"][0, 0], expected[5:10], atol=1e-4)
    log_probs = expected[5:10].log_softmax(-1)[range(5), sequence[6:]]
    assert torch.allclose(outputs["log_probs"][0, 0], log_probs, atol=1e-4)
    assert outputs["cum_log_probs"][0, 0] == pytest.approx(log_probs.sum().item(), abs=1e-3)


def test_log_probs_stop_where_the_row_does(gpt2):
    batch = prompts(5, 5, seed=8)
    runner = tiny_runner(gpt2)
    end_id = new_tokens_of(runner.generate(batch, max_new_tokens=8), 0)[2]
    outputs = runner.generate(batch, max_new_tokens=8, end_id=end_id, output_log_probs=True)
    made = len(new_tokens_of(outputs, 0, with_end=True))
    assert made < 8
    assert (outputs["log_probs"][0, 0, :made] != 0).all()
    assert (outputs["log_probs"][0, 0, made:] == 0).all()


def test_a_row_does_not_depend_on_its_neighbours(hf_model):
    batch = prompts(6, 3, 9)
    runner = tiny_runner(hf_model)
    options = {"max_new_tokens": 10, "top_k": 0, "top_p": 0.95, "temperature": 1.3, "random_seed": 4}
    together = runner.generate(batch, **options)
    for row, prompt in enumerate(batch):
        assert new_tokens_of(runner.generate([prompt], **options), 0) == new_tokens_of(together, row)


def test_seeds_repeat_and_differ(gpt2):
    batch = prompts(5) * 3
    runner = tiny_runner(gpt2)
    options = {"max_new_tokens": 10, "top_k": 0, "top_p": 1.0, "temperature": 1.5}
    outputs = runner.generate(batch, random_seed=[1, 2, 1], **options)
    first, second, third = (new_tokens_of(outputs, row) for row in range(3))
    assert first == third != second


def test_streaming_grows_to_the_same_outputs(gpt2):
    batch = prompts(3, 6)
    runner = tiny_runner(gpt2)
    whole = runner.generate(batch, max_new_tokens=6)
    streamed = list(runner.generate(batch, max_new_tokens=6, streaming=True))
    assert len(streamed) == 6
    assert [out["sequence_lengths"].tolist() for out in streamed] == [[[3 + n], [6 + n]] for n in range(1, 7)]
    assert streamed[0]["finish_reasons"] == [[None], [None]]
    assert torch.equal(streamed[-1]["output_ids"], whole["output_ids"])
    assert len(streamed[2]["timing"].token_ns) == 3


def test_streaming_beams_ends_with_the_best_hypotheses(gpt2):
    (prompt,) = prompts(4)
    runner = tiny_runner(gpt2)
    options = {"max_new_tokens": 5, "num_beams": 3, "end_id": [32, 33]}
    whole = runner.generate([prompt], **options)
    streamed = list(runner.generate([prompt], streaming=True, **options))
    assert torch.equal(streamed[-1]["output_ids"], whole["output_ids"])
    assert torch.equal(streamed[-1]["sequences_scores"], whole["sequences_scores"])


def test_a_stream_yields_before_the_next_token_is_computed(gpt2):
    executor = HFExecutor(gpt2)
    stream = tiny_runner(gpt2, executor=executor).generate(prompts(4), max_new_tokens=5, streaming=True)
    next(stream)
    assert executor.num_runs == 1
    next(stream)
    assert executor.num_runs == 2


def test_a_stream_that_was_overtaken_says_so(gpt2):
    runner = tiny_runner(gpt2)
    stream = runner.generate(prompts(4), max_new_tokens=5, streaming=True)
    next(stream)
    runner.generate(prompts(4), max_new_tokens=1)
    with pytest.raises(RequestError, match="Another request"):
        next(stream)


def test_mistakes_of_a_stream_are_raised_at_the_call(gpt2):
    with pytest.raises(RequestError, match="max_new_tokens"):
        tiny_runner(gpt2).generate(prompts(4), max_new_token=5, streaming=True)


def test_output_ids_alone(gpt2):
    ids = tiny_runner(gpt2).generate(prompts(4), max_new_tokens=2, return_dict=False)
    assert ids.shape == (1, 1, 6)


def test_a_configuration_object_is_taken(gpt2):
    outputs = tiny_runner(gpt2).generate(prompts(4), SamplingConfig(max_new_tokens=3))
    assert outputs["sequence_lengths"].tolist() == [[7]]


def test_requests_beyond_the_engine_are_refused(gpt2):
    runner = tiny_runner(gpt2, limits={"max_batch_size": 2, "max_input_len": 10, "max_seq_len": 20})
    with pytest.raises(RequestError, match="max_batch_size"):
        runner.generate(prompts(1, 1, 1), max_new_tokens=1)
    with pytest.raises(RequestError, match="at most 10"):
        runner.generate(prompts(11), max_new_tokens=1)
    with pytest.raises(RequestError, match="max_seq_len is 20"):
        runner.generate(prompts(10), max_new_tokens=11)
    outputs = runner.generate(prompts(14), max_new_tokens=12, truncation="left")
    assert outputs["input_lengths"] == [8]
    assert outputs["output_ids"][0, 0, :8].tolist() == prompts(14)[0][-8:]


def test_nan_from_the_engine_is_an_error():
    model = tiny_gpt2()
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(EngineError, match="NaN"):
        tiny_runner(model).generate(prompts(3), max_new_tokens=2)


def test_the_first_timestamp_follows_the_call(gpt2):
    timing = tiny_runner(gpt2).generate(prompts(3, 5), max_new_tokens=4)["timing"]
    assert len(timing.token_ns) == 4
    assert timing.tokens_per_row == (4, 4)
    assert [timing.started_ns, *timing.token_ns] == sorted([timing.started_ns, *timing.token_ns])


def test_closing_frees_the_executor(gpt2):
    executor = HFExecutor(gpt2)
    with tiny_runner(gpt2, executor=executor, name="tiny") as runner:
        assert "tiny" in repr(runner)
        assert "backend torch" in repr(runner)
        assert runner.memory()["weights_bytes"] > 0
    assert executor.closed


@pytest.mark.parametrize("first", [[0], [0, 0, 0], [0, "x"]])
def test_first_positions_that_are_not_one_a_sequence_are_refused(gpt2, first):
    with pytest.raises(RequestError, match="there are 2 sequences"):
        tiny_runner(gpt2).logits_of(prompts(6, 4), first)


def test_teacher_forced_logits_agree_on_both_sides(hf_model):
    batch = prompts(6, 4)
    ours = tiny_runner(hf_model).logits_of(batch, [2, 0])
    theirs = HFRunner(hf_model).logits_of(batch, [2, 0])
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, atol=1e-4)
