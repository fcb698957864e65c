"""What each quantization costs the demo models in perplexity and KL divergence, on the whole held-out split.

Every checkpoint is computed by definition, in float32, beside Hugging Face's own model over the same windows; intervals
are paired bootstraps over windows. AWQ and GPTQ are also compared with round-to-nearest of the same groups directly.

    python benchmarks/quantization_quality.py [--models gpt2 llama] [--tokens 60000] [--output quality.json]

With `--calib_seeds` every method is calibrated once a seed, on other texts of the corpus, and a window's sums are those
of all seeds: what the method does, rather than one choice of texts. `--stories` scores new stories of the generator,
which are in no split, so that looking at them chooses nothing for the held-out ones.

    python benchmarks/quantization_quality.py --models gpt2 --stories 120 --calib_seeds 0 1 2 3 --methods AWQ GPTQ
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from trtbench_lab.calibration import quantize_model
from trtbench_lab.calibration.text import demo_texts, tokens_for
from trtbench_lab.demo import demo_model_dir
from trtbench_lab.demo.corpus import make_records
from trtbench_lab.evaluation.definition import definition_runner
from trtbench_lab.evaluation.paired import Bootstrap, paired_metric
from trtbench_lab.evaluation.token_quality import WindowScores, scored_windows, token_metrics, window_scores
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


def measured(model: str, num_tokens: int, methods: list[str], seeds: list[int], texts: list[str]) -> dict:
    """Return what each method costs a demo model."""
    folder = demo_model_dir(model)
    source, tokenizer = open_hf_folder(folder), load_tokenizer(folder)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    hf = HFRunner.from_dir(folder)
    by_seed = []
    for seed in seeds:
        calibration = tokens_for(source, None, CalibrationConfig(calib_seed=seed))
        found: dict[str, list[WindowScores]] = {name: [] for name in methods}
        with tempfile.TemporaryDirectory() as scratch:
            runners = {}
            for name in methods:
                config, options, _ = METHODS[name]
                target = Path(scratch) / str(len(runners))
                quantize_model(source, target, QuantConfig(**config), calibration, dtype="float32", **options)
                runners[name] = definition_runner(target)
                print(f"{model}, seed {seed}: {name} quantized", flush=True)
            for number, begin, end, first in scored_windows([len(text) for text in ids], window=512, tokens=num_tokens):
                piece, at = ids[number][begin:end], [first - 1 - begin]
                baseline = hf.logits_of([piece[:-1]], at)[0]
                targets = torch.tensor(ids[number][first:end])
                for name, runner in runners.items():
                    found[name].append(window_scores(runner.logits_of([piece[:-1]], at)[0], baseline, targets))
        by_seed.append(found)
    scores = {name: [added(one) for one in zip(*(found[name] for found in by_seed), strict=True)] for name in methods}
    bootstrap = Bootstrap(resamples=2000)
    rows = {}
    for name, found in scores.items():
        perplexity, top1, kl = token_metrics(found, ("perplexity", "top1", "kl"), bootstrap)
        rows[name] = {
            "perplexity": perplexity.value, "baseline": perplexity.baseline,
            "change_percent": (perplexity.relative, perplexity.relative_low, perplexity.relative_high),
            "kl": (kl.value, kl.low, kl.high), "top1": top1.value, "bound_percent": METHODS[name][2],
        }  # fmt: skip
        if name.startswith(("AWQ", "GPTQ")) and NEAREST in scores:
            table = [(a.tokens, a.nll, b.nll, a.kl, b.kl) for a, b in zip(found, scores[NEAREST], strict=True)]
            nll = paired_metric("nll", table, lambda s: (s[..., 1] / s[..., 0], s[..., 2] / s[..., 0]), of="windows", bootstrap=bootstrap)  # fmt: skip  # noqa: E501
            less = paired_metric("kl", table, lambda s: (s[..., 3] / s[..., 0], s[..., 4] / s[..., 0]), of="windows", bootstrap=bootstrap)  # fmt: skip  # noqa: E501
            rows[name]["nll_against_nearest"] = (nll.change, nll.change_low, nll.change_high)
            rows[name]["kl_against_nearest_percent"] = (less.relative, less.relative_low, less.relative_high)
    windows = next(iter(scores.values()))
    tokens = sum(score.tokens for score in windows) // len(seeds)
    return {"tokens": tokens, "windows": len(windows), "calibration": calibration.to_dict(), "methods": rows}


def added(scores: Sequence[WindowScores]) -> WindowScores:
    """Return the sums of one window over all calibrations."""
    names = [field.name for field in fields(WindowScores)]
    return WindowScores(**{name: sum(getattr(one, name) for one in scores) for name in names})


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
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--calib_seeds", nargs="+", type=int, default=[CalibrationConfig().calib_seed])
    parser.add_argument("--stories", type=int, help="score so many new stories instead of the held-out split")
    parser.add_argument("--story_seed", type=int, default=777)
    parser.add_argument("--output", type=Path, help="file for the figures as JSON")
    asked = parser.parse_args()
    texts = demo_texts("test")
    if asked.stories is not None:
        records = make_records("validation", asked.stories, seed=asked.story_seed)
        texts = [f"{record['article']}\n{record['highlights']}" for record in records]
    grouped = any(name.startswith(("AWQ", "GPTQ")) for name in asked.methods)
    methods = [name for name in METHODS if name in asked.methods or (grouped and name == NEAREST)]
    found = {}
    for model in asked.models:
        found[model] = measured(model, asked.tokens, methods, asked.calib_seeds, texts)
        print(table_of(model, found[model]), flush=True)
        if asked.output is not None:
            asked.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
