"""What the Python runtime adds to each token, over the executor run in a bare loop.

    python benchmarks/runtime_overhead.py [--engine DIR] [--backend onnxruntime] [--precision fp32] [--rounds 7]

Without ``--engine`` the GPT-2 124M shape is built with random weights (`--folder` keeps it for the next time). Prompt
64, 64 new tokens, batch 1. In each round the bare loop (tensors bound once; run, add 1 to the length) and
`ModelRunner.generate` in several modes take turns, so that a change of the machine's speed meets all of them. Quoted
are medians over all decode steps; each mode's ratio to the bare loop, as the median of the rounds' ratios; and,
measured inside `generate` itself, the part of a token's time that is spent outside the executor's `run`. On a busy
machine only that last figure is steady.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from convert import SHAPE, write_model
from trtbench_lab.checkpoint import config_from_source, convert
from trtbench_lab.engine import Engine, build
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.quantization.checkpoint import quantize_checkpoint
from trtbench_lab.runtime import HFRunner, ModelRunner
from trtbench_lab.specs import BuildConfig, QuantConfig

PROMPT, NEW = 64, 64
QUANTIZATION = {
    "fp32": None,
    "int8": QuantConfig(quant_algo="W8A16", exclude_modules=[]),
    "int4": QuantConfig(quant_algo="W4A16", group_size=32, exclude_modules=[]),
}


def build_engine(folder: Path, backend: str, precision: str) -> Engine:
    """Return the engine of the GPT-2 124M shape, built in `folder` unless it is there."""
    engine_dir = folder / f"engine-{backend}-{precision}"
    if (engine_dir / "config.json").is_file():
        return Engine.from_dir(engine_dir)
    source_dir = folder / "hf"
    if not source_dir.is_dir():
        write_model(source_dir, SHAPE)
    checkpoint = folder / f"checkpoint-{precision}"
    if not checkpoint.is_dir():
        source = open_hf_folder(source_dir)
        quantization = QUANTIZATION[precision]
        if quantization is None:
            convert(source, checkpoint, config=config_from_source(source, "float32"))
        else:
            quantize_checkpoint(source, checkpoint, quantization, dtype="float32")
    return build(checkpoint, BuildConfig(backend=backend, max_batch_size=1, max_input_len=512), engine_dir)


def bare_steps_ms(executor: object, prompt: list[int]) -> list[float]:
    """Time each run of the executor alone, over a cache and buffers bound once."""
    config = executor.config
    capacity = -(-(PROMPT + NEW) // 32) * 32
    caches = {
        spec.name: torch.zeros(1, spec.shape[1], capacity, spec.shape[3], dtype=getattr(torch, spec.dtype))
        for spec in executor.io
        if spec.name.startswith("past_")
    }
    lengths = torch.zeros(1, dtype=torch.int64)
    ids, logits = torch.tensor([prompt]), torch.empty(1, 1, config.vocab_size)
    bound = {**caches, "write_indices": lengths, "input_ids": ids, "logits": logits}
    for name, tensor in {**bound, "logit_indices": torch.tensor([[PROMPT - 1]])}.items():
        executor.bind(name, tensor)
    executor.guards_writes = False
    executor.run()
    lengths.fill_(PROMPT)
    executor.bind("input_ids", torch.tensor([[1]]))
    executor.bind("logit_indices", torch.tensor([[0]]))
    steps = []
    for _ in range(NEW - 1):
        began = time.perf_counter_ns()
        executor.run()
        lengths.add_(1)
        steps.append((time.perf_counter_ns() - began) / 1e6)
    return steps


class RunTimer:
    """Stands in for an executor's `run` and keeps how long each took."""

    def __init__(self, executor: object) -> None:
        self._run = executor.run
        self.taken_ms: list[float] = []
        executor.run = self

    def __call__(self) -> None:
        began = time.perf_counter_ns()
        self._run()
        self.taken_ms.append((time.perf_counter_ns() - began) / 1e6)


