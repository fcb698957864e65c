"""Steps of a running batch on an engine with fused steps: graphs where all rows decode, packed kernels elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...backends.torch.gpu.attention import PromptRows
from ...backends.torch.gpu.graphs import DecodeBucket, bucket_for, let_go
from ...backends.torch.gpu.step import PackedStep
from .executor_runner import ExecutorStepRunner, StepTokens
from .stepper import StepLimits, StepPlan

if TYPE_CHECKING:
    from ...backends.torch.paged_executor import PagedTorchExecutor
    from ...ranks import RankCommunicator


class GraphStepRunner(ExecutorStepRunner):
    """See `stepper.StepRunner`.

    Parameters
    ----------
    executor
        A loaded engine that offers fused steps.
    limits
        The largest step.
    ranks
        The other ranks of a tensor-parallel engine.
    """

    def __init__(self, executor: PagedTorchExecutor, limits: StepLimits, ranks: RankCommunicator | None = None) -> None:
        super().__init__(executor, limits, ranks)
        self._steps = executor.steps()
        self._pool_list = list(self._pools.values())
        self._max_tokens = limits.max_blocks_per_row * limits.tokens_per_block
        self._buckets: dict[int, DecodeBucket] = {}
        self._scratch: Any = None

    def submit(self, step: StepPlan) -> StepTokens:
        """Queue one step."""
        sent = self._sent(step)
        slots = sent["token_slots"]
        with torch.inference_mode():
            ids = torch.where(slots >= 0, self._sampler.last_tokens[slots.clamp(min=0)], sent["input_ids"])
            if step.num_decode_rows == step.num_rows == step.num_logits:
                logits = self._decoded(step, ids, sent)
            else:
                logits = self._packed(step, ids, sent)
        return self._chosen(logits, step, sent["sample_slots"])

    def _decoded(self, step: StepPlan, ids: torch.Tensor, sent: dict[str, torch.Tensor]) -> torch.Tensor:
        """One token a row: the bucket's graph, over the bucket's own memory."""
        rows = step.num_rows
        size = bucket_for(rows, self.limits.max_batch_size)
        bucket = self._buckets.get(size)
        if bucket is None:
            columns = self.limits.max_blocks_per_row
            bucket = self._buckets[size] = DecodeBucket(self._steps, size, columns, self._max_tokens, self._pool_list)
        bucket.ids[:rows].copy_(ids)
        bucket.positions[:rows].copy_(sent["position_ids"])
        bucket.positions[rows:].fill_(-1)
        tables = sent["block_tables"]
        bucket.tables[:rows, : tables.shape[1]].copy_(tables)
        bucket.run(greedy=False)
        return bucket.logits[: step.num_logits]

    def _packed(self, step: StepPlan, ids: torch.Tensor, sent: dict[str, torch.Tensor]) -> torch.Tensor:
        """Rows that decode in front, pieces of prompts behind them."""
        decoding = step.num_decode_rows
        starts = [int(start) - decoding for start in step.query_starts[decoding : step.num_rows + 1]]
        firsts = [int(step.position_ids[start + decoding]) for start in starts[:-1]]
        begins = (sent["query_starts"][decoding:] - decoding).contiguous()
        tables = sent["block_tables"]
        prompts = PromptRows(starts, firsts, begins, sent["kv_lengths"][decoding:], tables[decoding:].contiguous())
        indices = sent["logit_indices"] if step.num_logits else ids.new_zeros(1)
        if decoding and self._scratch is None:
            self._scratch = self._steps.scratch(self.limits.max_batch_size, self._max_tokens)
        packed = PackedStep(
            ids, sent["position_ids"], sent["token_rows"], tables, indices, decoding, prompts if starts[1:] else None
        )
        with self._steps.store.used():
            return self._steps.packed(packed, self._pool_list, self._scratch)

    def close(self) -> None:
        """Free the graphs, the engine and the pool, once no queued step uses them any more."""
        let_go(self._buckets, self.device)
        super().close()
