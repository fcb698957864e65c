"""A model whose weights are large enough that a second copy of them would show in the process's memory."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import torch
from safetensors.torch import save_file

from trtbench_lab.checkpoint.safetensors_file import SafetensorsFile
from trtbench_lab.network.export import ExportedNetwork
from trtbench_lab.network.initializers import from_checkpoint
from trtbench_lab.network.referenced import ReferencedNetwork


def anonymous_bytes() -> int:
    """Memory that this process holds and no file stands behind; what the allocator keeps for later is given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("the kernel does not tell RssAnon")


@contextmanager
def laid_out(folder: Path, *, layers: int, hidden: int) -> Iterator[tuple[ReferencedNetwork, int]]:
    """Give a laid-out network of `layers` matrices as stored and as many converted ones, and how memory grew."""
    shape = (2 * hidden, 2 * hidden)
    for number in range(layers):
        save_file({f"w{number}": torch.zeros(shape)}, folder / f"{number}.safetensors")
    files = [SafetensorsFile(folder / f"{number}.safetensors") for number in range(layers)]

    class Weights(dict[str, torch.Tensor]):
        def __getitem__(self, name: str) -> torch.Tensor:
            return files[int(name[1:])].tensor(name)

    graph = ir.Graph([], [], nodes=[], name="g", opset_imports={"": 24})
    recipes = {}
    for number in range(layers):
        for dtype, name in ((torch.float32, f"w{number}"), (torch.float16, f"half{number}")):
            recipes[name] = from_checkpoint(f"w{number}", shape, dtype)
            kind = ir.DataType.FLOAT if dtype == torch.float32 else ir.DataType.FLOAT16
            graph.initializers[name] = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))
    network = ExportedNetwork(ir.Model(graph, ir_version=11), recipes, (), {})
    before = anonymous_bytes()
    with ReferencedNetwork(network, Weights(), folder / "scratch") as referenced:
        yield referenced, anonymous_bytes() - before


if __name__ == "__main__":
    with laid_out(Path(sys.argv[1]), layers=6, hidden=1024) as (laid, growth):
        print(sum(content.nbytes for content in laid.contents.values()), growth)
