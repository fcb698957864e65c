"""In-flight batching against static batches: the same requests, the same engine, the same kernels, one process.

    python benchmarks/inflight_gpu.py --shape llama3-8b            # 256 requests, 128-1024 tokens in, 32-256 out

The static side is what a server without in-flight batching does: requests are taken in groups in order of arrival, a
group runs until its longest output is done, and only then does the next one begin. Both sides count only tokens that
were asked for. On a machine without a GPU give ``--shape tiny``: it shows that the script runs, and says nothing about
speed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trtbench_lab.benchmark.serving import ServingRequest, run_serving
from trtbench_lab.benchmark.serving_result import ServingResult
from trtbench_lab.runtime.inflight.batcher import InflightBatcher
from trtbench_lab.runtime.inflight.executor_runner import block_bytes, step_runner_for, tokens_per_block_of
from trtbench_lab.runtime.inflight.pool import plan_pool
from trtbench_lab.runtime.inflight.stepper import StepLimits
from trtbench_lab.runtime.limits import EngineLimits
from trtbench_lab.specs import BenchConfig, BuildConfig, ModelConfig


def workload(count: int, vocab_size: int, scale: float, seed: int) -> list[ServingRequest]:
    """Requests of 128-1024 tokens in and 32-256 out, drawn evenly (both times `scale`)."""
    generator = np.random.default_rng(seed)
    requests = []
    for _ in range(count):
        length_in = max(2, int(generator.integers(128, 1025) * scale))
        length_out = max(2, int(generator.integers(32, 257) * scale))
        requests.append(ServingRequest(generator.integers(0, vocab_size, length_in).tolist(), length_out))
    return requests


def static_tokens_per_second(batcher: InflightBatcher, requests: list[ServingRequest], batch_size: int) -> float:
    """Run groups of `batch_size`, each to the end of its longest output; returns useful tokens a second."""
    started = time.perf_counter()
    for first in range(0, len(requests), batch_size):
        group = requests[first : first + batch_size]
        longest = max(request.output_length for request in group)
        sent = [(request.token_ids, None, {"max_new_tokens": longest, "end_id": -1}) for request in group]
        for handle in batcher.submit_all(sent):
            handle.result()
    return sum(request.output_length for request in requests) / (time.perf_counter() - started)


def batcher_of(args: argparse.Namespace) -> tuple[InflightBatcher, str]:
    """Return a running batch over an executor of random weights (or of an engine folder)."""
    longest = int(1280 * args.scale) + 8
    if args.engine:
        from trtbench_lab.engine import Engine

        engine = Engine.from_dir(Path(args.engine))
        executor: Any = engine.executor(0)
        name = engine.name
    else:
        executor, name = random_executor(args, longest), f"{args.shape}, random weights"
    tokens = tokens_per_block_of(executor, 64)
    pool = plan_pool(
        block_bytes=block_bytes(executor, tokens),
        tokens_per_block=tokens,
        max_batch_size=args.max_running,
        max_seq_len=longest,
        device=executor.device,
        fraction=0.8,
    )
    print(pool, flush=True)
    limits = StepLimits(
        args.max_running, args.step_tokens, pool.num_blocks, tokens, -(-longest // tokens), executor.config.vocab_size
    )
    engine_limits = EngineLimits(vocab_size=executor.config.vocab_size, max_seq_len=longest)
    # The same requests come several times: nothing of an earlier run may be found in the cache.
    return InflightBatcher(step_runner_for(executor, limits), engine_limits, reuse=False), name


def random_executor(args: argparse.Namespace, longest: int) -> Any:
    """Return the torch backend's paged executor over random weights on the device, without an engine folder."""
    from gpu_models import SHAPES, _random
    from trtbench_lab.backends.torch.gpu.kernel_store import KernelStore
    from trtbench_lab.backends.torch.gpu.tuning import ChoiceTable, tune
    from trtbench_lab.backends.torch.paged_executor import PagedTorchExecutor
    from trtbench_lab.network.paged import PagedDecoder
    from trtbench_lab.network.signature import PagedForm

    tiny = {**SHAPES["gpt2-medium"], "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ModelConfig(
        **{**SHAPES, "tiny": {**tiny, "dtype": "float32", "max_position_embeddings": 2048}}[args.shape]
    )
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    dtype = getattr(torch, config.dtype)
    with torch.device("meta"):
        decoder = PagedDecoder(config, config.mapping, max_positions=longest, form=PagedForm(args.block, None))
    torch.manual_seed(0)
    for module in decoder.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if device.type == "cuda":
                value = _random(name, parameter, dtype)
            else:
                value = torch.randn(parameter.shape) * (0.02 if parameter.ndim > 1 else 1.0)
            module._parameters[name] = torch.nn.Parameter(value, requires_grad=False)
    for name, table in decoder.rotary_tables().items():
        _set_buffer(decoder, name, table.to(device, torch.float32 if name == "kv_unit_scale" else dtype))
    build = BuildConfig(backend="torch", max_batch_size=args.max_running, max_seq_len=longest)
    weights = sum(parameter.nbytes for parameter in decoder.parameters())
    table = ChoiceTable()
    executor = PagedTorchExecutor(
        decoder, config, build, device, config.dtype, weights_bytes=weights, table=table, store=KernelStore()
    )
    if device.type == "cuda" and args.tune:
        began = time.perf_counter()
        tune(executor.steps().model, (1, 2, 4, 8, 16), args.tune, table)
        print(f"tuned in {time.perf_counter() - began:.1f} s", flush=True)
        executor.use_choices(table)
    return executor


