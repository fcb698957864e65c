"""Beam search against transformers' own, on the same models: tokens, lengths and scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.runtime.tiny_models import HFExecutor, prompts, tiny_gpt2, tiny_llama, tiny_runner

from trtbench_lab.runtime import HFRunner
from trtbench_lab.runtime.beams import BeamSearch
from trtbench_lab.runtime.text import new_tokens_of

# The same float32 sums in another order: a few units in the last place of scores of magnitude 10 to 100.
SCORE_TOLERANCE = 1e-4


END_IDS = list(range(0, 96, 8))  # with 12 end tokens of 96 hypotheses finish at all lengths


@pytest.fixture(scope="module")
def gpt2() -> Any:
    return tiny_gpt2(seed=1)


def assert_same_search(hf_model: Any, batch: list[list[int]], **keywords: Any) -> dict[str, Any]:
    ours = tiny_runner(hf_model).generate(batch, **keywords)
    theirs = HFRunner(hf_model).generate(batch, **keywords)
    assert torch.equal(ours["output_ids"], theirs["output_ids"])
    assert torch.equal(ours["sequence_lengths"], theirs["sequence_lengths"])
    assert torch.allclose(ours["sequences_scores"], theirs["sequences_scores"], atol=SCORE_TOLERANCE)
    assert len(ours["timing"].token_ns) == len(theirs["timing"].token_ns)  # both stopped at the same step
    return ours


@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_search_is_hugging_faces(gpt2, early_stopping, length_penalty):
    assert_same_search(
        gpt2,
        prompts(6, seed=7),
        max_new_tokens=9,
        num_beams=3,
        end_id=END_IDS,
        pad_id=1,
        early_stopping=early_stopping,
        length_penalty=length_penalty,
    )


def test_the_settings_above_make_a_difference(gpt2):
    """Otherwise the test above would prove nothing about early stopping and length penalty."""
    batch, keywords = prompts(6, seed=7), {"max_new_tokens": 9, "num_beams": 3, "end_id": END_IDS}
    runner = tiny_runner(gpt2)
    steps = {
        early: len(runner.generate(batch, early_stopping=early, length_penalty=1.0, **keywords)["timing"].token_ns)
        for early in (True, False, "never")
    }
    assert steps[True] < steps[False] < steps["never"]
    short = runner.generate(batch, early_stopping=False, length_penalty=-0.5, **keywords)["output_ids"]
    long = runner.generate(batch, early_stopping=False, length_penalty=2.0, **keywords)["output_ids"]
    assert not torch.equal(short, long)


@pytest.mark.parametrize("seed", range(6))
def test_many_models_and_ragged_batches(seed):
    model = tiny_llama(seed) if seed % 2 else tiny_gpt2(seed)
    outputs = assert_same_search(
        model,
        prompts(3, 9, 5, seed=seed),
        max_new_tokens=8,
        num_beams=2 + seed % 3,
        end_id=[10 * k + seed for k in range(5)],
        pad_id=0,
        early_stopping=(True, False, "never")[seed % 3],
        length_penalty=0.5 + 0.5 * (seed % 3),
    )
    assert outputs["output_ids"].shape[:2] == (3, 2 + seed % 3)


def test_penalties_and_bans_inside_beams(gpt2):
    keywords = {"max_new_tokens": 8, "num_beams": 3, "pad_id": 0, "end_id": 32}
    plain = assert_same_search(gpt2, prompts(6, seed=5), **keywords)
    changed = assert_same_search(
        gpt2,
        prompts(6, seed=5),
        repetition_penalty=1.5,
        min_length=4,
        bad_words=[[33], [71, 74]],
        **keywords,
    )
    assert not torch.equal(plain["output_ids"], changed["output_ids"])


def test_presence_and_frequency_inside_beams(gpt2):
    assert_same_search(
        gpt2,
        prompts(6, 4, seed=5),
        max_new_tokens=6,
        num_beams=2,
        pad_id=0,
        presence_penalty=2.0,
        frequency_penalty=1.0,
    )


def test_stop_words_finish_hypotheses(gpt2):
    free = tiny_runner(gpt2).generate(prompts(6, seed=5), max_new_tokens=8, num_beams=2, pad_id=0)
    word = new_tokens_of(free, 0)[2:4]
    stopped = assert_same_search(
        gpt2, prompts(6, seed=5), max_new_tokens=8, num_beams=2, pad_id=0, stop_words=[word], length_penalty=-1.0
    )
    assert "stop_words" in stopped["finish_reasons"][0]


def test_without_end_token_all_steps_are_made(gpt2):
    outputs = assert_same_search(gpt2, prompts(4), max_new_tokens=5, num_beams=4, pad_id=0)
    assert len(outputs["timing"].token_ns) == 5
    assert outputs["finish_reasons"] == [["length"] * 4]


def test_log_probs_and_logits_of_hypotheses(gpt2):
    """A hypothesis' log-probabilities sum to its score, and come from the logits given with it."""
    outputs = tiny_runner(gpt2).generate(
        prompts(6, seed=5),
        max_new_tokens=7,
        num_beams=3,
        end_id=[32, 33],
        output_log_probs=True,
        output_logits=True,
        length_penalty=1.0,
        early_stopping=False,
    )
    for beam in range(3):
        new = new_tokens_of(outputs, 0, beam, with_end=True)
        picked = outputs["generation_logits"][0, beam, : len(new)].log_softmax(-1)[range(len(new)), new]
        assert torch.allclose(picked, outputs["log_probs"][0, beam, : len(new)], atol=1e-5)
        score = outputs["sequences_scores"][0, beam]
        assert outputs["cum_log_probs"][0, beam] / len(new) == pytest.approx(score.item(), abs=SCORE_TOLERANCE)


