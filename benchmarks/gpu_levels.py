"""What `opt_level` buys on a GPU: seconds of a build and the time a token takes, for levels 0 to 5.

``python benchmarks/gpu_levels.py --limit 150``: a dummy checkpoint is written, built at each level into a folder of its
own (no cache, no earlier timings), and run: ITL of one row and of eight, 900 tokens in and 100 out, median of 3. After
`--limit` seconds no further level is begun. ``--shape tiny`` shows on any machine that the script runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from gpu_load import write_checkpoint
from trtbench_lab.engine import Engine, build
from trtbench_lab.runtime import ModelRunner
from trtbench_lab.specs import BuildConfig


def itl_ms(runner: ModelRunner, rows: int, prompt: int, new: int) -> float:
    """Median over 3 runs of the mean gap between tokens, after one run that captures the graph."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, runner.vocab_size, (rows, prompt), generator=generator).tolist()
    found = []
    for _ in range(4):
        marks = runner.generate(prompts, max_new_tokens=new)["timing"].token_ns
        found.append((marks[-1] - marks[0]) / (len(marks) - 1) / 1e6)
    return statistics.median(found[1:])


def built(checkpoint: Path, level: int, folder: Path, rows: int) -> Engine:
    """Build one level and say what it took."""
    config = BuildConfig(backend="torch", opt_level=level, max_batch_size=rows, max_input_len=900, max_seq_len=1024)
    engine = build(checkpoint, config, folder, use_cache=False)
    report = engine.build_report
    phases = {phase["name"]: round(phase["seconds"], 1) for phase in report.phases if phase["seconds"] >= 0.1}
    lines = [line for line in (folder / "build.log").read_text().splitlines() if " timings in " in line]
    kernels = folder / "rank0.kernels"
    size = f"{kernels.stat().st_size / 1e6:.1f} MB of kernels" if kernels.exists() else "no kernels kept"
    print(f"level {level}: built in {report.seconds:.1f} s, {size}; {phases}")
    for line in lines:
        print(f"  {line}")
    return engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="gpt2-medium")
    parser.add_argument("--levels", default="0,1,2,3,4,5")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=900)
    parser.add_argument("--new", type=int, default=100)
    parser.add_argument("--limit", type=float, default=150.0, help="seconds after which no further level is begun")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trtbench-levels-") as folder:
        os.environ["TRTBENCH_HOME"] = f"{folder}/home"
        root = Path(folder)
        write_checkpoint(root / "checkpoint", options.shape)
        for level in map(int, options.levels.split(",")):
            if time.monotonic() - began > options.limit:
                print(f"level {level}: not begun, {options.limit:.0f} s have passed")
                continue
            engine = built(root / "checkpoint", level, root / f"level {level}", options.rows)
            with ModelRunner.from_engine(engine) as runner:
                times = [itl_ms(runner, rows, options.prompt, options.new) for rows in (1, options.rows)]
            print(f"  ITL {times[0]:.3f} ms with 1 row, {times[1]:.3f} ms with {options.rows}", flush=True)


if __name__ == "__main__":
    main()
