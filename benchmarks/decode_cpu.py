"""Decode speed on a CPU: engines of this project against Hugging Face generate, side by side in one process.

GPT-2 124M shape with random weights, prompt 64 + 64 new tokens, batch 1, greedy. Every round runs each side once, one
after the other, so that whatever else the machine does falls on all of them; ratios are taken round by round and the
median is quoted.

The read ceiling of a round is the best of three multi-threaded sums over 1.2 GB of float32. The share of it that
decoding reaches is taken round by round as well, from the round's best step, and the median is quoted; it counts the
bytes of the weights that a step must read: every linear layer and the head, not the embedding tables. (Above 100 %:
part of the weights stays in the processor's cache.)

    python benchmarks/decode_cpu.py --rounds 5 --threads 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from trtbench_lab.backends.protocol import Executor, QuietReporter
from trtbench_lab.backends.registry import backend
from trtbench_lab.calibration import calibration_tokens, quantize_model
from trtbench_lab.checkpoint import config_from_source, convert, open_checkpoint
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.quantization import quantize_checkpoint
from trtbench_lab.specs import BuildConfig, ModelConfig, QuantConfig

READ_BYTES = 1_200_000_000
SMOOTHQUANT = "SmoothQuant"
PAUSE_S = 0.2
"""Before each side: until then the threads of the one before spin, and would take a core from its prompt."""


@dataclass(frozen=True)
class Described:
    """What a builder reads of an engine folder."""

    pretrained_config: ModelConfig
    build_config: BuildConfig


@dataclass
class Side:
    """One contestant and its samples.

    Attributes
    ----------
    generate
        Runs the whole generation and returns (seconds to the first token, seconds in all, seconds of each step).
    step_bytes
        Weights that one decode step reads.
    """

    name: str
    generate: Callable[[torch.Tensor, int], tuple[float, float, list[float]]]
    step_bytes: int
    ttft_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    steps_s: list[list[float]] = field(default_factory=list)

    def run(self, prompt: torch.Tensor, num_new: int) -> None:
        ttft_s, total_s, steps_s = self.generate(prompt, num_new)
        self.ttft_s.append(ttft_s)
        self.total_s.append(total_s)
        self.steps_s.append(steps_s)


def engine_generate(
    executor: Executor, capacity: int
) -> Callable[[torch.Tensor, int], tuple[float, float, list[float]]]:
    """Return a bare greedy loop over `executor`: no runtime between the steps."""
    caches = {}
    for spec in executor.io:
        if spec.name.startswith("past_"):
            caches[spec.name] = torch.zeros(1, spec.shape[1], capacity, spec.shape[3])
    logits = torch.empty(1, 1, executor.config.vocab_size)

    def generate(prompt: torch.Tensor, num_new: int) -> tuple[float, float, list[float]]:
        started = time.perf_counter()
        write, last = torch.zeros(1, dtype=torch.int64), torch.tensor([[prompt.shape[1] - 1]])
        for name, tensor in {
            "input_ids": prompt,
            "write_indices": write,
            "logit_indices": last,
            "logits": logits,
        }.items():
            executor.bind(name, tensor)
        for name, tensor in caches.items():
            executor.bind(name, tensor)
        executor.run()
        token = torch.empty(1, 1, dtype=torch.int64)
        token[0, 0] = logits.argmax()
        ttft_s = time.perf_counter() - started
        executor.bind("input_ids", token)
        executor.bind("logit_indices", torch.zeros(1, 1, dtype=torch.int64))
        steps_s = []
        for position in range(prompt.shape[1], prompt.shape[1] + num_new - 1):
            before = time.perf_counter()
            write[0] = position
            executor.run()
            token[0, 0] = logits.argmax()
            steps_s.append(time.perf_counter() - before)
        return ttft_s, time.perf_counter() - started, steps_s

    return generate


def hf_generate(model: transformers.GPT2LMHeadModel) -> Callable[[torch.Tensor, int], tuple[float, float, list[float]]]:
    """Return Hugging Face's greedy generate with its default cache."""

    class Clock:
        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: torch.Tensor) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def generate(prompt: torch.Tensor, num_new: int) -> tuple[float, float, list[float]]:
        clock = Clock()
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=num_new,
                min_new_tokens=num_new,
                do_sample=False,
                pad_token_id=0,
                streamer=clock,
            )
        total_s = time.perf_counter() - started
        times = clock.times[1:]  # the first call hands over the prompt
        return times[0] - started, total_s, [b - a for a, b in itertools.pairwise(times)]

    return generate


def step_bytes(checkpoint_dir: Path) -> int:
    """Return the bytes of what a decode step multiplies by, in the engine's types (float32 where not packed)."""
    checkpoint = open_checkpoint(checkpoint_dir)
    weights = checkpoint.rank(0)
    total = 0
    for name in weights:
        tied_head = name == "transformer.vocab_embedding.weight" and checkpoint.config.share_embedding_table
        if "embedding" in name and not tied_head:
            continue
        tensor = weights[name]
        total += tensor.numel() * (1 if tensor.dtype == torch.int8 else 4)
    return total


