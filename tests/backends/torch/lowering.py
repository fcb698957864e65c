"""Random models in the engine's lowered form, and packed steps over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tests.backends.models import RandomModel, checkpoint_of, random_model

from trtbench_lab.backends.torch.gpu.attention import PromptRows
from trtbench_lab.backends.torch.gpu.lowered import LoweredModel, lower
from trtbench_lab.backends.torch.gpu.step import PackedStep
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.network.decoder import Decoder
from trtbench_lab.network.loading import assign_tensors, cast_floats


def lowered(
    family: str, folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[RandomModel, LoweredModel]:
    """Return a random model as Hugging Face runs it, and its lowered form on `device`."""
    model = random_model(family, folder / "hf")
    config = checkpoint_of(model, folder / "checkpoint")
    decoder = Decoder(config, config.mapping)
    weights = open_checkpoint(folder / "checkpoint").rank(0)
    assign_tensors(decoder, {name: weights[name].clone() for name, _ in decoder.named_parameters()})
    cast_floats(decoder, dtype)
    decoder.to(device)
    return model, lower(decoder)


def integers(values: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.int32, device=device)


def packed_prompts(
    tokens: torch.Tensor, spans: Sequence[tuple[int, int]], tables: torch.Tensor, device: torch.device
) -> PackedStep:
    """Pieces ``tokens[row, begin:end]`` of each row, packed; the logits after each piece are wanted."""
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    starts = [0]
    for row, (begin, end) in enumerate(spans):
        ids += tokens[row, begin:end].tolist()
        positions += range(begin, end)
        rows += [row] * (end - begin)
        starts.append(len(ids))
    prompts = PromptRows(
        starts,
        [begin for begin, _ in spans],
        integers(starts, device),
        integers([end for _, end in spans], device),
        tables,
    )
    wanted = integers([start - 1 for start in starts[1:]], device)
    return PackedStep(
        integers(ids, device), integers(positions, device), integers(rows, device), tables, wanted, 0, prompts
    )
