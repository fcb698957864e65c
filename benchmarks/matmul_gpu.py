"""Matrix kernels on a GPU: right, the same twice, and how near to the rate that memory is read at.

    python benchmarks/matmul_gpu.py                      # everything: about six minutes on an H200
    python benchmarks/matmul_gpu.py check                # against the definition, all kinds and kernels
    python benchmarks/matmul_gpu.py tune llama dense 1   # each candidate of each layer shape
    python benchmarks/matmul_gpu.py chain                # all linear layers of a model in one CUDA graph

The floor is the bytes of the weights (with their scales) over the read rate measured in the same run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

import torch

from trtbench_lab.plugins.matmul import Choice, Problem, tuning
from trtbench_lab.plugins.matmul.candidates import candidates
from trtbench_lab.plugins.matmul.launch import linear
from trtbench_lab.plugins.matmul.reference import linear_reference

KINDS: dict[str, dict] = {
    "dense": {},
    "int8": {"kind": "int8"},
    "int4": {"kind": "int4", "group_size": 128},
    "fp8": {"kind": "fp8"},
    "int8_int8": {"kind": "int8_int8"},
}
LLAMA = {  # Llama-3-8B: count a model, outputs, inputs, extras
    "qkv": (32, 6144, 4096, {}),
    "dense": (32, 4096, 4096, {}),
    "fc·gate": (32, 14336, 4096, {"gated": True}),
    "proj": (32, 4096, 14336, {}),
    "head": (1, 128256, 4096, {}),
}
GPT2 = {  # GPT-2 medium
    "qkv": (24, 3072, 1024, {"norm": "layer"}),
    "dense": (24, 1024, 1024, {}),
    "fc": (24, 4096, 1024, {"norm": "layer"}),
    "proj": (24, 1024, 4096, {}),
    "head": (1, 50257, 1024, {}),
}
MODELS = {"llama": (LLAMA, "bfloat16"), "gpt2": (GPT2, "float16")}
BOUNDS = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 6e-3}


def problem(model: str, layer: str, kind: str, rows: int) -> Problem:
    table, dtype = MODELS[model]
    _, out_features, in_features, extras = table[layer]
    extras = dict(extras)
    if rows > 16:
        extras.pop("norm", None)
    return Problem(rows, out_features, in_features, dtype=dtype, **KINDS[kind], **extras)


def read_rate() -> float:
    """Bytes a second of summing 8 GB."""
    data = torch.randint(-9, 9, (2 << 30,), dtype=torch.int32, device="cuda").view(torch.float32)
    samples = []
    for _ in range(7):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        data.amax()
        end.record()
        end.synchronize()
        samples.append(begin.elapsed_time(end))
    return data.nbytes / (statistics.median(samples) / 1000)


def _warm(work: list[tuple[Problem, list[Choice]]]) -> None:
    tuning.COLD_BYTES = 1
    for wanted, choices in work:
        case = tuning.Case(wanted, torch.device("cuda"))
        for choice in choices:
            try:
                case.run(choice, 0, pdl=True)
            except Exception as error:
                print("does not compile:", wanted.key, choice, str(error).splitlines()[:1])
        torch.cuda.synchronize()


def compile_ahead(work: list[tuple[Problem, list[Choice]]]) -> None:
    """Fill Triton's cache on disk from several processes."""
    started = time.perf_counter()
    pieces = [(wanted, choices[at : at + 3]) for wanted, choices in work for at in range(0, len(choices), 3)]
    count = min(14, os.cpu_count() or 1, len(pieces))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_warm, args=(pieces[number::count],)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(f"compiled {sum(len(c) for _, c in work)} kernels in {time.perf_counter() - started:.0f} s", flush=True)


def check() -> None:
    """Fresh random inputs, poisoned outputs, twice."""
    seed, failures, count = int(time.time()), 0, 0
    work = []
    for dtype in ("float16", "bfloat16"):
        for kind, extras in KINDS.items():
            for rows in (1, 3, 16, 40, 200):
                for out_features, in_features in ((1000, 1024), (384, 4096)):
                    for more in ({}, {"gated": True}, {"norm": "rms"}):
                        if kind == "int8_int8" and "norm" in more:
                            continue
                        wanted = Problem(rows, out_features, in_features, dtype=dtype, **extras, **more)
                        choices = candidates(wanted)
                        kept = {c.kernel: c for c in choices} | {f"{c.kernel}{c.split_k > 1}": c for c in choices[::-1]}
                        work.append((wanted, list(dict.fromkeys(kept.values()))))
    work = work[seed % 12 :: 12]
    compile_ahead(work)
    started = time.perf_counter()
    tuning.COLD_BYTES = 1
    for wanted, choices in work:
        print(f"{time.perf_counter() - started:.1f} s, {count} launches, {failures} wrong: {wanted.key}", flush=True)
        torch.manual_seed(seed + count)
        case = tuning.Case(wanted, torch.device("cuda"))
        case.x = case.x + 0 if wanted.kind == "int8_int8" else torch.randn_like(case.x)
        want = linear_reference(
            case.x,
            case.weights[0],
            gate=case.gates[0],
            activation="silu" if wanted.gated else None,
            norm=case.norm,
            x_scale=case.x_scale,
            dtype=torch.float64,
        )
        for choice in choices:
            results = []
            for _ in range(2):
                case.out.fill_(float("nan"))
                results.append(case.run(choice, 0, pdl=True).clone())
            error = float((results[0].double() - want).norm() / want.norm())
            count += 1
            if not error < BOUNDS[wanted.dtype] or not torch.equal(*results):
                failures += 1
                print(
                    "WRONG", wanted.key, choice, f"error {error:.1e}, same twice: {torch.equal(*results)}", flush=True
                )
    print(f"check: {count} launches, {failures} wrong (seed {seed})", flush=True)