def modes(runner: ModelRunner, prompt: list[int]) -> dict[str, Callable[[], list[float]]]:
    """Return what is measured besides the bare loop: each gives the gaps between tokens in ms."""

    def plain(**options: object) -> list[float]:
        return runner.generate([prompt], max_new_tokens=NEW, **options)["timing"].inter_token_ms

    def streamed() -> list[float]:
        *_, outputs = runner.generate([prompt], max_new_tokens=NEW, streaming=True)
        return outputs["timing"].inter_token_ms

    return {
        "greedy": plain,
        "greedy with end token": lambda: plain(end_id=[SHAPE["vocab_size"] - 1], min_length=NEW),
        "streaming": streamed,
        "top_k 50": lambda: plain(top_k=50, temperature=0.8),
        "top_p 0.9": lambda: plain(top_k=0, top_p=0.9),
        "penalties": lambda: plain(repetition_penalty=1.2, frequency_penalty=0.1),
    }


def main() -> int:
    """Print one line a mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, help="an engine folder, in place of building one")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="fp32", choices=sorted(QUANTIZATION))
    parser.add_argument("--folder", type=Path, help="where model, checkpoint and engine are kept")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--hf", action="store_true", help="measure Hugging Face's generate too (its model is in --folder)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        engine = (
            Engine.from_dir(options.engine)
            if options.engine
            else build_engine(folder, options.backend, options.precision)
        )
        prompt = torch.randint(0, SHAPE["vocab_size"], (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
        executor = engine.executor()
        with ModelRunner.from_engine(engine) as runner:
            measured = modes(runner, prompt)
            if options.hf:
                hf = HFRunner.from_dir(folder / "hf")
                measured["Hugging Face"] = lambda: hf.generate([prompt], max_new_tokens=NEW)["timing"].inter_token_ms
            timer = RunTimer(runner.session.executor)
            report(executor, timer, prompt, measured, options.rounds, f"{engine.config.backend} {options.precision}")
    return 0


def report(
    executor: object,
    timer: RunTimer,
    prompt: list[int],
    measured: dict[str, Callable[[], list[float]]],
    rounds: int,
    label: str,
) -> None:
    """Take turns for `rounds` rounds and print medians and ratios."""
    bare: list[list[float]] = []
    gaps: dict[str, list[list[float]]] = {name: [] for name in measured}
    outside_us: dict[str, list[float]] = {name: [] for name in measured}
    for round_number in range(rounds + 1):
        for name, run in measured.items():
            timer.taken_ms.clear()
            steps = run()
            if round_number:  # the first round warms up
                gaps[name].append(steps)
                decoded = timer.taken_ms[-len(steps) :]
                outside_us[name] += [1e3 * (gap - taken) for gap, taken in zip(steps, decoded, strict=False)]
        alone = bare_steps_ms(executor, prompt)
        if round_number:
            bare.append(alone)
    floor = statistics.median(step for steps in bare for step in steps)
    print(f"GPT-2 124M shape, {label}, prompt {PROMPT} + {NEW} new, {rounds} rounds, {torch.get_num_threads()} threads")
    print(f"{'bare executor':24} {floor:8.3f} ms a token")
    for name, runs in gaps.items():
        ratios = [statistics.median(run) / statistics.median(alone) for run, alone in zip(runs, bare, strict=True)]
        median = statistics.median(step for run in runs for step in run)
        extra = 100 * (statistics.median(ratios) - 1)
        outside = statistics.median(outside_us[name]) if outside_us[name] else None
        share = (
            ""
            if outside is None
            else f"   outside run: {outside:7.1f} us, {outside / (10 * floor):5.2f} % of the floor"
        )
        print(f"{name:24} {median:8.3f} ms a token   {extra:+7.2f} %{share}")


if __name__ == "__main__":
    sys.exit(main())
