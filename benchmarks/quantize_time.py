"""How long quantizing a GPT-2 medium shape takes, and how much memory: random weights, 128 × 512 calibration tokens.

Each method runs in a process of its own, so that its peak of resident memory is its own. With fewer `--layers` than 24
the time of the whole model follows from time = fixed + layers × a layer, taken from runs with half and all of them.

    flock /tmp/machine.lock nice python benchmarks/quantize_time.py --layers 4
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = {
    "SmoothQuant": {"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"},
    "AWQ": {"quant_algo": "W4A16_AWQ", "group_size": 128, "pre_quant_scale": True},
    "GPTQ": {"quant_algo": "W4A16_GPTQ", "group_size": 128},
}
BOUND_MINUTES = {"SmoothQuant": 4, "AWQ": 10, "GPTQ": 15}
WHOLE = 24


def quantized(method: str, layers: int, rows: int, threads: int) -> dict[str, float]:
    """Make the model, quantize it and return seconds, peak and size."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from trtbench_lab.calibration import calibration_tokens, quantize_model
    from trtbench_lab.specs import QuantConfig

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        model = GPT2LMHeadModel(GPT2Config(n_layer=layers, n_embd=1024, n_head=16))
        size = sum(parameter.nbytes for parameter in model.parameters())
        model.save_pretrained(Path(scratch) / "hf")
        del model
        ids = torch.randint(0, 50257, (rows, 512)).tolist()
        tokens = calibration_tokens(ids, size=rows, length=512)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        started = time.perf_counter()
        quantize_model(
            Path(scratch) / "hf", Path(scratch) / "out", QuantConfig(**METHODS[method]), tokens, dtype="float32"
        )
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak_bytes": peak, "peak_before_bytes": before, "model_bytes": size}


def in_a_process(method: str, layers: int, rows: int, threads: int) -> dict[str, float]:
    words = ["--one", method, "--layers", layers, "--rows", rows, "--threads", threads]
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=WHOLE)
    parser.add_argument("--rows", type=int, default=128, help="calibration rows of 512 tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(quantized(asked.one, asked.layers, asked.rows, asked.threads)))
        return
    print("| method | layers | minutes | minutes for 24 layers | bound | peak over the float32 model, GB |")
    print("|---|---|---|---|---|---|")
    for method in asked.methods:
        found = in_a_process(method, asked.layers, asked.rows, asked.threads)
        whole = found["seconds"]
        if asked.layers < WHOLE:
            half = in_a_process(method, asked.layers // 2, asked.rows, asked.threads)
            each = (found["seconds"] - half["seconds"]) / (asked.layers - asked.layers // 2)
            whole = found["seconds"] + each * (WHOLE - asked.layers)
        over = (found["peak_bytes"] - found["model_bytes"]) / 1e9
        print(
            f"| {method} | {asked.layers} | {found['seconds'] / 60:.2f} | {whole / 60:.1f} | {BOUND_MINUTES[method]} "
            f"| {over:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
