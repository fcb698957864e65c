"""What each quantization costs the demo models in perplexity and KL divergence, on the whole held-out split.

Every checkpoint is computed by definition, in float32, beside Hugging Face's own model over the same windows; intervals
are paired bootstraps over windows. AWQ and GPTQ are also compared with round-to-nearest of the same groups directly.

    python benchmarks/quantization_quality.py [--models gpt2 llama] [--tokens 60000] [--output quality.json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from trtbench_lab.calibration import quantize_model
from trtbench_lab.calibration.text import demo_texts, tokens_for
from trtbench_lab.demo import demo_model_dir
from trtbench_lab.evaluation.definition import definition_runner
from trtbench_lab.evaluation.paired import Bootstrap, paired_metric
from trtbench_lab.evaluation.token_quality import scored_windows, token_metrics, window_scores
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.intake.tokenizer import load_tokenizer
from trtbench_lab.runtime import HFRunner
from trtbench_lab.specs import CalibrationConfig, QuantConfig

GROUP = 128
AWQ = {"quant_algo": "W4A16_AWQ", "group_size": GROUP, "pre_quant_scale": True}
GPTQ = {"quant_algo": "W4A16_GPTQ", "group_size": GROUP}
METHODS: dict[str, tuple[dict, dict, float]] = {  # configuration, options, most perplexity allowed in per cent
    "INT8 weights": ({"quant_algo": "W8A16"}, {}, 1),
    "SmoothQuant, channel + token": ({"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"}, {}, 1),
    "FP8": ({"quant_algo": "FP8"}, {}, 1),
    "INT8 K/V cache": ({"kv_cache_quant_algo": "INT8"}, {}, 1),
    "INT4 groups, nearest": ({"quant_algo": "W4A16", "group_size": GROUP}, {}, 4),
    "AWQ": (AWQ, {}, 4),
    "GPTQ": (GPTQ, {}, 4),
    "GPTQ, act-order": (GPTQ, {"act_order": True}, 4),
}
NEAREST = "INT4 groups, nearest"


def measured(model: str, num_tokens: int) -> dict:
    """Return what each method costs a demo model."""
    folder = demo_model_dir(model)
    source, tokenizer = open_hf_folder(folder), load_tokenizer(folder)
    calibration = tokens_for(source, None, CalibrationConfig())
    texts = [tokenizer(text)["input_ids"] for text in demo_texts("test")]
    hf = HFRunner.from_dir(folder)
    scores: dict[str, list] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as scratch:
        runners = {}
        for name, (config, options, _) in METHODS.items():
            target = Path(scratch) / str(len(runners))
            quantize_model(source, target, QuantConfig(**config), calibration, dtype="float32", **options)
            runners[name] = definition_runner(target)
            print(f"{model}: {name} quantized", flush=True)
        for number, begin, end, first in scored_windows([len(ids) for ids in texts], window=512, tokens=num_tokens):
            piece, at = texts[number][begin:end], [first - 1 - begin]
            baseline = hf.logits_of([piece[:-1]], at)[0]
            targets = torch.tensor(texts[number][first:end])
            for name, runner in runners.items():
                scores[name].append(window_scores(runner.logits_of([piece[:-1]], at)[0], baseline, targets))
    bootstrap = Bootstrap(resamples=2000)
    rows = {}
    for name, found in scores.items():
        perplexity, top1, kl = token_metrics(found, ("perplexity", "top1", "kl"), bootstrap)
        rows[name] = {
            "perplexity": perplexity.value, "baseline": perplexity.baseline,
            "change_percent": (perplexity.relative, perplexity.relative_low, perplexity.relative_high),
            "kl": (kl.value, kl.low, kl.high), "top1": top1.value, "bound_percent": METHODS[name][2],
        }  # fmt: skip
        if name.startswith(("AWQ", "GPTQ")):
            table = [(a.tokens, a.nll, b.nll, a.kl, b.kl) for a, b in zip(found, scores[NEAREST], strict=True)]
            nll = paired_metric("nll", table, lambda s: (s[..., 1] / s[..., 0], s[..., 2] / s[..., 0]), of="windows", bootstrap=bootstrap)  # fmt: skip  # noqa: E501
            less = paired_metric("kl", table, lambda s: (s[..., 3] / s[..., 0], s[..., 4] / s[..., 0]), of="windows", bootstrap=bootstrap)  # fmt: skip  # noqa: E501
            rows[name]["nll_against_nearest"] = (nll.change, nll.change_low, nll.change_high)
            rows[name]["kl_against_nearest_percent"] = (less.relative, less.relative_low, less.relative_high)
    tokens = sum(score.tokens for score in scores[NEAREST])
    return {"tokens": tokens, "windows": len(scores[NEAREST]), "calibration": calibration.to_dict(), "methods": rows}


def table_of(model: str, found: dict) -> str:
    """Return the table in Markdown."""
    lines = [
        f"{model}: {found['tokens']:,} tokens in {found['windows']} windows",
        "| method | perplexity (float32) | change % (95 %) | bound % | KL, nats (95 %) | top-1 % "
        "| NLL less than nearest | KL against nearest % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["methods"].items():
        change, kl = row["change_percent"], row["kl"]
        nll, less = row.get("nll_against_nearest"), row.get("kl_against_nearest_percent")
        lines.append(
            f"| {name} | {row['perplexity']:.4f} ({row['baseline']:.4f}) | {change[0]:+.2f} ({change[1]:+.2f} … "
            f"{change[2]:+.2f}) | {row['bound_percent']} | {kl[0]:.5f} ({kl[1]:.5f} … {kl[2]:.5f}) "
            f"| {row['top1']:.2f} | "
            + (f"{-nll[0]:+.4f} ({-nll[2]:+.4f} … {-nll[1]:+.4f})" if nll else "")
            + " | "
            + (f"{less[0]:+.1f} ({less[1]:+.1f} … {less[2]:+.1f})" if less else "")
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["gpt2", "llama"])
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--output", type=Path, help="file for the figures as JSON")
    asked = parser.parse_args()
    found = {}
    for model in asked.models:
        found[model] = measured(model, asked.tokens)
        print(table_of(model, found[model]), flush=True)
        if asked.output is not None:
            asked.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
