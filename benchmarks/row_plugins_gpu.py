"""Norms, gates, lookups and quantizations on a GPU: right on the card, and how near to the rate of memory.

    python benchmarks/row_plugins_gpu.py

Each kernel is captured some times over rotating buffers in one CUDA graph, whose replays are timed. The floor is the
bytes that a call must read and write over the rate of a simple copying kernel measured in the same run. Beside it
stands the plugin's reference, which is the same operation in torch's own ops, captured the same way.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from tests.plugins.cases import PLUGINS, attributes, inputs
from tests.plugins.forms import assert_near, by_kernel, by_reference

from trtbench_lab.plugins import norms, quantizing
from trtbench_lab.plugins.frame import Plugin

PROMPT, DECODE = (8192, 4096), (8, 4096)
ROTATED_BYTES = 1 << 30
"""Buffers of a measurement come to this much, several times the L2 cache."""


def graph_time_us(calls: list[Callable[[], object]], rounds: int = 15) -> float:
    """Median time of one call, when all are replayed from one graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        calls[0]()
        calls[0]()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        times = []
        for _ in range(rounds + 2):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(start.elapsed_time(end) * 1000 / len(calls))
    return statistics.median(times[2:])


def memory_rate() -> float:
    """Bytes a second, read and written ones counted, of torch's simplest kernel (a plain copy is no faster)."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    calls = (lambda: torch.neg(source, out=target), lambda: target.copy_(source))
    return max(2 * source.nbytes / graph_time_us([call] * 4) * 1e6 for call in calls)


def moved_bytes(tensors: list[torch.Tensor], outputs: tuple[torch.Tensor, ...], plugin: Plugin) -> int:
    """What a call has to move: each input and output once; of a lookup's table, the rows that are read."""
    if plugin.name == "lookup":
        mine = ((tensors[0] >= 7) & (tensors[0] < 18)).sum().item()
        return tensors[0].nbytes + outputs[0].nbytes + min(int(mine), 11) * tensors[1][0].nbytes
    return sum(tensor.nbytes for tensor in (*tensors, *outputs))


def check() -> None:
    """Hold every kernel to its reference at sizes and types that CPUs are too slow for."""
    compared = 0
    for plugin in PLUGINS.values():
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for shape in ((1, 1, 4096), (3, 7, 5120), (1, 130, 768), (2, 2, 11008)):
                tensors, values = inputs(plugin, shape, dtype, device="cuda"), attributes(plugin)
                expected, found = by_reference(plugin, tensors, values), by_kernel(plugin, tensors, values)
                assert_near(found, expected, ulps=1, scale=2, rounded_to=dtype)
                compared += 1
    print(f"{compared} calls agree with their references")


def time_plugin(plugin: Plugin, shape: tuple[int, ...], rate: float) -> str:
    values = attributes(plugin)
    first = inputs(plugin, shape, torch.bfloat16, device="cuda")
    outputs = by_kernel(plugin, first, values)
    nbytes = moved_bytes(first, outputs, plugin)
    copies = max(4, min(64, ROTATED_BYTES // nbytes))
    sets = [
        (inputs(plugin, shape, torch.bfloat16, seed, "cuda"), [torch.empty_like(o) for o in outputs])
        for seed in range(copies)
    ]
    ours = graph_time_us([lambda t=t, o=o: plugin.launch_into(t, o, **values) for t, o in sets])
    torchs = graph_time_us([lambda t=t: plugin.reference(*t, **values) for t, _ in sets])
    share = 100 * nbytes / rate * 1e6 / ours
    return (
        f"| `{plugin.name}` | {shape[0]} | {nbytes / 1e6:.2f} | {ours:.1f} | {share:.0f} % | {torchs:.1f} "
        f"| {torchs / ours:.1f} × |"
    )


def sweep_warps() -> None:
    """Rows by warps a program: where `row_warps` comes from."""
    plugin = PLUGINS["add_rms_norm"]
    for width in (768, 1024, 4096, 8192):
        found = []
        for warps in (1, 2, 4, 8, 16):
            norms.row_warps = lambda block, warps=warps: warps
            for rows in (8, 4096):
                sets = [inputs(plugin, (rows, width), torch.bfloat16, seed, "cuda") for seed in range(24)]
                outs = [[torch.empty_like(t[0]), torch.empty_like(t[0])] for t in sets]
                calls = [
                    lambda t=t, o=o: plugin.launch_into(t, o, epsilon=1e-5) for t, o in zip(sets, outs, strict=True)
                ]
                found.append(f"{warps} warps, {rows} rows: {graph_time_us(calls, 7):.1f} us")
        norms.row_warps = quantizing.row_warps
        print(width, "; ".join(found), flush=True)


def main() -> None:
    torch.manual_seed(0)
    check()
    rate = memory_rate()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, memory {rate / 1e12:.2f} TB/s")
    print("| plugin | rows of 4,096 | MB moved | us | of the memory rate | torch's ops, us | ratio |")
    print("|---|---|---|---|---|---|---|")
    for shape in (PROMPT, DECODE):
        for plugin in PLUGINS.values():
            print(time_plugin(plugin, shape, rate), flush=True)
    sweep_warps()


if __name__ == "__main__":
    main()