def _set_buffer(decoder: torch.nn.Module, path: str, value: torch.Tensor) -> None:
    owner, _, name = path.rpartition(".")
    decoder.get_submodule(owner)._buffers[name] = value


def line(label: str, tokens_per_second: float, reference: float | None = None) -> None:
    ratio = "" if reference is None else f"   in-flight is x {reference / tokens_per_second:.2f}"
    print(f"{label:38s} {tokens_per_second:10.1f} output tokens/s{ratio}", flush=True)


def by_bucket(rows: np.ndarray, spans_ms: np.ndarray, blocks: np.ndarray, batcher: InflightBatcher) -> None:
    """Print the decode steps of each graph, and the bytes that they must read: weights once, and every held block."""
    from trtbench_lab.backends.torch.gpu.graphs import bucket_for

    runner: Any = batcher.runner
    weights = runner.memory().get("weights_bytes", 0)
    block = block_bytes(runner.executor, runner.limits.tokens_per_block)
    sizes = np.array([bucket_for(int(count), runner.limits.max_batch_size) for count in rows])
    for size in np.unique(sizes):
        here = sizes == size
        read = (weights + float(blocks[here].mean()) * block) / 1e9
        print(
            f"    graph of {size:3d} rows: {here.sum()} steps, {rows[here].mean():.0f} rows, "
            f"median {np.median(spans_ms[here]):.2f} ms for {read:.1f} GB",
            flush=True,
        )


def profile(result: ServingResult, batcher: InflightBatcher) -> None:
    """Say where the time of a run went: kinds of steps, and the host's share."""
    steps = result.steps
    known = np.array([0, *steps.known_ns]) / 1e6
    spans = np.diff(known)
    prompt = np.array(steps.prompt_tokens) > 0
    for label, mask in (("steps with prompts", prompt), ("decode steps", ~prompt)):
        if mask.any():
            rows = np.array(steps.decode_rows)[mask]
            taken_in = np.array(steps.prompt_tokens)[mask].sum()
            print(
                f"  {label}: {mask.sum()} in {spans[mask].sum():.0f} ms, median {np.median(spans[mask]):.2f} ms, "
                f"{taken_in} prompt tokens, {rows.sum()} decoded, {rows.mean():.0f} rows each"
            )
    if (~prompt).any():
        by_bucket(np.array(steps.decode_rows)[~prompt], spans[~prompt], np.array(steps.blocks_in_use)[~prompt], batcher)
    planning = np.array(steps.planning_ns) / 1e6
    median, p99 = np.median(planning), np.percentile(planning, 99)
    print(f"  planning: median {median:.3f} ms, p99 {p99:.3f} ms a step", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", help="engine folder, in place of random weights")
    parser.add_argument("--shape", default="llama3-8b")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all lengths, for trials")
    parser.add_argument("--max_running", type=int, default=256)
    parser.add_argument("--step_tokens", type=int, default=8192)
    parser.add_argument("--block", type=int, default=64, help="tokens a block")
    parser.add_argument("--tune", type=int, default=2, help="level of the search for kernels; 0: none")
    parser.add_argument("--static", default="8;32;64;128", help="sizes of static batches")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    if torch.cuda.is_available():
        print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    batcher, name = batcher_of(args)
    requests = workload(args.requests, batcher.engine_limits.vocab_size, args.scale, seed=0)
    tokens_in, tokens_out = sum(len(r.token_ids) for r in requests), sum(r.output_length for r in requests)
    print(f"{name}: {len(requests)} requests, {tokens_in} tokens in, {tokens_out} out", flush=True)
    config = BenchConfig(mode="serving", warm_up=0)
    run_serving(batcher, config, requests)  # every graph and kernel is made here
    results = [run_serving(batcher, config, requests, model=name) for _ in range(args.runs)]
    results.sort(key=lambda result: result.output_tokens_per_second or 0.0)
    median = results[len(results) // 2]
    print(median.line)
    profile(median, batcher)
    ours = median.output_tokens_per_second or 0.0
    line(f"in-flight, up to {args.max_running} running", ours)
    for size in (int(part) for part in args.static.split(";")):
        static = static_tokens_per_second(batcher, requests, min(size, args.max_running))
        line(f"static batches of {size}", static, ours)
    batcher.close()


if __name__ == "__main__":
    main()
