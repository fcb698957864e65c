"""Cut a whole tensor for a rank, and join the ranks' parts of a checkpoint to the whole again."""

from __future__ import annotations

import torch

from ..checkpoint.layout import RankSlice, WholeTensor, rank_name, rank_slice, rank_tensors
from ..checkpoint.reader import Checkpoint
from ..errors import QuantizationError


def part_of(whole: torch.Tensor, cut: RankSlice) -> torch.Tensor:
    """Return what a rank holds of `whole`."""
    if cut.shape == tuple(whole.shape) and len(cut.rows) == 1:
        return whole
    part = torch.zeros(cut.shape, dtype=whole.dtype)
    filled = 0
    for start, end in cut.rows:
        rows = whole[start:end]
        part[filled : filled + end - start] = rows if cut.columns is None else rows[:, slice(*cut.columns)]
        filled += end - start
    return part


def whole_from_ranks(checkpoint: Checkpoint, tensor: WholeTensor) -> torch.Tensor:
    """Join the parts of `tensor` that the ranks of `checkpoint` hold.

    A tied head that the checkpoint keeps in the embedding only is read from there.

    Raises
    ------
    QuantizationError
        When no rank has it.
    """
    config = checkpoint.config
    name = tensor.name
    if name == "lm_head.weight" and config.share_embedding_table:
        name = "transformer.vocab_embedding.weight"
    whole: torch.Tensor | None = None
    for rank in range(checkpoint.world_size):
        mapping = config.mapping.with_rank(rank)
        held = next((other for other in rank_tensors(config, mapping) if other.name == name), None)
        if held is None:
            continue
        cut = rank_slice(held, config, mapping)
        weights = checkpoint.rank(rank)
        part = weights[rank_name(held, config, mapping)]
        if cut.shape == held.shape and len(cut.rows) == 1:
            return part
        if whole is None:
            whole = torch.empty(held.shape, dtype=part.dtype)
        filled = 0
        for start, end in cut.rows:
            target = whole[start:end]
            if cut.columns is not None:
                target = target[:, slice(*cut.columns)]
            target.copy_(part[filled : filled + end - start])
            filled += end - start
    if whole is None:
        raise QuantizationError(
            "No rank of the checkpoint holds this tensor.", where=name, remedy="Convert the model again."
        )
    return whole
