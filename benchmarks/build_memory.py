"""Most memory that a build of dummy ranks takes on a CPU host, against the weights of one rank.

``python benchmarks/build_memory.py --layers 4`` builds eight tensor-parallel ranks of the 175B shape (hidden 12288, 96
heads; 96 layers whole) from weights that take no disk: matrices are holes of sparse files, which cost the same memory
as numbers when they are read. The engines are written whole: ``--layers 96`` needs 350 GB of disk, 4 layers 17 GB. The
process tree is watched from outside, mapped files included; a build of the same ranks without width tells what Python
and its libraries take. Goal: at most 1.2 × one rank's weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from trtbench_lab.checkpoint import expected_tensors
from trtbench_lab.checkpoint.layout import ITEM_BYTES, nbytes
from trtbench_lab.checkpoint.manifest import Manifest
from trtbench_lab.checkpoint.rank_digest import digest_of_rank_file
from trtbench_lab.engine import build
from trtbench_lab.families.foreign import config_to_json
from trtbench_lab.specs import BuildConfig, Mapping, ModelConfig
from trtbench_lab.storage import digest_of_file

_SPELLED = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_LOOK_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=12288)
    parser.add_argument("--heads", type=int, default=96)
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--pp", type=int, default=1)
    parser.add_argument("--folder", help="where to write; a new folder there is removed at the end")
    parser.add_argument("--parallel", action="store_true", help="ranks side by side, as far as there are cores")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        folder = Path(given.inside)
        config = BuildConfig(
            backend="torch", compute_dtype="float16", max_batch_size=1, max_input_len=64, max_seq_len=128,
            parallel_build=given.parallel,
        )  # fmt: skip
        build(folder / "checkpoint", config, folder / "engine", use_cache=False)
        return
    model = gpt(given.layers, given.hidden, given.heads, Mapping(tp_size=given.tp, pp_size=given.pp))
    bare = gpt(given.layers, 64 * given.tp, 2 * given.tp, model.mapping, vocab_size=512)
    words = ["--parallel"] if given.parallel else []
    libraries, _ = peak_of(bare, given.folder, words)
    peak, seconds = peak_of(model, given.folder, words)
    weights = max(rank_bytes(model, rank) for rank in range(model.mapping.world_size))
    found = {
        "ranks": model.mapping.world_size, "side_by_side": given.parallel, "layers": given.layers,
        "hidden": given.hidden, "rank_weights_mb": round(weights / 1e6), "peak_mb": round(peak / 1e6),
        "libraries_mb": round(libraries / 1e6), "seconds": round(seconds, 1), "ratio": round(peak / weights, 3),
        "ratio_without_libraries": round((peak - libraries) / weights, 3),
    }  # fmt: skip
    print(json.dumps(found, indent=2))


def gpt(layers: int, hidden: int, heads: int, mapping: Mapping, vocab_size: int = 51200) -> ModelConfig:
    """Return a GPT of the 175B kind, 2048 positions, in float16."""
    return ModelConfig(
        architecture="GPTForCausalLM", dtype="float16", vocab_size=vocab_size, max_position_embeddings=2048,
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, hidden_act="gelu_new",
        mapping=mapping, use_parallel_embedding=True,
    )  # fmt: skip


def rank_bytes(config: ModelConfig, rank: int) -> int:
    """Bytes of one rank's weights."""
    tensors = expected_tensors(config, config.mapping.with_rank(rank))
    return sum(nbytes(shape, dtype) for shape, dtype in tensors.values())


def write_dummy(folder: Path, config: ModelConfig) -> None:
    """Write a checkpoint whose matrices are holes; norms are one, biases small, so that keys and logits are numbers."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_to_json(config)))
    digests: dict[bytes, str] = {}
    settings = folder / "config.json"
    files = {settings.name: {"bytes": settings.stat().st_size, "digest": digest_of_file(settings)}}
    for rank in range(config.mapping.world_size):
        tensors = expected_tensors(config, config.mapping.with_rank(rank))
        table, end = {}, 0
        for name, (shape, dtype) in tensors.items():
            start, end = end, end + nbytes(shape, dtype)
            table[name] = {"dtype": _SPELLED[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(table).encode()
        text += b" " * (-(8 + len(text)) % 64)
        path = folder / f"rank{rank}.safetensors"
        with open(path, "wb") as handle:
            handle.write(len(text).to_bytes(8, "little") + text)
            for name, (shape, dtype) in tensors.items():
                if len(shape) == 1:
                    handle.seek(8 + len(text) + table[name]["data_offsets"][0])
                    value = 1 if name.endswith("norm.weight") or "ln_f.weight" in name else 0.01
                    assert ITEM_BYTES[dtype] == 2
                    handle.write(np.full(shape, value, np.float16).tobytes())
            handle.truncate(8 + len(text) + end)
        # As a conversion leaves it: without a manifest the build would first read everything for the engine's key.
        if text not in digests:
            digests[text] = digest_of_rank_file(path)
        files[path.name] = {"bytes": 8 + len(text) + end, "digest": digests[text]}
    Manifest(files).write(folder)


def peak_of(config: ModelConfig, where: str | None, words: list[str]) -> tuple[int, float]:
    """Build in a process of its own; return the most bytes that its tree held at a look, and the seconds."""
    folder = Path(tempfile.mkdtemp(prefix="trtbench-build-memory-", dir=where))
    try:
        write_dummy(folder / "checkpoint", config)
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, __file__, "--inside", str(folder), *words])
        tree, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            peak = max(peak, resident(tree))
            time.sleep(_LOOK_S)
        if process.returncode:
            raise SystemExit(process.returncode)
        return peak, time.monotonic() - began
    finally:
        shutil.rmtree(folder)


def resident(tree: psutil.Process) -> int:
    """Bytes in memory of a process and all below it, pages of mapped files included."""
    total = 0
    try:
        processes = [tree, *tree.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


if __name__ == "__main__":
    main()
