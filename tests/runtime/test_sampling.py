"""Each sampling step against the same step of transformers, on the same logits."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trtbench_lab.runtime.sampling import (
    LogitsPipeline,
    RowSampler,
    SamplingRules,
    _kept_on_device,
    _race_on_device,
    ban_words,
    count_tokens,
    keep_top_k,
    keep_top_p,
    largest,
    one_thread,
    penalize_presence_and_frequency,
    penalize_repetition,
)

VOCAB_SIZE = 50
CPU = torch.device("cpu")


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(3, VOCAB_SIZE, generator=torch.Generator().manual_seed(1)) * 4


@pytest.fixture
def sequences() -> list[list[int]]:
    return [[1, 2, 2, 9], [4, 4, 4, 30], [9, 1, 2, 49]]


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.3, 2.0])
def test_repetition_penalty_is_hugging_faces(logits, sequences, penalty):
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(sequences), logits.clone())
    counts = count_tokens(sequences, VOCAB_SIZE, CPU)
    assert torch.equal(penalize_repetition(logits, counts, penalty), expected)


@pytest.mark.parametrize("top_k", [1, 2, 7, VOCAB_SIZE, VOCAB_SIZE + 5])
def test_top_k_is_hugging_faces(logits, top_k):
    assert torch.equal(keep_top_k(logits, top_k), TopKLogitsWarper(top_k)(None, logits.clone()))


def test_top_k_keeps_ties_as_hugging_face_does():
    tied = torch.tensor([[3.0, 1.0, 3.0, 3.0, 0.0]])
    kept = keep_top_k(tied, 2)
    assert torch.equal(kept, TopKLogitsWarper(2)(None, tied.clone()))
    assert kept.isfinite().sum() == 3


@pytest.mark.parametrize("top_p", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_top_p_is_hugging_faces(logits, top_p):
    assert torch.equal(keep_top_p(logits, top_p), TopPLogitsWarper(top_p)(None, logits.clone()))


@pytest.mark.parametrize("seed", range(5))
def test_top_p_over_a_real_vocabulary_is_hugging_faces(seed):
    wide = torch.randn(2, 50257, generator=torch.Generator().manual_seed(seed)) * 3
    assert torch.equal(keep_top_p(wide, 0.9), TopPLogitsWarper(0.9)(None, wide.clone()))


def test_top_p_breaks_ties_as_hugging_face_does():
    tied = torch.tensor([[1.0, 2.0, 1.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 5.0]])
    for top_p in (0.2, 0.5, 0.7, 0.9):
        kept = keep_top_p(tied, top_p)
        assert torch.equal(kept, TopPLogitsWarper(top_p)(None, tied.clone()))
    assert kept.isfinite().sum(-1).tolist() != [6, 6]


@pytest.mark.parametrize("top_p", [0.0, 0.2, 0.5, 0.7, 0.9, 0.999])
def test_what_a_gpu_keeps_is_hugging_faces_too(logits, top_p):
    """The form that never asks the device anything; it runs on a CPU as well."""
    tied = torch.tensor([[1.0, 2.0, 1.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 5.0]])
    for rows in (logits, tied, torch.randn(3, 5003) * 3):
        assert torch.equal(_kept_on_device(rows, top_p), TopPLogitsWarper(top_p)(None, rows.clone()))


def test_bad_words_are_hugging_faces(logits):
    # Rows of five tokens: older versions of the peer leave out words that are longer than the row.
    sequences = [[9, 1, 2, 7, 8], [9, 8, 8, 7, 8], [9, 1, 2, 3, 4]]
    words = [[5], [7, 8, 11], [8, 12], [1, 2, 3, 4, 13], [0, 1, 2, 3, 4, 14]]
    expected = NoBadWordsLogitsProcessor(words, eos_token_id=None)(torch.tensor(sequences), logits.clone())
    assert torch.equal(ban_words(logits, sequences, [words] * 3), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_logit_of_each_row(logits, dtype):
    rows = logits.to(dtype)
    assert torch.equal(largest(rows), rows.argmax(-1))
    assert torch.equal(largest(rows[:, :20]), rows[:, :20].argmax(-1))  # a view whose rows are not adjacent
    assert largest(rows).dtype == torch.int64


def test_presence_and_frequency_are_subtracted_by_count(sequences):
    # Row 0 holds token 1 once, 2 twice, 9 once; numbers by hand.
    counts = count_tokens(sequences, VOCAB_SIZE, CPU)
    changed = penalize_presence_and_frequency(torch.zeros(3, VOCAB_SIZE), counts, presence=0.5, frequency=0.25)
    assert changed[0, [0, 1, 2, 9]].tolist() == [0.0, -0.75, -1.0, -0.75]
    assert changed[1, [4, 30]].tolist() == [-1.25, -0.75]


def test_pipeline_equals_hugging_faces_processors_over_several_steps(logits, sequences):
    rules = SamplingRules(
        greedy=False,
        temperature=0.7,
        top_k=20,
        top_p=0.8,
        repetition_penalty=1.2,
        min_new_tokens=2,
        end_ids=(3, 6),
        bad_words=(((2, 9), (30,)),) * 3,
    )
    expected_steps = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.2),
            NoBadWordsLogitsProcessor([[2, 9], [30]], eos_token_id=[3, 6]),
            MinNewTokensLengthLogitsProcessor(4, 2, torch.tensor([3, 6])),
            TemperatureLogitsWarper(0.7),
            TopKLogitsWarper(20),
            TopPLogitsWarper(0.8),
        ]
    )
    pipeline = LogitsPipeline(rules, sequences, VOCAB_SIZE, CPU)
    ids = torch.tensor(sequences)
    for step, tokens in enumerate(([2, 3, 5], [9, 2, 2], [1, 1, 9])):
        step_logits = logits.roll(step * 7, dims=1)
        ours = pipeline.filter(pipeline.process(step_logits))
        assert torch.equal(ours, expected_steps(ids, step_logits.clone()))
        pipeline.append(torch.tensor(tokens), tokens)
        ids = torch.cat([ids, torch.tensor(tokens)[:, None]], dim=1)


def test_presence_penalty_acts_after_the_temperature(sequences):
    rules = SamplingRules(greedy=False, temperature=2.0, presence_penalty=1.0)
    changed = LogitsPipeline(rules, sequences, VOCAB_SIZE, CPU).process(torch.full((3, VOCAB_SIZE), 4.0))
    assert changed[0, 1] == 1.0  # 4 / 2 − 1, not (4 − 1) / 2
    assert changed[0, 0] == 2.0


def test_raw_logits_are_left_as_they_were(logits, sequences):
    before = logits.clone()
    rules = SamplingRules(repetition_penalty=1.5, bad_words=(((1,),),) * 3, end_ids=(2,), min_new_tokens=1, top_k=3)
    pipeline = LogitsPipeline(rules, sequences, VOCAB_SIZE, CPU)
    pipeline.filter(pipeline.process(logits))
    assert torch.equal(logits, before)


def test_rows_follow_their_parents(sequences):
    rules = SamplingRules(repetition_penalty=2.0, bad_words=(((9, 5),),) * 3)
    pipeline = LogitsPipeline(rules, sequences, VOCAB_SIZE, CPU)
    pipeline.take_rows([2, 2, 0])
    changed = pipeline.process(torch.ones(3, VOCAB_SIZE))
    assert changed[0, 49] == changed[1, 49] == 0.5
    assert changed[2, 49] == 1.0
    assert changed[2, 5] == float("-inf")  # row 2 is now the sequence that ends in 9
    assert changed[0, 5] == 1.0


def test_draws_are_those_of_torch_with_the_same_seed(logits):
    row = logits[:1]
    sampler = RowSampler([11], CPU)
    ours = [sampler.draw(row).item() for _ in range(20)]
    torch.manual_seed(11)
    expected = [torch.multinomial(row.softmax(-1), 1).item() for _ in range(20)]
    assert ours == expected
    assert len(set(ours)) > 1


def test_a_row_does_not_depend_on_its_neighbours(logits):
    alone = RowSampler([5], CPU)
    together = RowSampler([4, 5, 6], CPU)
    mixed = torch.stack([logits[1], logits[0], logits[2]])
    for _ in range(10):
        assert together.draw(mixed)[1] == alone.draw(logits[:1])[0]


def test_frequencies_follow_the_probabilities():
    # 4,000 draws: the standard error of a share of 0.5 is 0.008; 0.04 is five of them.
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    sampler = RowSampler([0], CPU)
    draws = torch.stack([sampler.draw(probabilities.log()) for _ in range(4000)]).flatten()
    shares = torch.bincount(draws, minlength=4) / 4000
    assert torch.allclose(shares, probabilities[0], atol=0.04)


@pytest.mark.parametrize("rules", [{"top_k": 50}, {"top_p": 0.9}, {"top_k": 40, "top_p": 0.5}, {}])
def test_draws_among_those_left_in_are_those_of_torch_among_all(rules):
    wide = torch.randn(1, 50257, generator=torch.Generator().manual_seed(2)) * 3
    pipeline = LogitsPipeline(SamplingRules(greedy=False, **rules), [[1]], 50257, torch.device("cpu"))
    filtered = pipeline.filter(wide)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        sampler = RowSampler([seed], torch.device("cpu"))
        for _ in range(2):  # the second shows that the generator has moved on as far
            expected = torch.multinomial(filtered.softmax(-1), 1, generator=generator)
            assert sampler.draw(filtered).tolist() == expected[0].tolist()


def test_draws_on_a_device_are_those_of_torch(logits):
    probabilities = logits.softmax(-1)
    ours, theirs = ([torch.Generator().manual_seed(seed) for seed in (1, 2, 3)] for _ in range(2))
    for _ in range(20):
        expected = [torch.multinomial(probabilities[row : row + 1], 1, generator=theirs[row]) for row in range(3)]
        assert torch.equal(_race_on_device(probabilities, ours), torch.cat(expected)[:, 0])


def test_draws_do_not_depend_on_the_number_of_threads():
    wide = torch.randn(1, 50257, generator=torch.Generator().manual_seed(2))
    before = torch.get_num_threads()
    drawn = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            sampler = RowSampler([7], CPU)
            drawn.append([int(sampler.draw(wide)) for _ in range(5)])
    finally:
        torch.set_num_threads(before)
    assert drawn[0] == drawn[1]


def test_choosing_takes_one_thread_and_gives_the_others_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with one_thread(CPU):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="inside"), one_thread(CPU):
            raise ValueError("inside")
        assert torch.get_num_threads() == 2
        with one_thread(torch.device("cuda")):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_rules_know_whether_they_can_change_the_largest_logit():
    assert not SamplingRules().changes_logits
    assert not SamplingRules(end_ids=(3,)).changes_logits
    assert SamplingRules(end_ids=(3,), min_new_tokens=1).changes_logits
    assert SamplingRules(frequency_penalty=0.1).changes_logits
    assert SamplingRules(bad_words=((), ((1,),))).changes_logits
    assert not SamplingRules(bad_words=((), ())).changes_logits
