"""Scores of a stored demo model on held-out stories: ROUGE, entity accuracy, loss, all from greedy text in float32."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from trtbench_lab.demo.corpus import Record, entity_accuracy

from .tokenizer import PROMPT_ENDING

MAX_NEW_TOKENS = 100
PLAIN_PROMPTS = ("Born in north-east France, Soyer trained as a", "Once upon a time there lived in")
ROUGE_KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def load(folder: Path, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a stored model in float32, whatever it is stored in."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def greedy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], *, batch_size: int = 20
) -> list[str]:
    """Continue each prompt greedily by up to 100 tokens."""
    texts: list[str] = []
    for start in range(0, len(prompts), batch_size):
        inputs = tokenizer(
            list(prompts[start : start + batch_size]), return_tensors="pt", padding=True, padding_side="left"
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
            )
        texts += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def summary_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, records: Sequence[Record]) -> float:
    """Return the mean loss of the highlights' tokens, the end of text included, in nats a token."""
    total, num_tokens = 0.0, 0
    for record in records:
        prompt = tokenizer(record["article"] + PROMPT_ENDING)["input_ids"]
        summary = [*tokenizer(record["highlights"])["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([prompt + summary], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        total += functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum").item()
        num_tokens += len(summary)
    return total / num_tokens


def rouge(summaries: Sequence[str], records: Sequence[Record]) -> dict[str, float]:
    """Return the mean F-measures × 100, without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE_KINDS, use_stemmer=False)
    scores = [scorer.score(r["highlights"], text) for r, text in zip(records, summaries, strict=True)]
    return {kind: 100 * sum(score[kind].fmeasure for score in scores) / len(scores) for kind in ROUGE_KINDS}


def continuations(folder: Path, device: torch.device) -> dict[str, str]:
    """Return the greedy continuation of prompts that are no news story."""
    model, tokenizer = load(folder, device)
    return dict(zip(PLAIN_PROMPTS, greedy(model, tokenizer, PLAIN_PROMPTS, batch_size=1), strict=True))


def score(folder: Path, records: Sequence[Record], device: torch.device) -> tuple[dict[str, float], list[str]]:
    """Return the figures of a stored model and the summaries they come from.

    ROUGE needs the package `rouge-score`; without it the other figures are returned and a line says so.
    """
    model, tokenizer = load(folder, device)
    summaries = greedy(model, tokenizer, [record["article"] + PROMPT_ENDING for record in records])
    exact = sum(text == record["highlights"] for text, record in zip(summaries, records, strict=True))
    figures = {
        "records": float(len(records)),
        "entity_accuracy": entity_accuracy(summaries, records),
        "exact_match": 100 * exact / len(records),
        "summary_loss": summary_loss(model, tokenizer, records),
    }
    if find_spec("rouge_score") is None:
        print("ROUGE was left out: install rouge-score to measure it.")
    else:
        figures = rouge(summaries, records) | figures
    return figures, summaries
