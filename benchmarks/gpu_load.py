"""Loading an engine from the page cache to its first token: a dummy model is written and built, then loaded anew.

``python benchmarks/gpu_load.py --shape llama3-8b``: each load runs in a process of its own, with its stages. The first
one finds nothing that an earlier process has kept (unpacked kernels, Triton's own folder) and has no C compiler; the
last one verifies the folder as a step of its own, in the same threads. ``--hf`` adds Hugging Face's loading of the same
shape from safetensors. Goal: 5 s from `Engine.from_dir` to the token, imports of torch and the CUDA context beside it.
On a machine without a GPU give ``--shape tiny``: it shows that the script runs, and says nothing about speed.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
TINY: dict[str, Any] = {
    "architecture": "LlamaForCausalLM", "dtype": "float32", "vocab_size": 256, "max_position_embeddings": 1024,
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "silu",
    "norm_type": "rmsnorm", "gated_mlp": True, "position_embedding_type": "rope_gpt_neox",
}  # fmt: skip


def write_checkpoint(folder: Path, shape: str) -> None:
    """Write random weights of a shape, made when they are asked for: the model is never whole in memory."""
    import torch

    from gpu_models import SHAPES
    from trtbench_lab.checkpoint import expected_tensors
    from trtbench_lab.checkpoint.parts import save_rank
    from trtbench_lab.specs import ModelConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"

    class RandomWeights(Mapping[str, torch.Tensor]):
        def __init__(self, config: ModelConfig) -> None:
            self._tensors = expected_tensors(config, config.mapping)
            self._dtype = getattr(torch, config.dtype)
            self._generator = torch.Generator(device=device).manual_seed(0)

        def __getitem__(self, name: str) -> torch.Tensor:
            shape = self._tensors[name][0]
            value = torch.randn(shape, device=device, generator=self._generator) * 0.02 + (len(shape) == 1)
            return value.to(self._dtype).cpu()

        def __iter__(self) -> Iterator[str]:
            return iter(self._tensors)

        def __len__(self) -> int:
            return len(self._tensors)

    model = ModelConfig(**{**SHAPES, "tiny": TINY}[shape])
    save_rank(folder, model, RandomWeights(model))


class Stages:
    """Seconds by name; functions that are wrapped tell theirs, of all threads together."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def wrap(self, owner: Any, name: str, label: str) -> None:
        """Time every call of ``owner.name`` from here on."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.add(label, time.perf_counter() - began)

        setattr(owner, name, timed)


def load_once(folder: Path, verify: str, profiled: bool) -> None:
    """Load the engine and make one token; print the parts in seconds."""
    import torch

    stages = Stages()
    stages.add("import torch", time.perf_counter() - BEGAN)
    on_gpu = torch.cuda.is_available()
    began = time.perf_counter()
    if on_gpu:
        torch.zeros(1, device="cuda")
    stages.add("CUDA context", time.perf_counter() - began)
    began = time.perf_counter()
    from trtbench_lab.backends.torch import builder, engine_file, paged_executor
    from trtbench_lab.backends.torch.gpu import session, transfer, warming
    from trtbench_lab.engine import Engine
    from trtbench_lab.runtime import ModelRunner

    stages.add("import trtbench_lab", time.perf_counter() - began)
    # Those that are indented run within the one above them; what threads do is summed over them.
    stages.wrap(builder, "engine_decoder", "  modules")
    stages.wrap(builder, "store_of", "  unpack kernels")
    stages.wrap(builder, "load_decoder", "  weights and verification")
    stages.wrap(transfer, "_memories", "    allocate")
    stages.wrap(transfer, "_fill", "    threads: read")
    stages.wrap(transfer, "joined_digest", "    join digests")
    stages.wrap(transfer._PinnedBuffers, "__init__", "    threads: pin memory")
    stages.wrap(transfer._PinnedBuffers, "next", "    threads: wait for the link")
    stages.wrap(engine_file, "digest_by_chunk", "    digest on a CPU")
    stages.wrap(warming, "_make_ready", "  beside: Triton and cuBLAS")
    stages.wrap(paged_executor, "lower", "  lower")
    stages.wrap(session.FusedSession, "start", "  prompt queued")
    stages.wrap(session.FusedSession, "_bucket_of", "    decode memory")
    profile = cProfile.Profile()
    began = time.perf_counter()
    engine = Engine.from_dir(folder, verify=True if verify == "first" else "load")
    opened = time.perf_counter()
    runner = ModelRunner.from_engine(engine)
    if on_gpu:
        torch.cuda.synchronize()
    loaded = time.perf_counter()
    if profiled:
        profile.enable()
    runner.generate([list(range(1, 129))], max_new_tokens=1)
    profile.disable()
    ended = time.perf_counter()
    runner.generate([list(range(1, 129))], max_new_tokens=3)
    stages.seconds |= {
        "open the folder": opened - began, "load": loaded - opened, "first token": ended - loaded,
        "with the decode graph": time.perf_counter() - ended,
    }  # fmt: skip
    print(f"  from_dir to the first token: {ended - began:.2f} s; from the process's start: {ended - BEGAN:.2f} s")
    print("  " + json.dumps({name: round(value, 3) for name, value in stages.seconds.items()}), flush=True)
    if profiled:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(28)


def hf_once(folder: Path) -> None:
    """Load the same shape with Hugging Face and make one token."""
    import torch
    import transformers

    torch.zeros(1, device="cuda")
    began = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda").eval()
    torch.cuda.synchronize()
    loaded = time.perf_counter()
    with torch.inference_mode():
        int(model(torch.arange(1, 129, device="cuda")[None]).logits[0, -1].argmax())
    ended = time.perf_counter()
    print(
        f"  Hugging Face: {ended - began:.2f} s: load {loaded - began:.2f}, first token {ended - loaded:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama3-8b")
    parser.add_argument("--opt_level", type=int, default=1)
    parser.add_argument("--loads", type=int, default=5, help="after the first one")
    parser.add_argument("--hf", action="store_true", help="Hugging Face's loading too (takes a GPU)")
    parser.add_argument("--profile", action="store_true", help="where the host spends one more first token")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--load_hf", help=argparse.SUPPRESS)
    parser.add_argument("--verify", default="load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load_once(Path(options.load), options.verify, options.profile)
    elif options.load_hf:
        hf_once(Path(options.load_hf))
    else:
        run_all(options)


def run_all(options: argparse.Namespace) -> None:
    """Write, build, and load in processes of their own."""
    from trtbench_lab.engine import build
    from trtbench_lab.file_digest import reading_threads
    from trtbench_lab.specs import BuildConfig

    with tempfile.TemporaryDirectory(prefix="trtbench-load-") as folder:
        root = Path(folder)
        began = time.perf_counter()
        write_checkpoint(root / "checkpoint", options.shape)
        print(f"checkpoint written in {time.perf_counter() - began:.1f} s", flush=True)
        config = BuildConfig(
            backend="torch", opt_level=options.opt_level, max_batch_size=1, max_input_len=512, max_seq_len=640
        )
        engine = build(root / "checkpoint", config, root / "engine", use_cache=False)
        phases = {phase["name"]: round(phase["seconds"], 1) for phase in engine.build_report.phases}
        print(f"built in {engine.build_report.seconds:.1f} s: {phases}; {reading_threads()} threads read", flush=True)

        def run(label: str, *words: str, **environment: str) -> None:
            print(label, flush=True)
            command = [sys.executable, __file__, *words]
            status = subprocess.run(command, env={**os.environ, **environment}, check=False).returncode
            if status:
                print(f"  ended with status {status}", flush=True)

        kept = {"TRTBENCH_HOME": str(root / "home"), "TRITON_CACHE_DIR": str(root / "triton")}
        load = ("--load", str(root / "engine"))
        run("the first time, without a C compiler", *load, **kept, CC="/bin/false")
        for number in range(options.loads):
            run(f"load {number + 1}", *load, **kept)
        run("the folder verified first, then loaded", *load, "--verify", "first", **kept)
        if options.profile:
            run("profiled", *load, "--profile", **kept)
        if options.hf:
            from gpu_models import hf_model

            hf_model(options.shape).save_pretrained(root / "hf")
            for number in range(2):
                run(f"Hugging Face {number + 1}", "--load_hf", str(root / "hf"))


if __name__ == "__main__":
    main()
