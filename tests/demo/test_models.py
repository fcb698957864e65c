"""The shipped demo models: in budget, loadable, divisible for every demo, and good enough to measure damage on."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from trtbench_lab.demo import DEMO_MODELS, demo_corpus_path, demo_model_dir
from trtbench_lab.demo.corpus import entity_accuracy, read_records
from trtbench_lab.errors import TrtbenchError

PROMPT_ENDING = " TL;DR: "
NUM_ARTICLES = 8  # one batch of eight takes about 3 s on one core

every_model = pytest.mark.parametrize("name", list(DEMO_MODELS))


@cache
def loaded(name: str):  # type: ignore[no-untyped-def]
    folder = demo_model_dir(name)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def continued(name: str, prompts: list[str]) -> list[str]:
    model, tokenizer = loaded(name)
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    output = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=100, do_sample=False
    )
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@every_model
def test_the_weights_are_float16_and_at_most_12_mb(name: str) -> None:
    path = demo_model_dir(name) / "model.safetensors"
    assert path.stat().st_size <= 12_000_000
    with safe_open(path, "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}  # noqa: SIM118


@every_model
def test_shapes_divide_for_sharding_and_for_int4_groups(name: str) -> None:
    config = loaded(name)[0].config
    assert config.vocab_size % 8 == 0
    assert config.num_attention_heads % 4 == 0
    assert config.num_hidden_layers % 4 == 0
    assert config.hidden_size % 128 == 0
    assert config.max_position_embeddings == 1024
    if name == "llama":
        assert config.num_key_value_heads == 2
        assert config.intermediate_size % 128 == 0


@every_model
def test_tokens_of_any_text_decode_to_it(name: str) -> None:
    tokenizer = loaded(name)[1]
    assert len(tokenizer) == loaded(name)[0].config.vocab_size
    assert tokenizer.eos_token == "<|endoftext|>"
    for text in ("Born in north-east France, Soyer trained as a", "naïve  Ωmega\n\ttabs — 東京 $4.2", " TL;DR: "):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos_token_id not in ids


@every_model
def test_prompts_leave_room_for_a_hundred_new_tokens(name: str) -> None:
    tokenizer = loaded(name)[1]
    records = list(read_records(demo_corpus_path("test")))
    assert max(len(tokenizer(r["article"] + PROMPT_ENDING)["input_ids"]) for r in records) < 400
    assert max(len(tokenizer(r["highlights"])["input_ids"]) for r in records) < 100


@every_model
def test_names_are_several_tokens_long(name: str) -> None:
    # A name that is one token could be copied without reading its letters.
    tokenizer = loaded(name)[1]
    records = read_records(demo_corpus_path("test"))
    names = [entity for record in records for entity in record["entities"] if entity.replace(" ", "").isalpha()]
    people = [name for name in names if name.istitle() and name.count(" ") == 1]
    lengths = [len(tokenizer(f" {person}")["input_ids"]) for person in people]
    assert min(lengths) >= 2
    assert sum(lengths) / len(lengths) > 3.5


@every_model
def test_held_out_stories_are_summarised_with_their_names(name: str) -> None:
    records = list(read_records(demo_corpus_path("test")))[:NUM_ARTICLES]
    summaries = continued(name, [record["article"] + PROMPT_ENDING for record in records])
    scorer = RougeScorer(["rouge1"], use_stemmer=False)
    pairs = zip(records, summaries, strict=True)
    rouge1 = [100 * scorer.score(record["highlights"], text)["rouge1"].fmeasure for record, text in pairs]
    assert sum(rouge1) / len(rouge1) >= 60
    assert entity_accuracy(summaries, records) >= 90


@every_model
def test_a_plain_prompt_is_continued_as_prose(name: str) -> None:
    (text,) = continued(name, ["Born in north-east France, Soyer trained as a"])
    words = text.split()
    assert len(words) > 50
    assert "Soyer" in text
    assert len(set(words)) > len(words) / 2  # no loop of the same few words


@every_model
def test_the_card_states_the_measured_figures(name: str) -> None:
    folder = demo_model_dir(name)
    facts = json.loads((folder / "training.json").read_text())
    card = (folder / "README.md").read_text()
    for split in ("validation", "test"):
        assert facts["scores"][split]["rouge1"] >= 80
        assert facts["scores"][split]["entity_accuracy"] >= 95
        assert f"{facts['scores'][split]['rouge1']:.2f}" in card
    assert f"{facts['parameters']:,}" in card
    assert facts["command"] in card


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(TrtbenchError, match="gtp2") as caught:
        demo_model_dir("gtp2")
    assert "gpt2" in str(caught.value)
    with pytest.raises(TrtbenchError, match="tset") as caught:
        demo_corpus_path("tset")
    assert "test" in str(caught.value)
    with pytest.raises(TrtbenchError, match="generated on demand"):
        demo_corpus_path("train")
