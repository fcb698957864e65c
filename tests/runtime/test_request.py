"""Keywords of generate: TensorRT-LLM's meanings, its other names, and every mistake a sentence."""

from __future__ import annotations

import pytest
import torch

from trtbench_lab.errors import RequestError
from trtbench_lab.runtime.request import settle
from trtbench_lab.specs import SamplingConfig


def settled(num_prompts: int = 2, sampling_config: SamplingConfig | None = None, **keywords):
    return settle(sampling_config, keywords, num_prompts=num_prompts, vocab_size=100)


def test_the_default_is_greedy():
    request = settled()
    assert request.rules.greedy
    assert request.notes == ()
    assert request.end_ids == ()
    assert request.rules.seeds == (0, 0)


@pytest.mark.parametrize(
    ("keywords", "greedy", "top_k", "top_p"),
    [
        ({"top_k": 1}, True, 0, 1.0),
        ({"top_k": 0}, True, 0, 1.0),  # neither: greedy, as TensorRT-LLM has it
        ({"top_k": 0, "top_p": 0.9}, False, 0, 0.9),
        ({"top_k": 5}, False, 5, 1.0),  # top_p 0 beside a top_k means off
        ({"top_k": 5, "top_p": 0.9}, False, 5, 0.9),
        ({"top_k": 5, "temperature": 0.0}, True, 0, 1.0),
        ({"top_k": 0, "top_p": 1.0}, False, 0, 1.0),
    ],
)
def test_top_k_and_top_p_mean_what_tensorrt_llm_means(keywords, greedy, top_k, top_p):
    rules = settled(**keywords).rules
    assert (rules.greedy, rules.top_k, rules.top_p) == (greedy, top_k, top_p)
    assert rules.temperature == 1.0


def test_a_temperature_that_does_nothing_is_said():
    assert "greedy" in settled(temperature=0.7).notes[0]
    assert "greedy" in settled(top_p=0.7).notes[0]
    assert settled(temperature=0.7, top_k=5).notes == ()
    assert "Beam search" in settled(num_beams=2, temperature=0.7).notes[0]
    assert "end_id" in settled(min_length=3).notes[0]


def test_keywords_go_over_the_configuration():
    base = SamplingConfig(max_new_tokens=7, top_k=3, end_id=4)
    request = settled(sampling_config=base, top_k=5)
    assert (request.config.max_new_tokens, request.rules.top_k, request.end_ids) == (7, 5, (4,))


def test_other_names_are_understood():
    request = settled(max_output_len=3, stop_words_list=[[[1]], [[2]]], output_sequence_lengths=True, lora_uids=None)
    assert request.config.max_new_tokens == 3
    assert request.stop_words == (((1,),), ((2,),))


@pytest.mark.parametrize(("value", "expected"), [(None, ()), (-1, ()), (5, (5,)), ([5, 7], (5, 7)), ((), ())])
def test_end_tokens(value, expected):
    assert settled(end_id=value).end_ids == expected


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [({"pad_id": 3, "end_id": 4}, 3), ({"end_id": 4}, 4), ({}, 0), ({"pad_id": 0, "end_id": 4}, 0)],
)
def test_rows_are_filled_with_pad_or_end(keywords, expected):
    assert settled(**keywords).fill_id == expected


def test_words_for_all_rows_or_each_row():
    assert settled(bad_words=[[1, 2], [3]]).rules.bad_words == (((1, 2), (3,)),) * 2
    assert settled(bad_words=[[[1, 2]], []]).rules.bad_words == (((1, 2),), ())
    assert settled(bad_words=[[[1, 2]], None]).rules.bad_words == (((1, 2),), ())
    assert settled(stop_words=torch.tensor([[1, 2]])).stop_words == (((1, 2),),) * 2


def test_one_seed_or_one_a_row():
    assert settled(random_seed=9).rules.seeds == (9, 9)
    assert settled(random_seed=[9, 10]).rules.seeds == (9, 10)
    assert settled(random_seed=None).rules.seeds == (0, 0)


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), (1, True), (False, False), (0, False), ("never", "never"), (2, "never")]
)
def test_early_stopping(value, expected):
    assert settled(num_beams=2, early_stopping=value).early_stopping == expected


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"max_new_token": 3}, "Did you mean 'max_new_tokens'"),
        ({"zzzqqq": 3}, "Known:"),
        ({"max_new_tokens": 3, "max_output_len": 3}, "mean the same"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"max_new_tokens": "many"}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
        ({"num_beams": 0}, "num_beams"),
        ({"end_id": 100}, "outside the vocabulary"),
        ({"end_id": "x"}, "whole number"),
        ({"end_id": True}, "whole number"),
        ({"pad_id": -5}, "negative"),
        ({"repetition_penalty": 0.0}, "repetition penalty"),
        ({"random_seed": [1, 2, 3]}, "3 seeds"),
        ({"random_seed": -1}, "seed"),
        ({"random_seed": 1.5}, "whole number"),
        ({"stop_words": [1, 2]}, "token sequences"),
        ({"stop_words": "word"}, "token sequences"),
        ({"stop_words": [["a"]]}, "token ids"),
        ({"stop_words": [[]]}, "stop_words"),
        ({"bad_words": [[200]]}, "0 to 99"),
        ({"bad_words": [[[1]]]}, "1 rows and the batch has 2"),
        ({"stop_words": [[5, [6]], None]}, "holds 5"),
        ({"bad_words": [[[5]], 6]}, "single numbers"),
        ({"end_ids": "x"}, "whole number"),
        ({"prompt_table": torch.ones(3)}, "not offered"),
        ({"early_stopping": "soon"}, "'never'"),
        ({"lora_uids": [1]}, "not offered"),
        ({"num_return_sequences": 2}, "not offered"),
        ({"sampling_config": {"top_k": 1}}, "SamplingConfig"),
    ],
)
def test_mistakes_are_sentences(keywords, words):
    with pytest.raises(RequestError) as caught:
        settled(**keywords)
    assert words in str(caught.value)


def test_one_more_end_token_needs_no_list():
    assert settled(end_id=4, end_ids=5).end_ids == (4, 5)


def test_several_end_tokens_from_the_configuration_and_the_keywords():
    base = SamplingConfig(end_id=4, end_ids=(5, 6))
    assert settle(base, {}, num_prompts=1, vocab_size=100).end_ids == (4, 5, 6)
    assert settle(base, {"end_id": 9}, num_prompts=1, vocab_size=100).end_ids == (9, 5, 6)
    request = settle(base, {"end_id": [7, 5], "end_ids": ()}, num_prompts=1, vocab_size=100)
    assert request.end_ids == (7, 5)
    assert settle(request.config, {}, num_prompts=1, vocab_size=100).end_ids == (7, 5)
    with pytest.raises(RequestError, match="outside the vocabulary"):
        settle(base, {"end_ids": (100,)}, num_prompts=1, vocab_size=100)


@pytest.mark.parametrize(("given", "kept"), [("never", "never"), ("true", True), (False, False), ("off", False)])
def test_early_stopping_of_a_configuration(given, kept):
    config = SamplingConfig(num_beams=2, early_stopping=given)
    assert config.early_stopping is kept or config.early_stopping == kept
    request = settle(config, {}, num_prompts=1, vocab_size=100)
    assert request.early_stopping == kept
    assert request.config.early_stopping == kept
