"""How long quantizing an 8B shape takes on one GPU: random bfloat16 weights, 128 × 512 calibration tokens, all layers.

First a tiny shape is quantized by every method on the CPU and on the GPU, and what they wrote is compared. Then a
Hugging Face folder of `--shape` is made on the GPU (16 GB for llama3-8b), and each method runs on it in this one
process, from the folder to the finished checkpoint. A method that is not through after `--limit` seconds is stopped;
its time then follows from time = until the first layer + layers × the mean layer, and the row says so.

The floor is the arithmetic of `quantize_time.operations` at the rate of a large float32 product measured here, and no
byte read or written.

    python benchmarks/quantize_gpu.py --limit 110
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gpu_models import SHAPES
from quantize_time import METHODS, operations, product_rate
from trtbench_lab.calibration import calibration_tokens, quantize_model
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.progress import ProgressEvent
from trtbench_lab.specs import QuantConfig

BOUND_MINUTES = 5
TINY: dict[str, Any] = {
    **SHAPES["llama3-8b"], "vocab_size": 1024, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 2,
}  # fmt: skip


def products(shape: dict[str, Any]) -> list[tuple[int, int]]:
    """Return (out, in) of a layer's products: query, key and value; dense; fc; gate; proj."""
    hidden, mlp = shape["hidden_size"], shape["intermediate_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    return [(hidden + 2 * kv, hidden), (hidden, hidden), (mlp, hidden), (mlp, hidden), (hidden, mlp)]


def make_model(folder: Path, shape: dict[str, Any], device: str) -> int:
    """Write a Hugging Face folder, a file a layer, and return its bytes."""
    hidden, mlp = shape["hidden_size"], shape["intermediate_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    draw = torch.Generator(device).manual_seed(0)

    def random(*extents: int) -> torch.Tensor:
        spread = torch.randn(extents, generator=draw, device=device, dtype=torch.bfloat16)
        return spread.mul_(extents[-1] ** -0.5).cpu()

    folder.mkdir(parents=True)
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    names: dict[str, str] = {}
    count = shape["num_hidden_layers"] + 1
    for number in range(count):
        if number == count - 1:
            held = {
                "model.embed_tokens.weight": random(shape["vocab_size"], hidden),
                "lm_head.weight": random(shape["vocab_size"], hidden), "model.norm.weight": ones,
            }  # fmt: skip
        else:
            at = f"model.layers.{number}."
            held = {
                f"{at}self_attn.q_proj.weight": random(hidden, hidden),
                f"{at}self_attn.k_proj.weight": random(kv, hidden),
                f"{at}self_attn.v_proj.weight": random(kv, hidden),
                f"{at}self_attn.o_proj.weight": random(hidden, hidden),
                f"{at}mlp.gate_proj.weight": random(mlp, hidden), f"{at}mlp.up_proj.weight": random(mlp, hidden),
                f"{at}mlp.down_proj.weight": random(hidden, mlp), f"{at}input_layernorm.weight": ones,
                f"{at}post_attention_layernorm.weight": ones.clone(),
            }  # fmt: skip
        name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        save_file(held, folder / name, metadata={"format": "pt"})
        names.update(dict.fromkeys(held, name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": count - 1,
        "num_attention_heads": shape["num_attention_heads"], "num_key_value_heads": shape["num_key_value_heads"],
        "vocab_size": shape["vocab_size"], "max_position_embeddings": shape["max_position_embeddings"],
        "rms_norm_eps": 1e-5, "rope_theta": shape["rotary_base"], "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


class OutOfTime(Exception):
    """The limit of a method has passed."""


class Layers:
    """A progress sink that keeps the time of every layer and stops the run at its limit."""

    def __init__(self, limit_s: float):
        self.started, self.limit_s = time.perf_counter(), limit_s
        self.times: list[float] = []

    def __call__(self, event: ProgressEvent) -> None:
        if event.unit != "layer" or event.state != "running" or not event.done:
            return
        seconds = time.perf_counter() - self.started
        self.times.append(seconds)
        if seconds > self.limit_s and event.done != event.total:
            raise OutOfTime

    def of_all(self, layers: int) -> float:
        """Return the seconds until the last layer of `layers` by the law."""
        return self.times[0] + self.mean() * (layers - 1)

    def mean(self) -> float:
        steps = [after - before for before, after in zip(self.times, self.times[1:], strict=False)]
        return statistics.fmean(steps) if steps else 0.0


def tokens_of(rows: int, length: int, vocabulary: int) -> Any:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (rows, length), generator=draw).tolist()
    return calibration_tokens(ids, size=rows, length=length)


def host_peak(*, reset: bool = False) -> float:
    """Return the process's peak of resident memory in GB; `reset` begins a new one (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
        return 0.0
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def compare(scratch: Path, device: str) -> None:
    """Print how near what the GPU writes of a tiny shape is to what the CPU writes."""
    make_model(scratch / "tiny", TINY, "cpu")
    tokens = tokens_of(8, 128, TINY["vocab_size"])
    for method, quant in METHODS.items():
        for act_order in (False, True) if method == "GPTQ" else (False,):
            made = []
            for place in ("cpu", device):
                folder = scratch / f"{method}_{place}"
                quantize_model(
                    scratch / "tiny", folder, QuantConfig(**quant), tokens, device=place, act_order=act_order,
                    quantizer="ours", overwrite=True,
                )  # fmt: skip
                made.append(open_checkpoint(folder).rank(0))
            here, there = made
            worst, differing, count = 0.0, 0, 0
            for name in here.names():
                one, other = here[name], there[name]
                if one.dtype == torch.int8:
                    differing, count = differing + int((one != other).sum()), count + one.numel()
                elif "scal" in name or "smoother" in name:
                    relative = (one.float() - other.float()) / one.float().abs().clamp_min(1e-30)
                    worst = max(worst, float(relative.abs().max()))
            print(
                f"tiny {method}{', act-order' if act_order else ''}: scales differ by {worst:.2g} of their size, "
                f"{100 * differing / count:.3f} % of the stored bytes differ", flush=True,
            )  # fmt: skip


def row(method: str, model: Path, shape: dict[str, Any], asked: argparse.Namespace, rate: float) -> str:
    """Run a method on the whole model and return a line of the table."""
    cuda = asked.device != "cpu"
    tokens = tokens_of(asked.rows, asked.length, shape["vocab_size"])
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    host_peak(reset=True)
    watch, layers = Layers(asked.limit), shape["num_hidden_layers"]
    output = model.parent / "out"
    error = "–"
    try:
        report = quantize_model(
            model, output, QuantConfig(**METHODS[method]), tokens, device=asked.device, quantizer="ours", progress=watch
        )
        seconds = time.perf_counter() - watch.started
        error = f"{100 * statistics.fmean(layer.output_relative_error or 0.0 for layer in report.layers):.2f} %"
        written = sum(file.stat().st_size for file in output.glob("*.safetensors")) / 1e9
        remark = f"whole, {written:.1f} GB written, {seconds - watch.times[-1]:.1f} s after the last layer"
        shutil.rmtree(output)
    except OutOfTime:
        seconds = watch.of_all(layers)
        remark = f"stopped after {len(watch.times)} layers; without what follows the last layer"
    floor = operations(method, layers, tokens.token_ids.numel(), products(shape), asked.length) / rate
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0
    return (
        f"| {method} | {seconds / 60:.2f} | {BOUND_MINUTES} | {watch.times[0]:.2f} | {watch.mean():.2f} "
        f"| {floor / 60:.2f} at {rate / 1e12:.1f} TFLOP/s | {100 * floor / seconds:.0f} % | {peak:.1f} "
        f"| {host_peak():.1f} | {error} | {remark} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama3-8b", choices=["llama3-8b", "tiny"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--limit", type=float, default=300, help="seconds a method may take before it is stopped")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--scratch", help="folder on a disk with room for 30 GB; a temporary one without it")
    asked = parser.parse_args()
    shape = TINY if asked.shape == "tiny" else SHAPES[asked.shape]
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        scratch = Path(folder)
        try:
            compare(scratch, asked.device)
        except Exception:
            traceback.print_exc()
        started = time.perf_counter()
        size = make_model(scratch / "model", shape, asked.device)
        print(f"{asked.shape}: {size / 1e9:.2f} GB made in {time.perf_counter() - started:.1f} s", flush=True)
        rate = product_rate(shape["hidden_size"], asked.device)
        print(
            "| method | minutes | goal | first layer, s | a layer, s | floor | reached | device GB | host GB "
            "| output error | |\n|---|---|---|---|---|---|---|---|---|---|---|", flush=True,
        )  # fmt: skip
        for method in asked.methods:
            try:
                print(row(method, scratch / "model", shape, asked, rate), flush=True)
            except Exception:
                traceback.print_exc()


if __name__ == "__main__":
    main()
