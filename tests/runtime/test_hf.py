"""The Hugging Face side: the request alone decides, padding is masked, and every token has its timestamp."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.runtime.tiny_models import prompts, tiny_gpt2, tiny_llama, tiny_runner

from trtbench_lab.errors import IntakeError, RequestError
from trtbench_lab.runtime import HFRunner
from trtbench_lab.runtime.text import new_tokens_of


@pytest.fixture
def runner() -> HFRunner:
    return HFRunner(tiny_llama())


def test_prompt_tokens_equal_to_the_padding_are_not_masked(runner):
    """transformers masks them unless the attention mask is given, and then answers to another prompt."""
    prompt = [7, 3, 7, 7, 50, 7]
    outputs = runner.generate([prompt], max_new_tokens=6, pad_id=7)
    plain = runner.generate([prompt], max_new_tokens=6, pad_id=0)
    assert new_tokens_of(outputs, 0) == new_tokens_of(plain, 0)


def test_ragged_rows_are_as_if_alone(runner):
    batch = prompts(4, 9, 6)
    together = runner.generate(batch, max_new_tokens=6, pad_id=1)
    for row, prompt in enumerate(batch):
        assert new_tokens_of(together, row) == new_tokens_of(runner.generate([prompt], max_new_tokens=6), 0)


def test_the_models_own_generation_settings_are_set_aside():
    model = tiny_gpt2()
    batch = prompts(5)
    expected = new_tokens_of(HFRunner(model).generate(batch, max_new_tokens=6), 0)
    model = tiny_gpt2()
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    model.generation_config.eos_token_id = expected[1]
    runner = HFRunner(model)
    assert new_tokens_of(runner.generate(batch, max_new_tokens=6), 0) == expected
    assert runner.model_defaults.repetition_penalty == 5.0


def test_every_token_has_a_timestamp(runner):
    outputs = runner.generate(prompts(5, 7), max_new_tokens=6)
    assert len(outputs["timing"].token_ns) == 6
    assert outputs["timing"].tokens_per_row == (6, 6)
    assert outputs["timing"].started_ns < outputs["timing"].token_ns[0]


def test_rows_that_end_early_are_counted_so(runner):
    batch = prompts(5, 5, seed=8)
    new = new_tokens_of(runner.generate(batch, max_new_tokens=8), 0)
    outputs = runner.generate(batch, max_new_tokens=8, end_id=new[2], pad_id=0)
    ours = tiny_runner(runner.model).generate(batch, max_new_tokens=8, end_id=new[2], pad_id=0)
    assert torch.equal(outputs["output_ids"], ours["output_ids"])
    assert outputs["timing"].tokens_per_row == ours["timing"].tokens_per_row
    assert outputs["finish_reasons"] == ours["finish_reasons"]


@pytest.mark.parametrize(
    "options",
    [
        {"stop_words": True},
        {"presence_penalty": 1.5, "frequency_penalty": 0.7},
        {"presence_penalty": 1.5, "frequency_penalty": 0.7, "temperature": 1.7, "top_k": 0, "top_p": 0.95},
        {"output_logits": True, "output_log_probs": True},
    ],
)
def test_both_sides_follow_the_same_keywords(runner, options):
    batch = prompts(5, seed=8)
    engine = tiny_runner(runner.model)
    if options.get("stop_words"):
        options = {"stop_words": [new_tokens_of(engine.generate(batch, max_new_tokens=4), 0)[2:4]]}
    ours = engine.generate(batch, max_new_tokens=8, random_seed=3, **options)
    theirs = runner.generate(batch, max_new_tokens=8, random_seed=3, **options)
    assert torch.equal(ours["output_ids"], theirs["output_ids"])
    assert ours["finish_reasons"] == theirs["finish_reasons"]
    for name in ("generation_logits", "log_probs", "cum_log_probs"):
        assert (name in ours) == (name in theirs)
        if name in ours:
            assert torch.allclose(ours[name], theirs[name], atol=1e-4)


def test_context_logits(runner):
    batch = prompts(5)
    ours = tiny_runner(runner.model).generate(batch, max_new_tokens=1, output_context_logits=True)
    theirs = runner.generate(batch, max_new_tokens=1, output_context_logits=True)
    assert torch.allclose(ours["context_logits"][0], theirs["context_logits"][0], atol=1e-4)


def test_streaming_grows_to_the_same_outputs(runner):
    batch = prompts(3, 6)
    whole = runner.generate(batch, max_new_tokens=6)
    streamed = list(runner.generate(batch, max_new_tokens=6, streaming=True))
    assert [out["sequence_lengths"].tolist() for out in streamed] == [[[3 + n], [6 + n]] for n in range(1, 7)]
    assert torch.equal(streamed[-1]["output_ids"], whole["output_ids"])


def test_a_stream_can_be_left(runner):
    stream = runner.generate(prompts(3), max_new_tokens=60, streaming=True)
    next(stream)
    stream.close()  # joins the generating thread: a hang would run into the test's timeout
    assert new_tokens_of(runner.generate(prompts(3), max_new_tokens=2), 0)


def test_faults_in_the_streaming_thread_reach_the_reader(runner):
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken model")

    runner.model.generate = broken
    with pytest.raises(RuntimeError, match="broken model"):
        list(runner.generate(prompts(3), max_new_tokens=2, streaming=True))


def test_seeds_do_not_touch_the_callers_random_state(runner):
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    runner.generate(prompts(3), max_new_tokens=3, top_k=0, top_p=0.9, random_seed=5)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 0, "top_p": 0.9, "random_seed": [1, 2]}, "one random stream"),
        ({"bad_words": [[[1]], [[2]]]}, "same bad words"),
        ({"num_beams": 2, "streaming": True}, "stream beams"),
        ({"max_new_tokens": 500}, "max_seq_len"),
    ],
)
def test_what_transformers_cannot_do_is_said(runner, options, words):
    with pytest.raises(RequestError, match=words):
        runner.generate(prompts(3, 4), **{"max_new_tokens": 2, **options})


def test_loading_a_folder(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path / "tiny")
    runner = HFRunner.from_dir(tmp_path / "tiny", dtype="float16")
    assert runner.dtype == "float16"
    assert runner.name == "tiny"
    assert "float16" in repr(runner)
    full = HFRunner.from_dir(tmp_path / "tiny")
    assert full.dtype == "float32"
    assert full.memory()["weights_bytes"] == 2 * runner.memory()["weights_bytes"]


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(IntakeError, match=r"config\.json is missing"):
        HFRunner.from_dir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(IntakeError, match="could not load"):
        HFRunner.from_dir(tmp_path)
    with pytest.raises(RequestError, match="int3"):
        HFRunner.from_dir(tmp_path, dtype="int3")
