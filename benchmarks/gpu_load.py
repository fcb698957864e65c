"""Loading an engine from the page cache to its first token: a dummy model is written and built, then loaded anew.

``python benchmarks/gpu_load.py --shape llama3-8b``: each load runs in a process of its own; imports are not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from gpu_models import SHAPES
from trtbench_lab.checkpoint import expected_tensors
from trtbench_lab.checkpoint.parts import save_rank
from trtbench_lab.engine import Engine, build
from trtbench_lab.specs import BuildConfig, ModelConfig


class RandomWeights(Mapping[str, torch.Tensor]):
    """Tensors made when they are asked for, so that the model is never whole in memory."""

    def __init__(self, config: ModelConfig) -> None:
        self._tensors = expected_tensors(config, config.mapping)
        self._dtype = getattr(torch, config.dtype)
        self._generator = torch.Generator(device="cuda").manual_seed(0)

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self._tensors[name][0]
        value = torch.randn(shape, device="cuda", generator=self._generator) * 0.02 + (len(shape) == 1)
        return value.to(self._dtype).cpu()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def load_once(folder: Path) -> None:
    """Load the engine and make one token; print the parts in seconds."""
    from trtbench_lab.runtime import ModelRunner

    torch.cuda.init()
    torch.zeros(1, device="cuda")
    times = {}
    began = time.perf_counter()
    engine = Engine.from_dir(folder)
    times["verify"] = time.perf_counter() - began
    runner = ModelRunner.from_engine(engine)
    torch.cuda.synchronize()
    times["load"] = time.perf_counter() - began - times["verify"]
    runner.generate([list(range(1, 129))], max_new_tokens=1)
    times["first token"] = time.perf_counter() - began - times["verify"] - times["load"]
    times["all"] = time.perf_counter() - began
    runner.generate([list(range(1, 129))], max_new_tokens=3)
    times["with the decode graph"] = time.perf_counter() - began
    print(json.dumps({name: round(value, 2) for name, value in times.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama3-8b", choices=sorted(SHAPES))
    parser.add_argument("--opt_level", type=int, default=1)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load_once(Path(options.load))
        return
    with tempfile.TemporaryDirectory(prefix="trtbench-load-") as folder:
        root = Path(folder)
        began = time.perf_counter()
        model = ModelConfig(**SHAPES[options.shape])
        save_rank(root / "checkpoint", model, RandomWeights(model))
        print(f"checkpoint written in {time.perf_counter() - began:.1f} s", flush=True)
        config = BuildConfig(
            backend="torch", opt_level=options.opt_level, max_batch_size=1, max_input_len=512, max_seq_len=640
        )
        engine = build(root / "checkpoint", config, root / "engine", use_cache=False)
        phases = {phase["name"]: round(phase["seconds"], 1) for phase in engine.build_report.phases}
        print(f"built in {engine.build_report.seconds:.1f} s: {phases}", flush=True)
        for _ in range(3):
            subprocess.run([sys.executable, __file__, "--load", str(root / "engine")], check=True)


if __name__ == "__main__":
    main()
