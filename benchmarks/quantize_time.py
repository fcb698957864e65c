"""How long quantizing a GPT-2 medium shape takes, and how much memory: random weights, 128 × 512 calibration tokens.

Each method runs in a process of its own, so that its peak of resident memory is its own. With fewer `--layers` than 24
the time of the whole model follows from time = fixed + layers × a layer, taken from runs with half and all of them;
`--whole` runs methods on all 24 layers besides, which shows how far that law holds.

The floor is what the arithmetic of a method takes at the rate of a large float32 product, measured in the same process
just before and just after::

    all methods    every token through every linear layer and half of each attention square, the last layer's
                   second MLP product left out: nobody reads it
    AWQ            20 candidates × the products of the 1,024 tokens that they are judged on
    GPTQ           half of xᵀ x for every token, a factorization and a triangular inverse, and the rounding's updates

    flock /tmp/machine.lock python benchmarks/quantize_time.py --layers 4 --whole SmoothQuant
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

METHODS = {
    "SmoothQuant": {"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"},
    "AWQ": {"quant_algo": "W4A16_AWQ", "group_size": 128, "pre_quant_scale": True},
    "GPTQ": {"quant_algo": "W4A16_GPTQ", "group_size": 128},
}
BOUND_MINUTES = {"SmoothQuant": 4, "AWQ": 10, "GPTQ": 15}
WHOLE, HIDDEN, LENGTH, VOCABULARY = 24, 1024, 512, 50257
SHAPES = ((3 * HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (4 * HIDDEN, HIDDEN), (HIDDEN, 4 * HIDDEN))
"""(out, in) of a layer's products: query, key and value; dense; fc; proj."""


def operations(
    method: str, layers: int, tokens: int, shapes: Sequence[tuple[int, int]] = SHAPES, length: int = LENGTH
) -> float:
    """Return the floating-point operations that a method cannot do without; multiplying and adding are two.

    `shapes` are (out, in) of a layer's products, the last one the MLP's second; `length` is that of a calibration row.
    """
    weights = sum(outputs * inputs for outputs, inputs in shapes)
    attention = 2 * shapes[-1][0] * length  # two products, each 2 · hidden · the (length / 2) keys that a token sees
    each = tokens * (2 * weights + attention)
    unread = tokens * 2 * shapes[-1][0] * shapes[-1][1]
    if method == "AWQ":
        from trtbench_lab.quantization.awq import EXPONENTS
        from trtbench_lab.quantization.inputs import SAMPLE_TOKENS

        each += len(EXPONENTS) * 2 * SAMPLE_TOKENS * weights
    if method == "GPTQ":
        for number, (outputs, inputs) in enumerate(shapes):
            each += outputs * inputs**2 + 2 / 3 * inputs**3
            if number < 3 or number == len(shapes) - 1:  # the gate reads what fc reads
                each += tokens * inputs**2
    return layers * each - unread


def product_rate(hidden: int = HIDDEN, device: str = "cpu") -> float:
    """Return the operations a second of the best of some float32 products of a layer's size."""
    import torch

    x, weight = torch.randn(2048, hidden, device=device), torch.randn(4 * hidden, hidden, device=device)
    best = float("inf")
    for _ in range(12):
        started = time.perf_counter()
        product = torch.nn.functional.linear(x, weight)
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * x.numel() * len(weight) / best


def make_model(folder: Path, layers: int) -> None:
    """Write the Hugging Face folder."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=layers, n_embd=HIDDEN, n_head=16)).save_pretrained(folder)


def quantized(method: str, model: Path, rows: int, threads: int) -> dict[str, float]:
    """Quantize the model and return seconds, peak memory and the rate of products."""
    import torch

    from trtbench_lab.calibration import calibration_tokens, quantize_model
    from trtbench_lab.specs import QuantConfig

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (rows, LENGTH)).tolist()
    tokens = calibration_tokens(ids, size=rows, length=LENGTH)
    rate = product_rate()
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        quantize_model(model, Path(scratch) / "out", QuantConfig(**METHODS[method]), tokens, dtype="float32")
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak_bytes": peak, "rate": max(rate, product_rate())}


def in_a_process(*words: object) -> str:
    """Run this script once more with `words` and return what it prints."""
    done = subprocess.run([sys.executable, __file__, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


class Runs:
    """The models of one invocation, each made once, and methods run on them."""

    def __init__(self, folder: Path, rows: int, threads: int):
        self.folder, self.rows, self.threads = folder, rows, threads

    def of(self, method: str, layers: int) -> dict[str, float]:
        model = self.folder / f"layers_{layers}"
        if not model.exists():
            in_a_process("--make", model, "--layers", layers)
        said = in_a_process("--one", method, "--model", model, "--rows", self.rows, "--threads", self.threads)
        found: dict[str, float] = json.loads(said.splitlines()[-1])
        found["model_bytes"] = (model / "model.safetensors").stat().st_size
        return found


def row(method: str, layers: int, runs: Runs) -> str:
    """Run a method and return a line of the table."""
    found = runs.of(method, layers)
    whole = found["seconds"]
    if layers < WHOLE:
        half = layers // 2
        each = (found["seconds"] - runs.of(method, half)["seconds"]) / (layers - half)
        whole = found["seconds"] + each * (WHOLE - layers)
    floor = operations(method, WHOLE, runs.rows * LENGTH) / found["rate"]
    over = (found["peak_bytes"] - found["model_bytes"]) / 1e9
    return (
        f"| {method} | {layers} | {found['seconds'] / 60:.2f} | {whole / 60:.2f} | {BOUND_MINUTES[method]} "
        f"| {floor / 60:.2f} at {found['rate'] / 1e9:.0f} GFLOP/s | {100 * floor / whole:.0f} % "
        f"| {found['peak_bytes'] / 1e9:.2f} ({over:+.2f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=WHOLE)
    parser.add_argument("--rows", type=int, default=128, help="calibration rows of 512 tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--whole", nargs="*", default=[], choices=METHODS, help="run these on all 24 layers as well")
    for hidden in ("--one", "--model", "--make"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.make:
        make_model(Path(asked.make), asked.layers)
        return
    if asked.one:
        print(json.dumps(quantized(asked.one, Path(asked.model), asked.rows, asked.threads)))
        return
    print("| method | layers | minutes | minutes for 24 layers | bound | floor | reached | peak, GB (over the model) |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), asked.rows, asked.threads)
        for method in asked.methods:
            print(row(method, asked.layers, runs), flush=True)
        for method in asked.whole:
            print(row(method, WHOLE, runs), flush=True)


if __name__ == "__main__":
    main()
