"""A driver for executors of the paged form: ragged rows over scattered blocks, NaN wherever nobody may look."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trtbench_lab.backends.protocol import Executor

PAGED = {"gpt_attention_plugin": "float32", "tokens_per_block": 16}
"""Plugin options that ask for the paged form outright."""


class PagedDriver:
    """Keeps rows of one executor's pools.

    Parameters
    ----------
    executor
        Of the paged form.
    num_rows
        Rows of a batch.
    columns
        Blocks a row may have.
    padding
        Padding tokens added to every run.
    """

    def __init__(self, executor: Executor, num_rows: int, columns: int, *, padding: int = 0, seed: int = 7):
        self.executor, self.num_rows, self.padding = executor, num_rows, padding
        generator = torch.Generator().manual_seed(seed)
        num_blocks = 1 + num_rows * columns + 2
        self.pools: dict[str, torch.Tensor] = {}
        for spec in executor.io:
            if spec.name.startswith("kv_cache_") and spec.mode == "input":
                dtype = getattr(torch, spec.dtype)
                pool = torch.empty((num_blocks, *spec.shape[1:]), dtype=dtype, device=executor.device)
                self.pools[spec.name] = pool.fill_(float("nan") if dtype.is_floating_point else 127)
        blocks = torch.randperm(num_blocks - 1, generator=generator)[: num_rows * columns] + 1
        self.tables = blocks.view(num_rows, columns).int()
        self.lengths = [0] * num_rows
        self.block_size = next(iter(self.pools.values())).shape[3]

    def tensors(self, new: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Everything bound for a step that appends ``new[row]`` to each row; logits of every token are wanted."""
        ids, positions, rows, starts = [], [], [], [0]
        for row, tokens in enumerate(new):
            ids += list(tokens)
            positions += range(self.lengths[row], self.lengths[row] + len(tokens))
            rows += [row] * len(tokens)
            starts.append(len(ids))
        count = len(ids)
        lengths = [past + len(tokens) if tokens or past else 0 for past, tokens in zip(self.lengths, new, strict=True)]
        # Of rows without a new token, and beyond a row's length, no table entry may be read.
        tables = torch.full_like(self.tables, 0)
        for row, length in enumerate(lengths):
            used = -(-length // self.block_size)
            tables[row, :used] = self.tables[row, :used]
        pad = self.padding
        made = {
            "input_ids": torch.tensor(ids + [0] * pad),
            "position_ids": torch.tensor(positions + [0] * pad),
            "token_rows": torch.tensor(rows + [-1] * pad),
            "query_starts": torch.tensor(starts),
            "kv_lengths": torch.tensor(lengths),
            "block_tables": tables,
            "logit_indices": torch.arange(count),
        }
        made = {name: value.int().to(self.executor.device) for name, value in made.items()}
        vocab = self.executor.config.vocab_size
        made["logits"] = torch.full((count, vocab), float("nan"), device=self.executor.device)
        return made | self.pools

    def step(self, new: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Run one step; returns each row's logits (new tokens, V)."""
        tensors = self.tensors(new)
        for name, tensor in tensors.items():
            self.executor.bind(name, tensor)
        self.executor.run()
        self.executor.synchronize()
        self.lengths = [past + len(tokens) for past, tokens in zip(self.lengths, new, strict=True)]
        return list(tensors["logits"].cpu().split([len(tokens) for tokens in new]))