def tune(model: str, kind: str, rows: int, rate: float, layers: list[str] | None = None) -> dict[str, Choice]:
    """Time the candidates of each layer; print the best three and the library."""
    table, _ = MODELS[model]
    problems = {layer: problem(model, layer, kind, rows) for layer in layers or table}
    best = {}
    for layer, wanted in problems.items():
        found = tuning.measure(wanted, torch.device("cuda"), candidates(wanted), pdl=True)
        timed = sorted((t for t in found if t.microseconds is not None), key=lambda t: t.microseconds)
        for failed in (t for t in found if t.microseconds is None):
            print("  failed:", wanted.key, failed.choice, failed.reason)
        best[layer] = timed[0].choice
        shown = timed[:3] + [t for t in timed[3:] if t.choice.kernel == "library"]
        floor = wanted.weight_bytes / rate * 1e6
        print(f"{model} {layer} {wanted.key}: floor {floor:.2f} µs", flush=True)
        for timing in shown:
            c = timing.choice
            print(
                f"    {timing.microseconds:8.2f} µs {floor / timing.microseconds:6.1%}  {c.kernel} m{c.block_m} "
                f"n{c.block_n} c{c.block_c} split {c.split_k} warps {c.num_warps} stages {c.num_stages}",
                flush=True,
            )
    return best


def chain(
    model: str, kind: str, rows: int, best: dict[str, Choice], rate: float, *, head_kind: str | None = None
) -> None:
    """All linear layers of a model, each with weights of its own, in one CUDA graph."""
    table, _ = MODELS[model]
    device = torch.device("cuda")
    tuning.COLD_BYTES = 1
    steps, floor_bytes = [], 0
    workspace = tuning.Workspace(device)
    for layer, (count, *_rest) in table.items():
        wanted = problem(model, layer, kind, rows)
        workspace.reserve(wanted, best[layer])
        case = tuning.Case(wanted, device)
        generator = torch.Generator(device).manual_seed(1)
        for number in range(count):
            weights = tuning.random_weights(wanted, generator)
            gate = tuning.random_weights(wanted, generator) if wanted.gated else None
            steps.append((number, list(table).index(layer), case, weights, gate, best[layer]))
            floor_bytes += wanted.weight_bytes
    steps.sort(key=lambda step: (step[0] if step[1] < 4 else 999, step[1]))

    def run(pdl: bool) -> None:
        for _, _, case, weights, gate, choice in steps:
            activation = "silu" if gate is not None else None
            linear(
                case.x,
                weights,
                case.out,
                choice,
                gate=gate,
                activation=activation,
                norm=case.norm,
                x_scale=case.x_scale,
                workspace=workspace,
                pdl=pdl and choice.kernel != "library",
            )

    floor = floor_bytes / rate * 1e3
    for pdl in (False, True):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            run(pdl)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                run(pdl)
            samples = []
            for _ in range(12):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record(stream)
                graph.replay()
                end.record(stream)
                end.synchronize()
                samples.append(begin.elapsed_time(end))
        median = statistics.median(samples[2:])
        print(
            f"CHAIN {model} {kind} rows {rows} pdl {pdl}: {median:.3f} ms, floor {floor:.3f} ms, "
            f"share {floor / median:.1%}",
            flush=True,
        )


def main() -> None:
    words = sys.argv[1:]
    print(torch.cuda.get_device_name(), torch.__version__, time.strftime("%Y-%m-%d"), flush=True)
    if words[:1] == ["check"]:
        check()
        return
    rate = read_rate()
    print(f"read {rate / 1e12:.2f} TB/s", flush=True)
    plans = [
        ("gpt2", "dense", 1),
        ("llama", "dense", 1),
        ("llama", "int8", 1),
        ("llama", "int4", 1),
        ("llama", "fp8", 1),
    ]
    plans += [("gpt2", "dense", 8), ("llama", "dense", 16), ("llama", "int8", 16), ("llama", "int4", 16)]
    if words[:1] == ["tune"]:
        plans = [(words[at], words[at + 1], int(words[at + 2])) for at in range(1, len(words), 3)]
    work = []
    for model, kind, rows in plans:
        for layer in MODELS[model][0]:
            wanted = problem(model, layer, kind, rows)
            work.append((wanted, [choice for choice in candidates(wanted) if choice.kernel != "library"]))
    compile_ahead(work)
    kept = {}
    for model, kind, rows in plans:
        best = tune(model, kind, rows, rate)
        kept |= {problem(model, layer, kind, rows).key: choice.to_dict() for layer, choice in best.items()}
        chain(model, kind, rows, best, rate)
        tuning.COLD_BYTES = 192 << 20
        torch.cuda.empty_cache()
    if "OUT" in os.environ:
        Path(os.environ["OUT"], "matmul_choices.json").write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
