"""Decoding on a GPU: the fused engine against Hugging Face on random weights, and against what the memory allows.

``python benchmarks/gpu_decode.py --row gpt2-medium-b1`` (one of `ROWS`, or ``all``). The floor of a decode step is the
bytes it must read (weights and visible keys and values) over the copy rate measured in the same run; the floor of a
prompt is its arithmetic over the measured rate of a large matrix product.

``--hf_only --hf_compile --row llama3-8b-b16,llama3-8b-b64`` measures Hugging Face alone, eager and with static cache
and compilation (about a minute a row to compile), and says what it took to compile.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from gpu_models import SHAPES, hf_model, random_lowered
from trtbench_lab.backends.torch.gpu.lowered import LoweredModel
from trtbench_lab.backends.torch.gpu.memory_plan import CachePlan
from trtbench_lab.backends.torch.gpu.session import FusedSession
from trtbench_lab.backends.torch.gpu.step import Steps
from trtbench_lab.backends.torch.gpu.tuning import TOKEN_COUNTS, ChoiceTable, tune
from trtbench_lab.specs import QuantConfig

BLOCK = 64


@dataclass(frozen=True)
class Row:
    """One line of the table: a shape, a batch, lengths, quantization, and the goal in ms a token (or another unit)."""

    shape: str
    batch: int
    prompt: int
    new: int
    goal: str
    quant: QuantConfig | None = None


SMOOTHQUANT = "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"
WHOLE: dict[str, Any] = {"exclude_modules": ()}
ROWS = {
    "gpt2-medium-b1": Row("gpt2-medium", 1, 900, 100, "ITL <= 0.42 ms"),
    "gpt2-medium-b8": Row("gpt2-medium", 8, 900, 100, "ITL <= 0.60 ms"),
    "llama3-8b-b1": Row("llama3-8b", 1, 512, 128, "ITL <= 4.0 ms"),
    "llama3-8b-b16": Row("llama3-8b", 16, 512, 128, "ITL <= 4.9 ms; TTFT <= 200 ms"),
    "llama3-8b-b64": Row("llama3-8b", 64, 512, 128, ">= 10,500 tokens/s"),
    # The head is quantized too, as in the figures these goals were set by.
    "llama3-8b-int8-b1": Row("llama3-8b", 1, 512, 128, "ITL <= 2.5 ms", QuantConfig(quant_algo="W8A16", **WHOLE)),
    "llama3-8b-int4-b1": Row(
        "llama3-8b", 1, 512, 128, "ITL <= 1.7 ms", QuantConfig(quant_algo="W4A16", group_size=128, **WHOLE)
    ),
    "llama3-8b-fp8-b1": Row("llama3-8b", 1, 512, 128, "ITL <= 2.5 ms", QuantConfig(quant_algo="FP8", **WHOLE)),
    "llama3-8b-fp8-b64": Row("llama3-8b", 64, 512, 128, "TTFT <= BF16's / 1.5", QuantConfig(quant_algo="FP8")),
    "llama3-8b-sq-b64": Row("llama3-8b", 64, 512, 128, "TTFT <= BF16's / 1.5", QuantConfig(quant_algo=SMOOTHQUANT)),
}


def copy_rate() -> float:
    """Bytes a second of a large copy on the device, read and written bytes together."""
    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source))


def matrix_rate(dtype: torch.dtype) -> float:
    """FLOP a second of a large matrix product on random data."""
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: a @ b)


def _seconds(run: Any, repeats: int = 10) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def session_for(model: LoweredModel, row: Row, level: int, verbose: bool) -> FusedSession:
    """Return a session whose products were timed for this row's batch."""
    table = ChoiceTable()
    count = next((tokens for tokens in TOKEN_COUNTS if tokens >= row.batch), TOKEN_COUNTS[-1])
    tune(model, (count,), level, table, log=print if verbose else lambda line: None)
    longest = row.prompt + row.new
    columns = -(-longest // BLOCK)
    plan = CachePlan(BLOCK, columns, row.batch * columns + 1, 0, model.dtype, "")
    return FusedSession(Steps(model, table.choose), plan, max_rows=row.batch, max_tokens=longest)


def generate(session: FusedSession, prompts: list[list[int]], new: int, ahead: int = 4) -> tuple[float, list[float]]:
    """Return the time to the first token, and the gaps between tokens as the host sees them, in milliseconds."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    session.start(prompts, new)
    tickets = [session.greedy()]
    marks: list[float] = []
    while len(marks) < new:
        while len(tickets) < min(new, len(marks) + ahead):
            tickets.append(session.greedy())
        tickets[len(marks)].tokens()
        marks.append(time.perf_counter())
    gaps = [(b - a) * 1e3 for a, b in pairwise(marks)]
    return (marks[0] - began) * 1e3, gaps


def prompts_of(row: Row) -> list[list[int]]:
    """Return a row's prompts: random ids."""
    generator = torch.Generator().manual_seed(0)
    vocab_size = SHAPES[row.shape]["vocab_size"]
    return torch.randint(0, vocab_size, (row.batch, row.prompt), generator=generator).tolist()


def run_row(name: str, row: Row, *, hf: bool, hf_compile: bool, level: int, verbose: bool, bandwidth: float) -> None:
    """Measure one row and print it."""
    print(f"== {name} (goal: {row.goal})")
    model = random_lowered(row.shape, quant=row.quant, positions=row.prompt + row.new)
    session = session_for(model, row, level, verbose)
    prompts = prompts_of(row)
    generate(session, prompts, row.new)
    ttfts, itls = [], []
    for _ in range(5):
        ttft, gaps = generate(session, prompts, row.new)
        ttfts.append(ttft)
        itls.append(sum(gaps) / len(gaps))
    itl, ttft = statistics.median(itls), statistics.median(ttfts)
    weights = sum(p.nbytes for layer in model.layers for p in (layer.qkv, layer.dense, layer.fc, layer.proj))
    weights += model.head.nbytes
    config = model.config
    token_bytes = config.num_hidden_layers * 2 * config.kv_heads * config.head_width * model.dtype.itemsize
    cache = row.batch * (row.prompt + row.new / 2) * token_bytes
    floor = (weights + cache) / bandwidth * 1e3
    print(
        f"engine: ITL {itl:.3f} ms (spread {min(itls):.3f}-{max(itls):.3f}), {row.batch * 1e3 / itl:,.0f} tokens/s, "
        f"TTFT {ttft:.1f} ms; floor {floor:.3f} ms = {weights / 1e9:.2f} GB weights + {cache / 1e9:.2f} GB cache; "
        f"{100 * floor / itl:.0f} % of it reached"
    )
    if row.prompt * row.batch >= 4096:
        layers = [p for layer in model.layers for p in (layer.qkv, layer.dense, layer.fc, layer.proj)]
        linear = sum((1 if p.gate is None else 2) * p.weights.out_features * p.weights.in_features for p in layers)
        rate = matrix_rate(model.dtype)
        arithmetic = 2 * linear * row.prompt * row.batch / rate * 1e3
        print(f"prompt {row.batch} x {row.prompt} tokens, floor {arithmetic:.1f} ms at {rate / 1e12:,.0f} TFLOP/s "
              f"in 16 bits; {100 * arithmetic / ttft:.0f} % of it reached")  # fmt: skip
    session.close()
    del session, model
    torch.cuda.empty_cache()
    if hf and row.quant is None:
        run_hf(row, hf_compile=hf_compile, ours=(itl, ttft))


def run_hf(row: Row, *, hf_compile: bool, ours: tuple[float, float] | None = None) -> None:
    """Measure Hugging Face on a row, eager and, where it is wanted, compiled; `ours` are ITL and TTFT to compare."""
    _run_hf(row, compiled=False, ours=ours)
    if hf_compile:
        torch.cuda.empty_cache()
        # Compiled graphs keep and overwrite tensors, which those of inference mode do not allow outside of it.
        with torch.inference_mode(False), torch.no_grad():
            _run_hf(row, compiled=True, ours=ours)
        torch.compiler.reset()
    torch.cuda.empty_cache()


def _run_hf(row: Row, *, compiled: bool, ours: tuple[float, float] | None) -> None:
    model = hf_model(row.shape)
    ids = torch.tensor(prompts_of(row), device=model.device)
    options: dict[str, Any] = {"do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    if compiled:
        options["cache_implementation"] = "static"

    def timed(new: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(ids, max_new_tokens=new, min_new_tokens=new, **options)
        torch.cuda.synchronize()
        return (time.perf_counter() - began) * 1e3

    cold = timed(row.new)
    timed(row.new)
    whole = statistics.median(timed(row.new) for _ in range(3))
    first = statistics.median(timed(1) for _ in range(3))
    itl = (whole - first) / (row.new - 1)
    kind = "static cache + compile" if compiled else "eager"
    times = "" if ours is None else f"; {itl / ours[0]:.1f} x the engine's ITL, {first / ours[1]:.1f} x its TTFT"
    print(
        f"Hugging Face {kind}: ITL {itl:.2f} ms, {row.batch * 1e3 / itl:,.0f} tokens/s, TTFT {first:.1f} ms; the first "
        f"call took {(cold - whole) / 1e3:.0f} s longer{times}",
        flush=True,
    )


def run_summarise(*, level: int, articles: int = 20, prompt: int = 900, new: int = 100) -> None:
    """The summarisation run's shape: articles one at a time, 100 new tokens, Hugging Face's time over the engine's."""
    row = Row("gpt2-medium", 1, prompt, new, ">= 15 x")
    print(f"== summarise (goal: {row.goal})")
    model = random_lowered(row.shape, positions=prompt + new)
    session = session_for(model, row, level, False)
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(500, prompt + 1, (articles,), generator=generator).tolist()
    texts = [torch.randint(0, model.config.vocab_size, (length,), generator=generator).tolist() for length in lengths]
    generate(session, [texts[0]], new)
    began = time.perf_counter()
    for text in texts:
        generate(session, [text], new)
    ours = time.perf_counter() - began
    session.close()
    del session, model
    hf = hf_model(row.shape)
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": new, "min_new_tokens": new}
    theirs = 0.0
    for number, text in enumerate([texts[0], *texts]):
        ids = torch.tensor([text], device="cuda")
        torch.cuda.synchronize()
        began = time.perf_counter()
        hf.generate(ids, attention_mask=torch.ones_like(ids), **options)
        torch.cuda.synchronize()
        theirs += (time.perf_counter() - began) if number else 0.0
    print(
        f"engine {ours:.2f} s, Hugging Face {theirs:.2f} s: {theirs / ours:.1f} x, {articles * new / ours:,.0f} tok/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", default="all", help=f"all, summarise, or of {', '.join(ROWS)}; several with commas")
    parser.add_argument("--no_hf", action="store_true", help="leave Hugging Face out")
    parser.add_argument("--hf_compile", action="store_true", help="also Hugging Face with static cache and compile")
    parser.add_argument("--hf_only", action="store_true", help="leave the engine out")
    parser.add_argument("--opt_level", type=int, default=5)
    parser.add_argument("--verbose", action="store_true", help="print every timing of the kernels")
    options = parser.parse_args()
    names = [*ROWS, "summarise"] if options.row == "all" else options.row.split(",")
    bandwidth = copy_rate()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; copy {bandwidth / 1e12:.2f} TB/s")
    for name in names:
        if name == "summarise":
            run_summarise(level=options.opt_level)
            continue
        if options.hf_only:
            print(f"== {name} ({ROWS[name]})", flush=True)
            run_hf(ROWS[name], hf_compile=options.hf_compile)
            continue
        run_row(
            name,
            ROWS[name],
            hf=not options.no_hf,
            hf_compile=options.hf_compile,
            level=options.opt_level,
            verbose=options.verbose,
            bandwidth=bandwidth,
        )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
