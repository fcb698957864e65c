"""Pipeline stages that pass hidden states on by themselves: rows in micro-batches, logits home to rank 0.

While one stage computes a micro-batch the stage before it computes the next one. Every stage is given the tokens of the
step, whose content the first alone reads; the last stage's logits go to rank 0, which chooses tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

import torch

from ...network.decoder import Decoder
from ...ranks import RankCommunicator


def micro_batches(rows: int, stages: int) -> list[tuple[int, int]]:
    """Cut rows into as many pieces as there are stages, where there are so many rows, of sizes that differ by one."""
    pieces = min(rows, stages)
    bounds = [piece * rows // pieces for piece in range(pieces + 1)]
    return list(pairwise(bounds))


def token_batches(starts: list[int], stages: int) -> list[tuple[int, int]]:
    """Cut packed rows into pieces of about as many tokens each, at most as many as there are stages.

    Parameters
    ----------
    starts
        Where each row's tokens begin, and where the last row's end.
    """
    rows, tokens = len(starts) - 1, starts[-1]
    bounds = [0]
    for piece in range(1, min(rows, stages)):
        share = piece * tokens / stages
        end = bisect_left(starts, share)
        if end and share - starts[end - 1] < starts[end] - share:
            end -= 1
        if bounds[-1] < end < rows:
            bounds.append(end)
    return list(pairwise([*bounds, rows]))


def run_padded(
    ranks: RankCommunicator, decoder: Decoder, tensors: dict[str, torch.Tensor], caches: list[torch.Tensor]
) -> torch.Tensor:
    """Run this rank's stage of a step of the padded form; the logits are right on rank 0."""
    mapping, logits = ranks.mapping, tensors["logits"]
    ids, lengths, wanted = tensors["input_ids"], tensors["write_indices"], tensors["logit_indices"]
    for start, end in micro_batches(ids.shape[0], mapping.pp_size):
        x = ids[start:end]
        if not mapping.is_first_pp_rank:
            x = _received(ranks, (end - start, ids.shape[1], decoder.config.hidden_size), caches[0])
        last = wanted[start:end] if mapping.is_last_pp_rank else None
        result, _ = decoder(x, lengths[start:end], last, [cache[start:end] for cache in caches])
        _pass_on(ranks, result, logits[start:end])
    return bring_home(ranks, logits)


def run_paged(
    ranks: RankCommunicator, decoder: Decoder, tensors: dict[str, torch.Tensor], pools: list[torch.Tensor]
) -> torch.Tensor:
    """Run this rank's stage of a step of the paged form; the logits are right on rank 0."""
    mapping, logits, wanted = ranks.mapping, tensors["logits"], tensors["logit_indices"]
    starts = tensors["query_starts"].tolist()
    rows, tokens = tensors["kv_lengths"].shape[0], tensors["token_rows"].shape[0]
    dtype = next(parameter.dtype for parameter in decoder.parameters() if parameter.is_floating_point())
    # Prompts and rows that decode stand side by side: pieces of as many rows would not be of as much work.
    for first, end in token_batches(starts, mapping.pp_size):
        # Padding stands behind the last row's tokens.
        begin, stop = starts[first], starts[end] if end < rows else tokens
        if begin == stop:
            continue
        x = tensors["input_ids"][begin:stop]
        if not mapping.is_first_pp_rank:
            x = _received(ranks, (stop - begin, decoder.config.hidden_size), x, dtype)
        token_rows = tensors["token_rows"][begin:stop]
        inside = ((wanted >= begin) & (wanted < stop)).nonzero()[:, 0]
        result, _ = decoder(
            x,
            tensors["position_ids"][begin:stop],
            torch.where(token_rows >= 0, token_rows - first, token_rows),
            tensors["query_starts"][first : end + 1] - begin,
            tensors["kv_lengths"][first:end],
            tensors["block_tables"][first:end].contiguous(),
            wanted[inside] - begin if mapping.is_last_pp_rank else None,
            pools,
        )
        if mapping.is_last_pp_rank:
            logits[inside] = result
        else:
            ranks.send(result, mapping.next_pp_rank)
    return bring_home(ranks, logits)


def bring_home(ranks: RankCommunicator, logits: torch.Tensor) -> torch.Tensor:
    """Give rank 0 the last stage's logits; every rank calls it."""
    mapping = ranks.mapping
    source = (mapping.pp_size - 1) * mapping.tp_size
    if mapping.pp_size > 1 and mapping.rank == source:
        ranks.send(logits, 0)
    ranks.flush()
    if mapping.pp_size > 1 and mapping.rank == 0:
        ranks.receive(logits, source)
    return logits


def _received(
    ranks: RankCommunicator, shape: tuple[int, ...], like: torch.Tensor, dtype: torch.dtype | None = None
) -> torch.Tensor:
    x = torch.empty(shape, dtype=dtype or like.dtype, device=like.device)
    return ranks.receive(x, ranks.mapping.prev_pp_rank)


def _pass_on(ranks: RankCommunicator, result: torch.Tensor, logits: torch.Tensor) -> None:
    if ranks.mapping.is_last_pp_rank:
        logits.copy_(result)
    else:
        ranks.send(result, ranks.mapping.next_pp_rank)
