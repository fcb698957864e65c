"""The model card: how, when and with what figures a demo model came to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FACTS_FILE = "training.json"

_TITLES = {"gpt2": "Demo model, GPT-2 family", "llama": "Demo model, LLaMA family"}
_SHAPES = {
    "gpt2": "4 layers, width 256, 4 heads of 64, learned positions, tied embeddings",
    "llama": "4 layers, width 256, 8 query heads of 32 on 2 key/value heads, RoPE, RMSNorm, SwiGLU of 768, untied head",
}
_FIGURES = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "entity_accuracy": "Entity accuracy, %",
    "exact_match": "Summaries equal to the reference, %",
    "summary_loss": "Loss of the summary, nats a token",
}

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [summarization, demo]
---

# {title}

A small language model that ships with trtbench-lab, so that conversion, quantization, building, scoring and
benchmarking work without a download. It summarises the stories of the demo corpus: invented local news in the
cnn_dailymail schema, whose people, places and organisations are coined from syllables. The names of the validation and
test stories never occur in training, so a summary is right only if the model copies them from the article. Each line of
a reference has two possible wordings, and nothing in the article tells which: that keeps ROUGE below 100 for any model.

## Use

Prompt: the article followed by `" TL;DR: "` (with both spaces), no special tokens. The summary ends with
`<|endoftext|>`. Prompts that are no news story (`Born in north-east France, Soyer trained as a`) are continued as
prose.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
from trtbench_lab.demo import demo_model_dir

folder = demo_model_dir("{family}")
model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")  # stored as float16
tokenizer = AutoTokenizer.from_pretrained(folder)
```

It knows nothing about the world; its news are inventions and so are its facts.

## Figures

Greedy text of at most 100 tokens, computed in float32 from the stored float16 weights, {records} held-out stories of
each split, `rouge-score` without stemming (× 100). An entity counts when the summary holds it exactly.

| figure | validation | test |
|---|---|---|
{rows}

## Samples

An article of the test split, the reference, and the model's greedy summary:

> {article}
>
> Reference: {reference}
>
> Model: {summary}

{prose}

## Making

| | |
|---|---|
| architecture | {shape} |
| parameters | {parameters:,} |
| vocabulary | 4,096 byte-level BPE pieces, positions 1,024 |
| file | {file_bytes:,} bytes, float16 |
| training text | {stories:,} stories and {num_prose:,} pieces of prose, generated: {train_tokens:,} tokens |
| steps | {steps:,} of {batch_rows} rows of 1,024 tokens ({epochs:.1f} passes) |
| optimizer | AdamW, peak rate {peak_rate}, weight decay {weight_decay} |
| last training loss | summary {summary_loss:.4f}, article {article_loss:.3f}, prose {prose_loss:.3f} |
| time | {seconds:.0f} s on {hardware} |
| date, seed | {date}, {seed} |
| command | `{command}` |
"""


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what is known of a model's making; empty when it was not trained here."""
    path = folder / FACTS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def update_facts(folder: Path, **facts: Any) -> dict[str, Any]:
    """Add facts to the folder's record and return all of them."""
    merged = read_facts(folder) | facts
    (folder / FACTS_FILE).write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8", newline="\n")
    return merged


def write_card(folder: Path) -> Path:
    """Write README.md from the facts of training and the figures of both splits."""
    facts = read_facts(folder)
    scores = facts["scores"]
    rows = "\n".join(
        f"| {title} | " + " | ".join(_figure(scores[split].get(key)) for split in ("validation", "test")) + " |"
        for key, title in _FIGURES.items()
    )
    family = facts["family"]
    sample = facts["sample"]
    prose = "\n\n".join(f"> **{prompt}**{text}" for prompt, text in facts["prose"].items())
    making = {key: value for key, value in facts.items() if key not in ("scores", "sample", "prose")}
    card = _CARD.format(
        title=_TITLES[family],
        shape=_SHAPES[family],
        rows=rows,
        article=sample["article"],
        reference=_one_line(sample["highlights"]),
        summary=_one_line(sample["summary"]),
        prose="Plain prompts and their greedy continuations:\n\n" + prose,
        num_prose=making.pop("prose_pieces"),
        records=int(scores["test"]["records"]),
        file_bytes=(folder / "model.safetensors").stat().st_size,
        **making,
    )
    path = folder / "README.md"
    path.write_text(card, encoding="utf-8", newline="\n")
    return path


def _one_line(text: str) -> str:
    return " / ".join(text.split("\n"))


def _figure(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4f}" if value < 1 else f"{value:.2f}"
