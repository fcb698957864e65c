"""Kernels for few rows on a GPU, variant by variant: right, how fast each is, and what a whole decode step makes of it.

    python benchmarks/few_rows_gpu.py all [ROW …]    # everything below: about three minutes on an H200
    python benchmarks/few_rows_gpu.py whole ROW …    # micro, and the whole model with the quickest of each
    python benchmarks/few_rows_gpu.py micro INT8 …   # each variant of each layer's product, of the rows of `ROWS`
    python benchmarks/few_rows_gpu.py gemm_off       # an engine built with --gemm_plugin disable against one without
    python benchmarks/few_rows_gpu.py launches       # small launches of every kernel, for compute-sanitizer
                                                     # (with PYTORCH_NO_CUDA_MEMORY_CACHING=1, or it sees no ends)

A variant's output is poisoned before it runs, compared with the definition in float64, and has to be the same twice.
Floors are the bytes of weights over the read rate measured in the same run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import gpu_decode
from gpu_models import random_lowered
from matmul_gpu import KINDS, LLAMA, read_rate
from trtbench_lab.backends.torch.gpu import attention
from trtbench_lab.backends.torch.gpu.attention import DecodeTiles
from trtbench_lab.backends.torch.gpu.memory_plan import CachePlan
from trtbench_lab.backends.torch.gpu.session import FusedSession
from trtbench_lab.backends.torch.gpu.step import Steps
from trtbench_lab.backends.torch.gpu.tuning import ChoiceTable, problem_for
from trtbench_lab.plugins.matmul import Choice, Problem, candidates, tuning
from trtbench_lab.plugins.matmul.reference import linear_reference

BEGAN = time.perf_counter()
DEADLINE_S = float(os.environ.get("DEADLINE_S", 200))
"""Nothing new begins after so many seconds."""
FOLDER = Path(os.environ.get("OUT") or tempfile.mkdtemp())
"""Where logs and choices go."""
BOUNDS = {"float16": 1.5e-3, "bfloat16": 8e-3}
ROWS = {
    "INT8": "llama3-8b-int8-b1",
    "INT4": "llama3-8b-int4-b1",
    "FP8": "llama3-8b-fp8-b1",
    "BF16": "llama3-8b-b1",
    "GPT2": "gpt2-medium-b8",
    "GPT1": "gpt2-medium-b1",
}
KIND_OF = {"INT8": "int8", "INT4": "int4", "FP8": "fp8"}
NORMED = ("qkv", "fc·gate", "fc", "head")
GPT2 = {"qkv": (3072, 1024), "dense": (1024, 1024), "fc": (4096, 1024), "proj": (1024, 4096), "head": (50257, 1024)}


def say(*words: Any) -> None:
    print(f"[{time.perf_counter() - BEGAN:5.1f}]", *words, flush=True)


def problems(name: str) -> dict[str, Problem]:
    """The products of a row of `ROWS`, as an engine has them."""
    if name in ("GPT1", "GPT2"):
        rows = 8 if name == "GPT2" else 1
        return {
            layer: Problem(rows, n, k, dtype="float16", norm="layer" if layer in NORMED else None)
            for layer, (n, k) in GPT2.items()
        }
    return {
        layer: Problem(1, n, k, norm="rms" if layer in NORMED else None, **KINDS[KIND_OF.get(name, "dense")], **extras)
        for layer, (_, n, k, extras) in LLAMA.items()
    }


def present(problem: Problem) -> list[Choice]:
    """The likeliest of the other kernels."""
    every = candidates.candidates(problem)
    found = []
    for kernel, most in (("matvec", 4), ("direct", 3), ("slice", 2), ("tile", 2)):
        found += [choice for choice in every if choice.kernel == kernel][:most]
    return found


def new(problem: Problem) -> list[Choice]:
    """Weights that stream through shared memory."""
    return [choice for choice in candidates.candidates(problem) if choice.kernel == "stream"]


def _warm(pieces: list[tuple[Problem, list[Choice]]]) -> None:
    tuning.COLD_BYTES = 1
    for problem, choices in pieces:
        case = tuning.Case(problem, torch.device("cuda"))
        for choice in choices:
            try:
                case.run(choice, 0, pdl=True)
                case.run(choice, 0, pdl=False)
            except Exception as error:
                print("does not compile:", problem.key, choice, type(error).__name__, str(error)[-300:], flush=True)


def compile_ahead(names: list[str]) -> None:
    """Fill Triton's cache on disk from several processes."""
    pieces = []
    for name in names:
        for problem in problems(name).values():
            choices = present(problem) + new(problem)
            pieces += [(problem, choices[at : at + 4]) for at in range(0, len(choices), 4)]
    count = min(13, os.cpu_count() or 1, len(pieces))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_warm, args=(pieces[number::count],)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    say(f"compiled {sum(len(choices) for _, choices in pieces)} kernels")


