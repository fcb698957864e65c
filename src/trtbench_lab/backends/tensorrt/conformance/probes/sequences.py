"""One conversation for every executor: a ragged prompt, a chunk, decode steps, garbage in a padded or paged cache."""

from __future__ import annotations

from typing import Any

import torch

from ....protocol import Executor
from .tiny import BATCH, CAPACITY, VOCAB_SIZE

PROMPTS = (29, 11)
"""Tokens of each row's prompt; the second is padded, or packed behind the first."""
CHUNK, DECODE_STEPS = 5, 6


def tokens_of_rows() -> torch.Tensor:
    """(B, most) token ids that every trial uses."""
    most = max(PROMPTS) + CHUNK + DECODE_STEPS
    return torch.randint(0, VOCAB_SIZE, (BATCH, most), generator=torch.Generator().manual_seed(3))


def steps() -> list[list[tuple[int, int]]]:
    """Return, for each run, the (start, end) of every row's tokens."""
    ends = list(PROMPTS)
    runs = [[(0, end) for end in ends]]
    for length in [CHUNK] + [1] * DECODE_STEPS:
        runs.append([(end, end + length) for end in ends])
        ends = [end + length for end in ends]
    return runs


def logits_of(executor: Executor, *, capacity: int = CAPACITY) -> torch.Tensor:
    """Run the conversation; return the logits of every token, row after row: (tokens, V) float32 on the host."""
    paged = any(spec.name == "block_tables" for spec in executor.io)
    conversation = _Paged(executor) if paged else _Padded(executor, capacity)
    rows: list[list[torch.Tensor]] = [[] for _ in range(BATCH)]
    for run in steps():
        for row, logits in enumerate(conversation.run(run)):
            rows[row].append(logits.float().cpu())
    return torch.cat([torch.cat(parts) for parts in rows])


def relative_difference(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the largest difference over the reference's largest value; infinite where something is not finite."""
    if found.shape != reference.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found - reference).abs().max() / reference.abs().max())


def _garbage(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers far larger than real keys: a slot seen by mistake ruins the logits."""
    made = 60 * torch.randn(shape, generator=torch.Generator().manual_seed(5))
    return made.clamp(-100, 100).to(device, dtype)


class _Padded:
    """Decode steps keep their tensors, as a session does, so that graphs are captured."""

    def __init__(self, executor: Executor, capacity: int):
        self.executor, self.device = executor, executor.device
        self.write_indices = torch.zeros(BATCH, dtype=torch.int64, device=self.device)
        self.kept: dict[str, torch.Tensor] = {}
        for spec in executor.io:
            if spec.name.startswith("past_"):
                shape = (BATCH, int(spec.shape[1]), capacity, int(spec.shape[3]))
                executor.bind(spec.name, self._kept(spec.name, shape, getattr(torch, spec.dtype)))
        executor.bind("write_indices", self.write_indices)

    def run(self, spans: list[tuple[int, int]]) -> list[torch.Tensor]:
        length = max(end - start for start, end in spans)
        tokens = torch.zeros(BATCH, length, dtype=torch.int64)
        for row, (start, end) in enumerate(spans):
            tokens[row, : end - start] = tokens_of_rows()[row, start:end]
        if length == 1:
            bound = self._decode_tensors()
        else:
            bound = {
                "input_ids": torch.zeros(BATCH, length, dtype=torch.int64, device=self.device),
                "logit_indices": torch.arange(length, device=self.device).repeat(BATCH, 1),
                "logits": torch.empty(BATCH, length, VOCAB_SIZE, device=self.device),
            }
        bound["input_ids"].copy_(tokens)
        bound["logits"].fill_(float("nan"))
        self.write_indices.copy_(torch.tensor([start for start, _ in spans]))
        for name, tensor in bound.items():
            self.executor.bind(name, tensor)
        self.executor.run()
        self.executor.synchronize()
        return [bound["logits"][row, : end - start].clone() for row, (start, end) in enumerate(spans)]

    def _decode_tensors(self) -> dict[str, torch.Tensor]:
        if "input_ids" not in self.kept:
            self.kept["input_ids"] = torch.zeros(BATCH, 1, dtype=torch.int64, device=self.device)
            self.kept["logit_indices"] = torch.zeros(BATCH, 1, dtype=torch.int64, device=self.device)
            self.kept["logits"] = torch.empty(BATCH, 1, VOCAB_SIZE, device=self.device)
        return {name: self.kept[name] for name in ("input_ids", "logit_indices", "logits")}

    def _kept(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return self.kept.setdefault(name, _garbage(shape, dtype, self.device))


class _Paged:
    """Rows own every second block, in no order, and what they do not own is NaN."""

    def __init__(self, executor: Executor):
        self.executor, self.device = executor, executor.device
        pool = next(spec for spec in executor.io if spec.name == "kv_cache_0")
        self.block = int(pool.shape[3])
        per_row = -(-CAPACITY // self.block)
        blocks = 1 + BATCH * per_row  # block 0 is nobody's
        order = torch.randperm(blocks - 1, generator=torch.Generator().manual_seed(9)) + 1
        self.tables = order.reshape(BATCH, per_row).to(torch.int32)
        self.caches: dict[str, torch.Tensor] = {}
        for spec in executor.io:
            if spec.name.startswith("kv_cache_") and spec.mode == "input":
                shape = (blocks, *(int(size) for size in spec.shape[1:]))
                dtype = getattr(torch, spec.dtype)
                self.caches[spec.name] = _paged_garbage(shape, dtype, self.device)
                executor.bind(spec.name, self.caches[spec.name])

    def run(self, spans: list[tuple[int, int]]) -> list[torch.Tensor]:
        lengths = [end - start for start, end in spans]
        starts = torch.tensor([0, *lengths]).cumsum(0)
        rows = tokens_of_rows()
        bound: dict[str, Any] = {
            "input_ids": torch.cat([rows[row, start:end] for row, (start, end) in enumerate(spans)]),
            "position_ids": torch.cat([torch.arange(start, end) for start, end in spans]),
            "token_rows": torch.cat([torch.full((length,), row) for row, length in enumerate(lengths)]),
            "query_starts": starts,
            "kv_lengths": torch.tensor([end for _, end in spans]),
            "block_tables": self.tables,
            "logit_indices": torch.arange(sum(lengths)),
        }
        bound = {name: tensor.to(torch.int32).contiguous().to(self.device) for name, tensor in bound.items()}
        bound["logits"] = torch.full((sum(lengths), VOCAB_SIZE), float("nan"), device=self.device)
        for name, tensor in bound.items():
            self.executor.bind(name, tensor)
        self.executor.run()
        self.executor.synchronize()
        return [bound["logits"][starts[row] : starts[row + 1]].clone() for row in range(len(spans))]


def _paged_garbage(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """NaN, where the type has it."""
    if dtype == torch.int8:
        return torch.full(shape, 127, dtype=dtype, device=device)
    return torch.full(shape, float("nan"), device=device).to(dtype)