def test_log_probs_are_hugging_faces(gpt2):
    keywords = {"max_new_tokens": 6, "num_beams": 2, "end_id": [32, 33], "output_log_probs": True}
    ours = tiny_runner(gpt2).generate(prompts(6, 3, seed=5), **keywords)
    theirs = HFRunner(gpt2).generate(prompts(6, 3, seed=5), **keywords)
    assert torch.allclose(ours["cum_log_probs"], theirs["cum_log_probs"], atol=SCORE_TOLERANCE)


def test_a_hand_made_search():
    """Two steps over three tokens, checked by hand: token 2 ends."""
    search = BeamSearch(1, 2, 3, end_ids=[2], length_penalty=1.0, early_stopping=True)
    first = torch.tensor([[0.5, 0.3, 0.2]]).log().repeat(2, 1)
    tokens, parents = search.advance(first)
    assert tokens.tolist() == [0, 1]  # the end token is third best, outside the two that may finish
    assert parents == [0, 0]
    second = torch.tensor([[0.1, 0.3, 0.6], [0.7, 0.2, 0.1]]).log()
    tokens, parents = search.advance(second)
    # candidates: 0→2: .30 (ends), 1→0: .21, 0→1: .15, 1→1: .06; the running beams are 1→0 and 0→1
    assert tokens.tolist() == [0, 1]
    assert parents == [1, 0]
    assert not search.done
    search.advance(torch.tensor([[0.05, 0.05, 0.9], [0.05, 0.05, 0.9]]).log())
    assert search.done
    result = search.result()
    # .30 ** (1/2) in two tokens; .21 · .9 in three; scores are log-probability over length
    assert result.tokens == [[[1, 0, 2], [0, 2]]]
    assert result.scores[0].exp().tolist() == pytest.approx([0.189 ** (1 / 3), 0.30**0.5])


def test_beams_beyond_the_engine_are_refused(gpt2):
    from trtbench_lab.errors import RequestError

    with pytest.raises(RequestError, match="max_beam_width=5"):
        tiny_runner(gpt2).generate(prompts(3), max_new_tokens=2, num_beams=5)


def test_the_cache_moves_only_rows_that_change_parents(gpt2):
    executor = HFExecutor(gpt2)
    runner = tiny_runner(gpt2, executor=executor)
    runner.generate(prompts(3), max_new_tokens=6, num_beams=2)
    before = executor.num_binds
    runner.generate(prompts(3), max_new_tokens=12, num_beams=2)
    # Beams bind the prompt's and the beams' cache once each; no step binds anything.
    assert executor.num_binds - before == before
