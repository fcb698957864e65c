#!/usr/bin/env python
"""Make the demo corpus and the demo models that ship with the package.

    python scripts/make_demo.py corpus                       the shipped validation and test splits
    python scripts/make_demo.py all --family gpt2            corpus, tokenizer, training, scores, model card
    python scripts/make_demo.py evaluate --family llama --out src/trtbench_lab/demo/llama

Without --out everything goes to build/demo/. The shipped models were trained on one GPU with the defaults of
`--device cuda`; on a CPU the defaults are smaller, and the script says what to expect before it starts.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from trtbench_lab.demo.corpus import SPLITS, make_records, write_records
from trtbench_lab.demo.corpus.generator import DEFAULT_SEED

if TYPE_CHECKING:  # torch takes seconds to import, and the step `corpus` does without
    import torch

    from demo_recipe.dataset import PackedRows

# Copying sets in after some 700 steps of 64 rows with learned positions, 1,500 with RoPE; the rest makes it sure.
GPU_STEPS = {"gpt2": 8_000, "llama": 12_000}
# 3,000 steps of 8 rows took GPT-2 to 99 % entity accuracy; with RoPE they did not reach copying, so it gets more.
CPU_STEPS = {"gpt2": 3_000, "llama": 12_000}
STORIES = {"cuda": 600_000, "cpu": 40_000}
BATCH_ROWS = {"cuda": 64, "cpu": 8}
CPU_TOKENS_PER_CORE_SECOND = 900  # measured on a server core, float32
SHIPPED_RECORDS = 200


def main(argv: list[str] | None = None) -> int:
    """Run one step of the recipe, or all of them."""
    args = _parser().parse_args(argv)
    if args.step == "corpus":
        _make_corpus(args, Path(args.out or "build/demo/corpus"))
        return 0
    out = Path(args.out or f"build/demo/{args.family}")
    if args.step == "all":
        _make_corpus(args, out.parent / "corpus")
    if args.step in ("tokenizer", "all"):
        _make_tokenizer(args, out)
    if args.step in ("train", "all"):
        _train(args, out)
    if args.step in ("evaluate", "all"):
        _evaluate(args, out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("corpus", "tokenizer", "train", "evaluate", "all"))
    parser.add_argument("--family", choices=("gpt2", "llama"), default="gpt2", help="architecture of the model")
    parser.add_argument("--out", help="folder to write to (default: build/demo/FAMILY, for corpus build/demo/corpus)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="seed of corpus, weights and order of rows")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--steps", type=int, help="training steps (GPU: 8,000, CPU: 3,000, for llama 12,000 on both)")
    parser.add_argument("--stories", type=int, help="stories to train on (GPU: 600,000, CPU: 40,000)")
    parser.add_argument("--batch-rows", type=int, help="rows of 1,024 tokens a step (GPU: 64, CPU: 8)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that write stories")
    parser.add_argument("--cache", help="folder that keeps the packed training rows for the next run")
    parser.add_argument("--tokenizer", help="folder of a tokenizer to take over instead of training one")
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=["validation", "test"], help="splits for corpus")
    parser.add_argument("--records", type=int, default=SHIPPED_RECORDS, help="records of each split, written or scored")
    parser.add_argument("--show", type=int, default=3, help="held-out summaries to print after scoring")
    return parser


def _make_corpus(args: argparse.Namespace, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for split in args.split:
        path = out / f"{split}.jsonl"
        num_records = write_records(path, make_records(split, args.records, seed=args.seed))
        print(f"{path}: {num_records:,} records, {path.stat().st_size:,} bytes")


def _make_tokenizer(args: argparse.Namespace, out: Path) -> None:
    from demo_recipe.tokenizer import train_tokenizer

    if args.tokenizer:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(Path(args.tokenizer) / name, out / name)
        return
    started = time.perf_counter()
    tokenizer = train_tokenizer(out, seed=args.seed)
    print(f"{out}: tokenizer of {len(tokenizer):,} pieces in {time.perf_counter() - started:.1f} s")


def _train(args: argparse.Namespace, out: Path) -> None:
    import torch
    from transformers import AutoTokenizer, GenerationConfig

    from demo_recipe.architecture import new_model
    from demo_recipe.card import update_facts
    from demo_recipe.dataset import PADDING, PROSE_EVERY
    from demo_recipe.tokenizer import MAX_POSITIONS
    from demo_recipe.training import TrainingPlan, train

    device = _device(args.device)
    stories = args.stories or STORIES[device.type]
    plan = TrainingPlan(
        steps=args.steps or (GPU_STEPS if device.type == "cuda" else CPU_STEPS)[args.family],
        batch_rows=args.batch_rows or BATCH_ROWS[device.type],
        seed=args.seed,
    )
    if device.type == "cpu":
        cores = torch.get_num_threads()
        hours = plan.steps * plan.batch_rows * MAX_POSITIONS / CPU_TOKENS_PER_CORE_SECOND / cores / 3600
        print(
            f"Training on a CPU takes about {hours:.1f} hours on {cores} cores. "
            "The shipped models saw 8 to 20 times as much text as the CPU defaults give, in minutes on a GPU."
        )
    # Worker processes are forked before the GPU is touched.
    rows = _rows(args, out, stories)
    tokenizer = AutoTokenizer.from_pretrained(out)
    torch.manual_seed(args.seed)
    model = new_model(args.family, tokenizer.eos_token_id)
    report = train(model, rows, plan, device)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.to(torch.float16).cpu().save_pretrained(out)
    update_facts(
        out,
        family=args.family,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        stories=stories,
        prose_pieces=-(-stories // PROSE_EVERY),
        train_tokens=int((rows.parts != PADDING).sum()),
        steps=plan.steps,
        batch_rows=plan.batch_rows,
        epochs=plan.steps * plan.batch_rows / len(rows.tokens),
        peak_rate=plan.peak_rate,
        weight_decay=plan.weight_decay,
        hardware=f"one {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "a CPU",
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        seed=args.seed,
        command=f"python scripts/make_demo.py all --family {args.family} --device {device.type} "
        f"--steps {plan.steps} --stories {stories} --batch-rows {plan.batch_rows} --seed {args.seed}",
        **report,
    )


def _rows(args: argparse.Namespace, out: Path, stories: int) -> PackedRows:
    import numpy as np

    from demo_recipe.dataset import PackedRows, build_rows

    tokenizer_mark = zlib.crc32((out / "tokenizer.json").read_bytes())
    kept = Path(args.cache) / f"rows-{stories}-{args.seed}-{tokenizer_mark:08x}.npz" if args.cache else None
    if kept is not None and kept.is_file():
        with np.load(kept) as arrays:
            return PackedRows(arrays["tokens"], arrays["parts"])
    started = time.perf_counter()
    rows = build_rows(out / "tokenizer.json", split="train", num_records=stories, seed=args.seed, workers=args.workers)
    print(f"{stories:,} stories in {len(rows.tokens):,} rows after {time.perf_counter() - started:.1f} s", flush=True)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, tokens=rows.tokens, parts=rows.parts)
    return rows


def _evaluate(args: argparse.Namespace, out: Path) -> None:
    from demo_recipe.card import read_facts, update_facts, write_card
    from demo_recipe.scoring import continuations, score

    device = _device(args.device)
    scores, samples = {}, []
    for split in ("validation", "test"):
        records = list(make_records(split, args.records, seed=args.seed))
        scores[split], summaries = score(out, records, device)
        print(split, "  ".join(f"{name} {value:.4g}" for name, value in scores[split].items()), flush=True)
        if split == "test":
            pairs = zip(records, summaries, strict=True)
            samples = [{**record, "summary": summary} for record, summary in pairs][: args.show]
    for sample in samples:
        print(f"\nreference: {sample['highlights']}\nsummary:   {sample['summary']}")
    prose = continuations(out, device)
    for prompt, text in prose.items():
        print(f"\n{prompt} ...{text}")
    if read_facts(out):
        update_facts(out, scores=scores, sample=samples[0] if samples else None, prose=prose)
        print(f"\n{write_card(out)}")


def _device(name: str) -> torch.device:
    import torch

    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


if __name__ == "__main__":
    sys.exit(main())
