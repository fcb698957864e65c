"""Tensor parallelism on GPUs of one host: sums over ranks, ours against NCCL's, and decode steps of large shapes.

``torchrun --nproc-per-node 4 benchmarks/mpi_gpu.py sums`` or ``decode --shape llama3-8b --tp 2``. Weights are random;
every rank holds its own part. Rank 0 prints one JSON line a row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist

from gpu_models import SHAPES, random_lowered
from trtbench_lab.backends.torch.gpu.memory_plan import CachePlan
from trtbench_lab.backends.torch.gpu.session import FusedSession
from trtbench_lab.backends.torch.gpu.step import Steps
from trtbench_lab.backends.torch.gpu.tuning import TOKEN_COUNTS, ChoiceTable, tune
from trtbench_lab.ranks import communicator_for, launched
from trtbench_lab.specs import Mapping

BLOCK = 64
SUMS_KIB = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
IN_A_GRAPH = 50


def say(**row: Any) -> None:
    """Print a row on rank 0."""
    if launched().rank == 0:
        print(json.dumps(row), flush=True)


def graph_us(body: Any) -> float:
    """Microseconds of one of `IN_A_GRAPH` calls in a replayed graph: the median of 20 replays."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        body()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            for _ in range(IN_A_GRAPH):
                body()
        times = []
        for _ in range(23):
            dist.barrier()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1000 / IN_A_GRAPH)
    return statistics.median(times[3:])


def sums(tp: int) -> None:
    """Time sums of bfloat16 by size, within graphs, and hold ours against NCCL's."""
    ranks: Any = communicator_for(Mapping(tp_size=tp))
    one_shot, group = ranks.one_shot, ranks._group
    rank = ranks.mapping.rank
    kind = "none" if one_shot is None else one_shot.memory.kind
    say(row="custom all-reduce", tp=tp, memory=kind)
    for kib in SUMS_KIB:
        x = torch.randn(kib * 512, device=ranks.device, dtype=torch.bfloat16)
        parts = [torch.empty_like(x) for _ in range(tp)]
        dist.all_gather(parts, x, group=group)
        expected = torch.stack(parts).float().sum(0)
        row: dict[str, Any] = {"row": "sum", "tp": tp, "kib": kib}
        if one_shot is not None and one_shot.takes(x):
            got = one_shot.all_reduce(x.clone())
            wrong = int((got != expected.to(torch.bfloat16)).sum())
            row["ours_wrong"] = wrong
            same = [torch.empty_like(got) for _ in range(tp)]
            dist.all_gather(same, got, group=group)
            row["same_bits"] = all(torch.equal(one, got) for one in same)
            y, z = x.clone().zero_(), torch.zeros_like(x)
            row["ours_us"] = round(graph_us(lambda y=y: one_shot.all_reduce(y)), 2)
            row["ours_with_residual_us"] = round(graph_us(lambda y=y, z=z: one_shot.all_reduce(y, z)), 2)
        w = torch.zeros_like(x)
        row["nccl_us"] = round(graph_us(lambda w=w: dist.all_reduce(w, group=group)), 2)
        if "ours_us" in row:
            row["ratio"] = round(row["ours_us"] / row["nccl_us"], 3)
        say(**row, rank=rank)


def decode(shape: str, tp: int, batch: int, prompt: int, new: int) -> None:
    """Time prompt and decode steps of one shape: with our sums where there are several ranks, then with NCCL's."""
    launch = launched()
    ranks: Any = communicator_for(Mapping(tp_size=tp)) if tp > 1 else None
    mapping = Mapping(tp_size=tp, rank=launch.rank)
    torch.cuda.set_device(launch.local_rank or 0)
    torch.manual_seed(launch.rank)
    model = random_lowered(shape, positions=prompt + new, mapping=mapping, communicator=ranks)
    weights_gb = torch.cuda.memory_allocated() / 1e9
    table = ChoiceTable()
    began = time.monotonic()
    counts = sorted({1, next((count for count in TOKEN_COUNTS if count >= batch), 128)}) if batch > 1 else [1]
    tune(model, counts, 2, table)
    if tp > 1:  # ranks have alike products; one table serves all
        found: list[Any] = [table.to_dict()]
        dist.broadcast_object_list(found, 0)
        table = ChoiceTable.from_dict(found[0])
    tuned_s = round(time.monotonic() - began, 1)
    steps = Steps(model, table.choose)
    kinds = ["one"] if ranks is None else ["nccl"] if ranks.one_shot is None else ["ours", "nccl"]
    for kind in kinds:
        if kind == "nccl":
            ranks.one_shot = None
        row = measured(steps, tp, batch, prompt, new)
        say(row="decode", shape=shape, tp=tp, sums=kind, **row, tuning_s=tuned_s, weights_gb=round(weights_gb, 2))


def measured(steps: Steps, tp: int, batch: int, prompt: int, new: int) -> dict[str, Any]:
    """Run a batch three times; the best of the last two."""
    model, heads = steps.model, steps.heads
    row_blocks = -(-(prompt + new) // BLOCK)
    block_bytes = len(model.layers) * 2 * heads.num_kv_heads * BLOCK * heads.head_size * model.dtype.itemsize
    plan = CachePlan(BLOCK, row_blocks, batch * row_blocks + 1, block_bytes, model.dtype, "")
    session = FusedSession(steps, plan, max_rows=batch, max_tokens=prompt + new)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(0, model.config.vocab_size, (batch, prompt), generator=generator).tolist()
    itl, ttft, total = [], [], []
    seen: list[Any] = []
    with torch.inference_mode():
        for run in range(3):
            torch.cuda.synchronize()
            if tp > 1:
                dist.barrier()
            start = time.perf_counter()
            session.start(prompts, new)
            tickets, times, seen = [session.greedy()], [], []
            submitted = 1
            for _ in range(new):
                while len(tickets) < 4 and submitted < new:
                    tickets.append(session.greedy())
                    submitted += 1
                seen.append(tickets.pop(0).tokens())
                times.append(time.perf_counter())
            if run:
                ttft.append(times[0] - start)
                itl.append(statistics.median(after - before for before, after in pairwise(times[4:])))
                total.append(times[-1] - start)
    alike = True
    if tp > 1:
        everybody: list[Any] = [None] * tp
        dist.all_gather_object(everybody, seen)
        alike = all(one == everybody[0] for one in everybody)
    session.close()
    return {
        "batch": batch,
        "prompt": prompt,
        "new": new,
        "itl_ms": round(1000 * min(itl), 3),
        "ttft_ms": round(1000 * min(ttft), 1),
        "tokens_per_s": round(batch * new / min(total), 1),
        "ranks_alike": alike,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("sums", "decode"))
    parser.add_argument("--shape", choices=tuple(SHAPES), default="llama3-8b")
    parser.add_argument("--tp", type=int, default=max(1, launched().size))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=96)
    options = parser.parse_args()
    if options.what == "sums":
        sums(options.tp)
    else:
        decode(options.shape, options.tp, options.batch, options.prompt, options.new)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
