"""Attention kernels on a GPU: time against the floor (bytes over the read rate, operations over the matrix rate).

    python benchmarks/attention_gpu.py [--tune] [--only decode|prompt|update]

Every launch of a timing reads another cache, so that nothing is found in the L2 of the launch before; times are medians
of graph replays, divided by the launches of a graph. With --tune, tile sizes are tried as well.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
from dataclasses import dataclass, replace

import torch

from trtbench_lab.plugins.gpt_attention import launch, plans
from trtbench_lab.plugins.gpt_attention.shape import AttentionShape

LLAMA = AttentionShape(32, 8, 128, 64, rotary_dim=128)
GPT2 = AttentionShape(16, 16, 64, 64)
LAUNCHES = 12
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8, "fp8": torch.float8_e4m3fn}


def seconds(run, repeats: int = 9) -> float:
    """Median time of one of the `LAUNCHES` launches that `run` makes, captured in a graph."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for _ in range(2):
        graph.replay()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / LAUNCHES)
    return sorted(times)[len(times) // 2]


def read_rate() -> float:
    """Bytes a second of summing 4 GB."""
    x = torch.randn(1 << 30, device="cuda")
    out = torch.empty((), device="cuda")

    def run():
        for _ in range(LAUNCHES):
            torch.sum(x, dim=0, out=out)

    return x.nbytes / seconds(run)


def matrix_rate() -> float:
    """Operations a second of a large bfloat16 product of random numbers."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)

    def run():
        for _ in range(LAUNCHES):
            torch.mm(a, b, out=out)

    return 2 * 8192**3 / seconds(run)


@dataclass
class Work:
    """Rows of one length over caches that rotate."""

    shape: AttentionShape
    rows: int
    length: int
    new: int
    cache: str = "bf16"
    dtype: torch.dtype = torch.bfloat16

    def make(self):
        shape, device = self.shape, "cuda"
        columns = -(-self.length // shape.tokens_per_block)
        blocks = self.rows * columns + 1
        one = 2 * shape.num_kv_heads * shape.tokens_per_block * shape.head_size * blocks
        itemsize = torch.tensor([], dtype=TYPES[self.cache]).element_size()
        count = max(2, min(LAUNCHES, int(400e6 / (one * itemsize)) + 1))
        self.caches = []
        for _ in range(count):
            pool = torch.randn(shape.pool_shape(blocks), device=device, dtype=torch.float16)
            self.caches.append((pool * 30).to(torch.int8) if self.cache == "int8" else pool.to(TYPES[self.cache]))
        self.tables = (torch.randperm(blocks - 1, device=device)[: self.rows * columns] + 1).int()
        self.tables = self.tables.view(self.rows, columns).contiguous()
        tokens = self.rows * self.new
        self.qkv = torch.randn(tokens, shape.packed_width, device=device, dtype=self.dtype)
        self.query = torch.randn(tokens, shape.query_width, device=device, dtype=self.dtype)
        self.out = torch.empty_like(self.query)
        self.starts = torch.arange(0, tokens + 1, self.new, device=device, dtype=torch.int32)
        self.lengths = torch.full((self.rows,), self.length, device=device, dtype=torch.int32)
        self.token_rows = torch.arange(self.rows, device=device).repeat_interleave(self.new).int()
        self.positions = (self.length - self.new + torch.arange(self.new, device=device)).repeat(self.rows).int()
        self.cos, self.sin = torch.rand(2, self.length, max(1, shape.rotary_dim // 2), device=device)
        self.scale = torch.ones(1, device=device)
        return self

    @property
    def cache_bytes(self) -> int:
        return self.rows * self.length * 2 * self.shape.num_kv_heads * self.shape.head_size * self.caches[0].itemsize

    @property
    def operations(self) -> float:
        """Of the two products, for the pairs of query and key that are not masked."""
        pairs = self.rows * sum(range(self.length - self.new + 1, self.length + 1))
        return 4.0 * pairs * self.shape.num_heads * self.shape.head_size

    def each(self, one):
        def run():
            for number in range(LAUNCHES):
                one(self.caches[number % len(self.caches)])

        return run

    def splits(self) -> int:
        sms = launch.num_sms(self.qkv.device)
        name = str(self.caches[0].dtype)[6:]
        return plans.choose_splits(self.shape, self.rows, self.length, sms, cache_dtype=name)

    def decode(self, splits: int | None = None, **changes):
        """Decode attention: in one kernel where a row is not split, else parts and their combination."""
        if splits is None:
            splits = self.splits()
        if splits == 1:
            changes.pop("BLOCK_M", None)
            return self.prompt(**changes)
        heads = (self.rows, self.shape.num_heads, splits)
        parts = torch.empty(*heads, self.shape.head_size, device="cuda")
        weights = torch.empty(heads, device="cuda")
        name = str(self.caches[0].dtype)[6:]
        plan = plans.split_plan(self.shape, name, self.rows, self.tables.shape[1], splits)
        plan = changed(plan, changes)

        def one(cache):
            inputs = (self.query, cache, self.starts, self.lengths, self.tables, self.scale)
            launch.run_plan(plan, inputs, (parts, weights))
            launch.combine_parts(parts, weights, self.token_rows, self.out)

        return self.each(one)

    def prompt(self, **changes):
        name = str(self.dtype)[6:]
        tokens = self.query.shape[0]
        plan = plans.flash_plan(self.shape, name, tokens, self.rows, self.tables.shape[1])
        if "BLOCK_M" in changes:
            block_q = changes["BLOCK_M"] // plan.constants["PACK"]
            tiles = tokens // block_q + self.rows + 1
            changes["BLOCK_Q"] = block_q
            plan = replace(plan, grid=(tiles, plan.grid[1]), arguments={**plan.arguments, "num_tiles": tiles})
        plan = changed(plan, changes)
        return self.each(
            lambda cache: launch.run_plan(
                plan, (self.query, cache, self.starts, self.lengths, self.tables, self.scale), (self.out,)
            )
        )

    def update(self):
        tokens = (self.qkv, self.cos, self.sin, self.positions, self.token_rows, self.tables, self.scale)
        return self.each(lambda cache: launch.write_cache(*tokens, cache, self.out, self.shape))


def changed(plan, changes):
    options = {name: changes[name] for name in ("num_warps", "num_stages") if name in changes}
    constants = {name: value for name, value in changes.items() if name.isupper()}
    return replace(plan, constants={**plan.constants, **constants}, **options)


def trials(kind: str):
    """Changes to try."""
    if kind == "decode":
        for block_n, stages, warps in itertools.product((32, 64), (3, 4, 6), (2, 4)):
            yield {"BLOCK_N": block_n, "num_stages": stages, "num_warps": warps}
        return
    for block_m, warps, stages in itertools.product((64, 128), (4, 8), (2, 3, 4)):
        if warps == (8 if block_m == 64 else 4) and not (block_m == 128 and warps == 4):
            continue
        yield {"BLOCK_M": block_m, "BLOCK_N": 64, "num_warps": warps, "num_stages": stages}


TUNED = {
    "decode": [
        ("llama b16 1024", Work(LLAMA, 16, 1024, 1), (1, 2, 3, 4)),
        ("llama b64 1024", Work(LLAMA, 64, 1024, 1), (1, 2)),
        ("gpt2m b8 1000", Work(GPT2, 8, 1000, 1, "fp16", torch.float16), (1, 2, 4)),
        ("gpt2m b1 1000", Work(GPT2, 1, 1000, 1, "fp16", torch.float16), (8, 16)),
        ("llama b16 1024 fp8", Work(LLAMA, 16, 1024, 1, "fp8"), (1, 2, 4)),
        ("llama b16 1024 int8", Work(LLAMA, 16, 1024, 1, "int8"), (1, 2, 4)),
    ],
    "prompt": [
        ("llama 16x512", Work(LLAMA, 16, 512, 512), (None,)),
        ("llama 1x8192", Work(LLAMA, 1, 8192, 8192), (None,)),
        ("gpt2m 8x900", Work(GPT2, 8, 900, 900, "fp16", torch.float16), (None,)),
    ],
}


def compile_some(share: int, of: int) -> None:
    """Fill the disk's cache of compiled kernels with every `of`-th variant."""
    number = 0
    for kind, works in TUNED.items():
        for _, work, splits in works:
            made = None
            for change in trials(kind):
                for split in splits:
                    number += 1
                    if number % of != share:
                        continue
                    made = made or work.make()
                    try:
                        made.decode(split, **change)() if kind == "decode" else made.prompt(**change)()
                    except Exception as error:
                        print("failed", kind, change, str(error)[:80], flush=True)
            if made is not None:
                made.caches = []
    torch.cuda.synchronize()


def tune() -> None:
    context = multiprocessing.get_context("spawn")
    count = min(10, os.cpu_count() or 1)
    workers = [context.Process(target=compile_some, args=(share, count)) for share in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for kind, works in TUNED.items():
        for name, work, splits in works:
            work.make()
            found = []
            for change in trials(kind):
                for split in splits:
                    try:
                        run = work.decode(split, **change) if kind == "decode" else work.prompt(**change)
                        found.append((seconds(run, 5), split, change))
                    except Exception as error:
                        print("failed", change, str(error)[:80])
            for time, split, change in sorted(found, key=lambda one: one[0])[:5]:
                print(f"  {name}: {time * 1e6:7.1f} us  splits {split} {change}", flush=True)
            print(f"  {name}: worst {max(found, key=lambda one: one[0])}")
            work.caches = []


def report(only: str | None) -> None:
    reads, products = read_rate(), matrix_rate()
    print(f"read rate {reads / 1e12:.2f} TB/s, bf16 product {products / 1e12:.0f} TFLOP/s", flush=True)
    if only in (None, "decode"):
        print("decode: floor = bytes of the cache over the read rate")
        for cache, rows, length in itertools.product(("bf16", "fp8", "int8"), (1, 16, 64), (512, 1024, 4096)):
            if rows == 64 and length == 4096 and cache != "bf16":
                continue
            decode_line("llama", Work(LLAMA, rows, length, 1, cache).make(), reads)
        for rows in (1, 8):
            decode_line("gpt2m", Work(GPT2, rows, 1000, 1, "fp16", torch.float16).make(), reads)
    if only in (None, "prompt"):
        print("prompt: floor = operations of visible pairs over the matrix rate")
        for name, work in (
            ("llama 16 x 512", Work(LLAMA, 16, 512, 512)),
            ("llama 4 x 2048", Work(LLAMA, 4, 2048, 2048)),
            ("llama 1 x 8192", Work(LLAMA, 1, 8192, 8192)),
            ("llama 2048 after 6144", Work(LLAMA, 1, 8192, 2048)),
            ("llama 4 x 2048 fp8", Work(LLAMA, 4, 2048, 2048, "fp8")),
            ("gpt2m 8 x 900", Work(GPT2, 8, 900, 900, "fp16", torch.float16)),
        ):
            work.make()
            time = seconds(work.prompt())
            floor = work.operations / products
            print(
                f"  {name:22} {time * 1e6:8.1f} us  {work.operations / time / 1e12:5.0f} TFLOP/s  "
                f"{floor / time:5.1%} of the floor   torch {sdpa(work) * 1e6:8.1f} us",
                flush=True,
            )
            work.caches = []
    if only in (None, "update"):
        for work in (Work(LLAMA, 16, 512, 512), Work(LLAMA, 16, 1024, 1)):
            work.make()
            time = seconds(work.update())
            floor = 2 * work.qkv.nbytes / reads
            print(f"  update of {work.qkv.shape[0]} tokens: {time * 1e6:.1f} us, {floor / time:.0%} of the floor")


def decode_line(model: str, work: Work, reads: float) -> None:
    time = seconds(work.decode())
    splits = work.splits()
    floor = work.cache_bytes / reads
    print(
        f"  {model} {work.cache} batch {work.rows:3} x {work.length:5}, {splits:2} parts: {time * 1e6:7.1f} us, "
        f"{floor / time:5.1%} of the floor",
        flush=True,
    )
    work.caches = []


def sdpa(work: Work) -> float:
    """torch's own attention of the same sizes over contiguous, unpaged tensors, heads repeated by the library."""
    if work.new != work.length:
        return float("nan")
    shape = work.shape
    q = torch.randn(work.rows, shape.num_heads, work.new, shape.head_size, device="cuda", dtype=work.dtype)
    k, v = torch.randn(2, work.rows, shape.num_kv_heads, work.length, shape.head_size, device="cuda", dtype=work.dtype)

    def run():
        for _ in range(LAUNCHES):
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    return seconds(run)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--only", choices=("decode", "prompt", "update"))
    options = parser.parse_args()
    if options.tune:
        tune()
    report(options.only)