def checked(case: tuning.Case, choices: list[Choice]) -> list[Choice]:
    """Return the choices that compute the definition, with poisoned outputs and twice the same."""
    wanted = case.problem
    case.x = torch.randn_like(case.x)
    want = linear_reference(
        case.x, case.weights[0], gate=case.gates[0], activation="silu" if wanted.gated else None, norm=case.norm,
        x_scale=case.x_scale, dtype=torch.float64 if wanted.out_features < 60000 else torch.float32,
    )  # fmt: skip
    good = []
    for choice in choices:
        try:
            results = []
            for pdl in (True, True, False):
                case.out.fill_(float("nan"))
                results.append(case.run(choice, 0, pdl=pdl).clone())
            torch.cuda.synchronize()
        except Exception as error:
            say("FAILED", wanted.key, choice, type(error).__name__, str(error)[-200:])
            continue
        error_size = float((results[0].double() - want.double()).norm() / want.double().norm())
        same = all(torch.equal(results[0], other) for other in results[1:])
        if error_size < BOUNDS[wanted.dtype] and same:
            good.append(choice)
        else:
            say("WRONG", wanted.key, choice, f"error {error_size:.1e}, same {same}")
    return good


def short(choice: Choice) -> str:
    split = f" p{choice.split_k} a{choice.num_stages}" if choice.kernel == "stream" else ""
    return f"{choice.kernel} n{choice.block_n} c{choice.block_c} w{choice.num_warps}{split}"


def micro(name: str, rate: float) -> tuple[dict[str, Choice], dict[str, Choice], dict[str, Choice]]:
    """Time every right variant of a row's products; return the best of the present kernels, of all, and of the new."""
    was, best, fresh_best = {}, {}, {}
    for layer, problem in problems(name).items():
        case = tuning.Case(problem, torch.device("cuda"))
        old, fresh = present(problem), new(problem)
        for choice in old:
            case.workspace.reserve(problem, choice)
        good = checked(case, old + fresh)
        timed = sorted(((case.time(choice, True).microseconds or 1e9, choice) for choice in good), key=lambda t: t[0])
        floor = problem.weight_bytes / rate * 1e6
        before = next(t for t in timed if t[1] in old)
        was[problem.key], best[problem.key] = before[1], timed[0][1]
        fresh_best[problem.key] = next((choice for _, choice in timed if choice in fresh), timed[0][1])
        shown = "; ".join(f"{us:.2f} {floor / us:.0%} {short(c)}" for us, c in timed[:6])
        say(f"{name} {layer}: floor {floor:.2f}, before {before[0]:.2f} {floor / before[0]:.0%} {short(before[1])} | "
            f"{len(good)} of {len(old + fresh)} right | {shown}")  # fmt: skip
        del case
        torch.cuda.empty_cache()
    return was, best, fresh_best