def make_sides(folder: Path, args: argparse.Namespace) -> list[Side]:
    """Make the model, its checkpoints and its engines; print how long each took."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=args.layers, bos_token_id=None, eos_token_id=None, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder / "hf")
    source = open_hf_folder(folder / "hf")
    shared = config_from_source(source, dtype="float32", share_embedding_table=True)
    convert(source, folder / "float32", config=shared)
    variants: dict[str, QuantConfig | None] = {"float32": None}
    for algo, group_size in (("W8A16", None), ("W4A16", None), ("W4A16", 128)):
        name = f"{algo}{'' if group_size is None else f' group {group_size}'}"
        quantization = QuantConfig(quant_algo=algo, group_size=group_size, exclude_modules=())
        variants[name] = quantization
        quantize_checkpoint(source, folder / name, quantization)
    variants[SMOOTHQUANT] = QuantConfig(quant_algo="W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", exclude_modules=())
    rows = torch.randint(0, 50257, (2, 64), generator=torch.Generator().manual_seed(2)).tolist()
    text = calibration_tokens(rows, size=2, length=64)
    quantize_model(source, folder / SMOOTHQUANT, variants[SMOOTHQUANT], text, dtype="float32")
    sides = [Side("Hugging Face generate", hf_generate(model), step_bytes(folder / "float32"))]
    for backend_name in args.backends.split(","):
        builder = backend(backend_name)
        for name, quantization in variants.items():
            if backend_name == "torch" and quantization is not None and not args.torch_quantized:
                continue
            started = time.perf_counter()
            checkpoint_config = open_checkpoint(folder / name).config
            build_config = builder.resolve(checkpoint_config, BuildConfig(opt_level=args.opt_level)).build_config
            engine_dir = folder / f"{backend_name} {name}"
            engine_dir.mkdir()
            builder.build(folder / name, 0, build_config, engine_dir, QuietReporter())
            built = time.perf_counter()
            executor = builder.load(engine_dir, 0, Described(checkpoint_config, build_config), device="cpu")
            loaded = time.perf_counter()
            size = sum(path.stat().st_size for path in engine_dir.iterdir())
            print(
                f"{backend_name} {name}: built in {built - started:.1f} s, "
                f"loaded in {loaded - built:.2f} s, {size:,} bytes"
            )
            capacity = args.prompt + args.new
            sides.append(Side(f"{backend_name} {name}", engine_generate(executor, capacity), step_bytes(folder / name)))
    return sides


def main() -> None:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--opt_level", type=int, default=3)
    parser.add_argument("--backends", default="onnxruntime,torch")
    parser.add_argument("--torch_quantized", action="store_true", help="time the torch backend's quantized engines too")
    parser.add_argument("--json", type=Path, help="write the samples here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    prompt = torch.randint(0, 50257, (1, args.prompt), generator=torch.Generator().manual_seed(1))
    buffer = torch.ones(READ_BYTES // 4)
    with tempfile.TemporaryDirectory() as folder:
        sides = make_sides(Path(folder), args)
        for side in sides:
            side.generate(prompt, 8)  # the first run pages weights in
        ceilings = []
        for _ in range(args.rounds):
            rates = []
            for _ in range(3):
                started = time.perf_counter()
                buffer.sum()
                rates.append(READ_BYTES / (time.perf_counter() - started))
            ceilings.append(max(rates))
            for side in sides:
                time.sleep(PAUSE_S)
                side.run(prompt, args.new)
    report(sides, ceilings, args)


def report(sides: list[Side], ceilings: list[float], args: argparse.Namespace) -> None:
    """Print the table and write the samples."""
    baseline = sides[0]
    print(
        f"\n{args.threads} threads, {args.rounds} rounds, prompt {args.prompt} + {args.new} new, "
        f"read ceiling {min(ceilings) / 1e9:.1f} to {max(ceilings) / 1e9:.1f} GB/s; × are medians of paired ratios"
    )
    print(
        f"{'':26}{'tokens/s':>9}{'× HF':>7}{'TTFT ms':>9}{'× HF':>7}{'step ms':>9}{'× HF':>7}{'% of read ceiling':>19}"
    )
    for side in sides:
        steps = [statistics.median(steps) for steps in side.steps_s]
        ratios = [
            statistics.median(theirs / ours for theirs, ours in zip(baseline_values, values, strict=True))
            for baseline_values, values in (
                (baseline.total_s, side.total_s),
                (baseline.ttft_s, side.ttft_s),
                ([statistics.median(steps) for steps in baseline.steps_s], steps),
            )
        ]
        share = statistics.median(
            side.step_bytes / min(steps) / ceiling for steps, ceiling in zip(side.steps_s, ceilings, strict=True)
        )
        print(
            f"{side.name:26}{args.new / statistics.median(side.total_s):9.1f}{ratios[0]:7.2f}"
            f"{1e3 * statistics.median(side.ttft_s):9.1f}{ratios[1]:7.2f}{1e3 * statistics.median(steps):9.2f}"
            f"{ratios[2]:7.2f}{100 * share:19.0f}"
        )
    if args.json:
        samples = [
            {"name": s.name, "step_bytes": s.step_bytes, "ttft_s": s.ttft_s, "total_s": s.total_s, "steps_s": s.steps_s}
            for s in sides
        ]
        args.json.write_text(json.dumps({"read_bytes_per_s": ceilings, "threads": args.threads, "sides": samples}))


if __name__ == "__main__":
    main()
