"""Conversion of the GPT-2 124M shape against copying the same bytes, and its peak memory over the baseline.

    python benchmarks/convert.py [--rounds 5] [--folder DIR]

Random weights in float32, one safetensors file of 498 MB, converted at tp 1 and tp 4 in a fresh process each. A round
times `shutil.copyfile` of the source to a new file on the same disk and then the conversion; the ratio is of bytes
written a second, and the medians are quoted. Peak memory is the process's resident high-water mark (VmHWM, reset after
the libraries are loaded and a small conversion has run) less its resident memory at that point; mapped pages count.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE = {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257}
SMALL = {"n_embd": 32, "n_head": 4, "n_layer": 1, "n_positions": 32, "vocab_size": 128}
LARGEST_BYTES = SHAPE["vocab_size"] * SHAPE["n_embd"] * 4


def write_model(folder: Path, shape: dict[str, int]) -> Path:
    """Write a Hugging Face folder of GPT-2 with random weights."""
    import torch
    from safetensors.torch import save_file

    hidden, torch_rng = shape["n_embd"], torch.Generator().manual_seed(0)

    def random(*extents: int) -> torch.Tensor:
        return torch.randn(*extents, generator=torch_rng) * 0.02

    tensors = {"wte.weight": random(shape["vocab_size"], hidden), "wpe.weight": random(shape["n_positions"], hidden)}
    for layer in range(shape["n_layer"]):
        block = f"h.{layer}"
        for norm in ("ln_1", "ln_2"):
            tensors |= {f"{block}.{norm}.weight": random(hidden), f"{block}.{norm}.bias": random(hidden)}
        for name, inner, outer in (
            ("attn.c_attn", hidden, 3 * hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden),
            ("mlp.c_proj", 4 * hidden, hidden),
        ):
            tensors |= {f"{block}.{name}.weight": random(inner, outer), f"{block}.{name}.bias": random(outer)}
    tensors |= {"ln_f.weight": random(hidden), "ln_f.bias": random(hidden)}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "dtype": "float32", **shape}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def resident_bytes(field: str) -> int:
    """Return VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{field} is not in /proc/self/status")


def measure(folder: Path, tp_size: int, workers: int | None, rounds: int) -> dict[str, float]:
    """Convert in this process; return medians and the peak."""
    from trtbench_lab.checkpoint import config_from_source, convert
    from trtbench_lab.intake.huggingface import open_hf_folder
    from trtbench_lab.specs import Mapping

    out = folder / f"out-{tp_size}"

    def run(name: str) -> float:
        shutil.rmtree(out, ignore_errors=True)
        source = open_hf_folder(folder / name)
        config = config_from_source(source, mapping=Mapping(tp_size=tp_size))
        report = convert(source, out, config=config, workers=workers)
        return report.written_bytes / report.seconds

    run("small")
    Path("/proc/self/clear_refs").write_text("5")
    baseline = resident_bytes("VmRSS")
    source_file = folder / "gpt2" / "model.safetensors"
    copies, conversions = [], []
    for _ in range(rounds):
        target = folder / "copy.bin"
        started = time.perf_counter()
        shutil.copyfile(source_file, target)
        copies.append(source_file.stat().st_size / (time.perf_counter() - started))
        target.unlink()
        conversions.append(run("gpt2"))
    peak = resident_bytes("VmHWM") - baseline
    return {
        "copy_mb_per_s": statistics.median(copies) / 1e6,
        "convert_mb_per_s": statistics.median(conversions) / 1e6,
        "ratio": statistics.median(conversions) / statistics.median(copies),
        "peak_mb": peak / 1e6,
        "peak_in_largest_tensors": peak / LARGEST_BYTES,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="disk to measure on; default a temporary folder")
    parser.add_argument("--child", type=int, nargs=2, metavar=("TP", "WORKERS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        tp_size, workers = args.child
        print(json.dumps(measure(args.folder, tp_size, workers or None, args.rounds)))
        return
    folder = Path(tempfile.mkdtemp(prefix="convert-", dir=args.folder))
    try:
        write_model(folder / "gpt2", SHAPE)
        write_model(folder / "small", SMALL)
        for tp_size, workers in ((1, 0), (4, 0), (4, 1)):
            command = [sys.executable, __file__, "--folder", str(folder), "--rounds", str(args.rounds)]
            done = subprocess.run(
                [*command, "--child", str(tp_size), str(workers)], capture_output=True, text=True, check=True
            )
            found = json.loads(done.stdout)
            label = f"tp {tp_size}, {f'{workers} worker' if workers else 'default workers'}"
            print(
                f"{label:24s} convert {found['convert_mb_per_s']:6.0f} MB/s, copy {found['copy_mb_per_s']:6.0f} MB/s, "
                f"ratio {found['ratio']:.2f}; peak {found['peak_mb']:.0f} MB over the baseline "
                f"= {found['peak_in_largest_tensors']:.2f} × the largest tensor"
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