class Whole:
    """A row's model, run end to end with different choices."""

    def __init__(self, name: str):
        self.name, self.row = name, gpu_decode.ROWS[ROWS[name]]
        self.model = random_lowered(self.row.shape, quant=self.row.quant, positions=self.row.prompt + self.row.new)
        generator = torch.Generator().manual_seed(0)
        shape = (self.row.batch, self.row.prompt)
        self.prompts = torch.randint(0, self.model.config.vocab_size, shape, generator=generator).tolist()
        self.logits: torch.Tensor | None = None

    def run(self, what: str, choices: dict[str, Choice], tiles: DecodeTiles | None = None) -> float:
        """Return the ITL in ms; print it, and how far the first step's logits are from those of the first run."""
        if time.perf_counter() - BEGAN > DEADLINE_S:
            say("no time for", self.name, what)
            return 1e9
        row, table = self.row, ChoiceTable(dict(choices))
        layer = self.model.layers[0]
        for product in (layer.qkv, layer.dense, layer.fc, layer.proj, self.model.head):
            if problem_for(product, row.batch).key not in choices:
                say("no choice for", problem_for(product, row.batch).key)
        longest = row.prompt + row.new
        columns = -(-longest // gpu_decode.BLOCK)
        plan = CachePlan(gpu_decode.BLOCK, columns, row.batch * columns + 1, 0, self.model.dtype, "")
        standard = attention.decode_tiles
        if tiles is not None:
            attention.decode_tiles = lambda *_: tiles  # type: ignore[assignment]
        try:
            session = FusedSession(Steps(self.model, table.choose), plan, max_rows=row.batch, max_tokens=longest)
            gpu_decode.generate(session, self.prompts, row.new)
            itls = []
            for _ in range(5):
                _, gaps = gpu_decode.generate(session, self.prompts, row.new)
                itls.append(sum(gaps) / len(gaps))
            gpu_decode.generate(session, self.prompts, 2)
            logits = next(iter(session._buckets.values())).logits.clone() if hasattr(session, "_buckets") else None
            session.close()
        finally:
            attention.decode_tiles = standard
        told = ""
        if logits is not None:
            self.logits = logits if self.logits is None else self.logits
            told = f"; logits differ by {float((logits - self.logits).norm() / self.logits.norm()):.1e}"
        itl = sorted(itls)[2]
        say(f"ITL {self.name} {what}: {itl:.3f} ms (spread {min(itls):.3f}-{max(itls):.3f}){told}")
        return itl


def everything(names: list[str], *, with_checks: bool) -> None:
    """Compile, check, time, and run end to end with the quickest of the other kernels, then of all."""
    if with_checks:
        _beside(names)
    else:
        compile_ahead(names)
    rate = read_rate()
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, read {rate / 1e12:.2f} TB/s")
    tables = {}
    for name in names:
        tables[name] = micro(name, rate)
    kept = {name: {key: choice.to_dict() for key, choice in best.items()} for name, (_, best, _) in tables.items()}
    (FOLDER / "choices.json").write_text(json.dumps(kept, indent=1))
    for name in names:
        was, best, fresh = tables[name]
        whole = Whole(name)
        say(name, "is there")
        whole.run("other kernels", was)
        whole.run("best products", best)
        whole.run("new kernels alone", fresh)
        del whole
        torch.cuda.empty_cache()
    say("end")


def _beside(names: list[str]) -> None:
    """Compile; the sanitizer and the engine without gemm plugin run meanwhile."""
    here = [sys.executable, __file__]
    sanitizer = ["compute-sanitizer", "--kernel-regex", "kns=_kernel"]
    beside = {
        "gemm_off": [*here, "gemm_off"],
        "memcheck": [*sanitizer, "--tool", "memcheck", *here, "launches"],
        "racecheck": [*sanitizer, "--tool", "racecheck", *here, "launches"],
    }
    running = {}
    for name, command in beside.items():
        log = (FOLDER / f"{name}.log").open("w")
        # Memory of its own for each tensor: what is read beyond one is then seen.
        environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    compile_ahead(names)
    for name, process in running.items():
        try:
            process.wait(timeout=max(1.0, 50 - (time.perf_counter() - BEGAN)))
        except subprocess.TimeoutExpired:
            process.kill()
            say(name, "was stopped: no time")
        lines = (FOLDER / f"{name}.log").read_text(errors="replace").splitlines()
        say(name, process.returncode, *(line for line in lines[-3:]))


def gemm_off() -> None:
    """Build the demo GPT-2 for the GPU with the matrix plugin and without, and compare logits and tokens."""
    from trtbench_lab import workbench
    from trtbench_lab.demo import demo_model_dir
    from trtbench_lab.engine import Engine
    from trtbench_lab.runtime import ModelRunner
    from trtbench_lab.specs import BuildConfig, PluginConfig
    from trtbench_lab.specs.requests import BuildSpec, ConvertSpec

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        source = str(demo_model_dir("gpt2"))
        checkpoint = workbench.convert(ConvertSpec(source=source, dtype="float16"))
        for value in ("auto", "disable"):
            config = BuildConfig(
                backend="torch", compute_dtype="float16", max_batch_size=2, max_input_len=64, opt_level=1,
                plugin_config=PluginConfig(gemm_plugin=value),
            )  # fmt: skip
            target = str(Path(folder) / value)
            workbench.build(BuildSpec(checkpoint_dir=checkpoint.output_dir, output_dir=target, build_config=config))
            runner = ModelRunner.from_engine(Engine.from_dir(target))
            prompt = list(range(5, 45))
            logits = runner.logits_of([prompt])[0].float().cpu()
            found[value] = (logits, runner.generate([prompt], max_new_tokens=16))
    a, b = found["auto"][0], found["disable"][0]
    tokens = [result["output_ids"].flatten().tolist()[40:] for _, result in found.values()]
    print("tokens equal:", tokens[0] == tokens[1], tokens[0])
    print(f"gemm_plugin disable: logits {tuple(a.shape)} differ by {float((a - b).norm() / a.norm()):.2e}")


def _launched(problem: Problem, choices: list[Choice], device: torch.device) -> int:
    """Launch each choice once, and return how many there were."""
    case = tuning.Case(problem, device)
    choices = [choice for choice in choices if choice.kernel != "library"]
    for choice in choices:
        case.workspace.reserve(problem, choice)
        case.run(choice, 0, pdl=True)
    return len(choices)


def launches() -> None:
    """Every kernel of few rows, and the inputs' kernel, on small extents."""
    from trtbench_lab.backends.torch.gpu import inputs, ops
    from trtbench_lab.plugins.matmul import Norm

    device = torch.device("cuda")
    tuning.COLD_BYTES = 1
    count = 0
    for kind, extras in KINDS.items():
        for rows in (1, 3):
            norm = None if kind == "int8_int8" else "rms"
            problem = Problem(rows, 200, 1024, dtype="float16", norm=norm, **extras)
            shapes: dict[str, Choice] = {}
            for choice in candidates.candidates(problem):
                shapes.setdefault(choice.kernel, choice)
            if rows > 1:
                tile = next(c for c in candidates.candidates(problem) if c.kernel == "tile" and c.split_k > 1)
                shapes["tile"] = tile
            count += _launched(problem, list(shapes.values()), device)
        for in_features in (2560, 5120):  # rounds of steps that end within a row
            problem = Problem(1, 40, in_features, dtype="float16", **extras)
            count += _launched(problem, new(problem), device)
    x = torch.randn(5, 1000, device=device, dtype=torch.float16)
    norm_of = Norm("layer", x[0].clone(), x[1].clone(), 1e-5)
    order = torch.randperm(1000, device=device).to(torch.int32)
    for to in (None, "int8", "fp8"):
        one = inputs.Inputs(to, order=order, factor=x[2].clone(), divisor=x[3].float().abs() + 1)
        inputs.prepare(x, one, norm_of, ops.kernels("inputs"), ops.launch_options(device))
        count += 1
    heads = attention.Heads(8, 2, 64, 32, False, None, 0.125)
    cache = torch.randn(20, 2, 2, 64, 64, device=device).half()
    tables = torch.arange(20, device=device, dtype=torch.int32).view(2, 10)
    qkv, angles = torch.randn(2, heads.qkv_width, device=device).half(), torch.rand(640, 32, device=device).half()
    positions = torch.tensor([517, 63], device=device, dtype=torch.int32)
    outs = []
    for tiles in (DecodeTiles(4, 64), DecodeTiles(4, 64, 4, True), DecodeTiles(8, 32, 4, True), DecodeTiles(1, 32)):
        scratch = attention.decode_scratch(2, heads, tiles, device)
        outs.append(attention.decode(qkv, cache, angles, angles, positions, tables, heads, scratch))
        count += 1
    torch.cuda.synchronize()
    far = max(float((out.float() - outs[0].float()).norm() / outs[0].float().norm()) for out in outs[1:])
    print(f"{count} launches; divisions of the attention differ by {far:.1e}")


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["gemm_off"]:
        gemm_off()
        return
    with torch.inference_mode():
        _measure(words)


def _measure(words: list[str]) -> None:
    if words[:1] == ["launches"]:
        launches()
    elif words[:1] == ["micro"]:
        compile_ahead(words[1:])
        rate = read_rate()
        for name in words[1:]:
            micro(name, rate)
    else:
        everything(words[1:] or list(ROWS), with_checks=words[:1] != ["whole"])


if __name__ == "__main__":
    main()
