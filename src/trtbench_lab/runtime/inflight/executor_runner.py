"""Steps over any executor of the paged form: one transfer to the device, sampling there, tokens back by a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import EngineError
from ..sampling import one_thread
from .device_sampler import DeviceSampler
from .plan_buffers import Layout
from .stepper import OffersSteps, StepLimits, StepPlan, StepRunner

if TYPE_CHECKING:
    from ...backends.protocol import Executor, TensorSpec
    from ...ranks import RankCommunicator


def is_paged(executor: Executor) -> bool:
    """Whether an executor takes the paged form."""
    return any(spec.name == "block_tables" for spec in executor.io)


def pool_specs(executor: Executor) -> list[TensorSpec]:
    """The cache inputs of an executor, one a layer."""
    aliased = {spec.aliases for spec in executor.io if spec.aliases is not None}
    return [spec for spec in executor.io if spec.name in aliased]


def pool_shape(spec: TensorSpec, limits: StepLimits) -> tuple[int, ...]:
    """Shape of a layer's pool: (P, 2, Hkv, bs, D)."""
    return (limits.num_blocks, 2, int(spec.shape[2]), limits.tokens_per_block, int(spec.shape[4]))


def block_bytes(executor: Executor, tokens_per_block: int) -> int:
    """Bytes of one block over all layers of this rank."""
    total = 0
    for spec in pool_specs(executor):
        # (P, 2, Hkv, bs, D)
        heads, head_size = int(spec.shape[2]), int(spec.shape[4])
        total += 2 * heads * tokens_per_block * head_size * getattr(torch, spec.dtype).itemsize
    return total


def tokens_per_block_of(executor: Executor, default: int) -> int:
    """The block size that the engine fixes, or `default` where it takes any."""
    size = pool_specs(executor)[0].shape[3]
    return size if isinstance(size, int) else default


def step_runner_for(executor: Executor, limits: StepLimits, ranks: RankCommunicator | None = None) -> StepRunner:
    """Return the executor's own runner where it has one, else the plain one.

    Parameters
    ----------
    executor, limits
        Of this process.
    ranks
        The other ranks, for an engine of several.

    Raises
    ------
    EngineError
        For an engine without a paged cache, or one that holds a part of the model only.
    """
    # Stages of a pipeline run their modules: no graph holds what they send each other.
    fused = hasattr(executor, "fused_session") and executor.device.type == "cuda"
    if fused and executor.config.mapping.pp_size == 1:
        from .graph_runner import GraphStepRunner

        return GraphStepRunner(executor, limits, ranks)  # type: ignore[arg-type]
    if ranks is None and isinstance(executor, OffersSteps):
        runner: StepRunner | None = executor.step_runner(limits)
        if runner is not None:
            return runner
    return ExecutorStepRunner(executor, limits, ranks)


class ExecutorStepRunner:
    """See `stepper.StepRunner`.

    Parameters
    ----------
    executor
        A loaded engine of the whole model, paged.
    limits
        The largest step; the pool of ``limits.num_blocks`` blocks is allocated here.
    ranks
        The other ranks, which are given the same steps. Rank 0 chooses the tokens; the others get them from it, on the
        device, before the next step reads them.
    """

    def __init__(self, executor: Executor, limits: StepLimits, ranks: RankCommunicator | None = None) -> None:
        _check_form(executor)
        self._ranks = ranks
        self.executor, self.limits = executor, limits
        self.backend, self.device = executor.backend, executor.device
        on_gpu = self.device.type == "cuda"
        self.queue_depth = 2 if on_gpu else 1
        # The scheduler keeps every index in range, so the guard's reading of them (a wait a step) is not needed.
        executor.guards_writes = False
        specs = {spec.name: spec for spec in executor.io}
        width = specs["logits"].shape[-1]
        width = width if isinstance(width, int) else limits.vocab_size
        self._sampler = DeviceSampler(limits, self.device)
        self._layout = Layout.from_limits(limits)
        self._block = torch.zeros(self._layout.total, dtype=torch.int32, device=self.device)
        self._logits = torch.zeros(limits.max_batch_size, width, device=self.device)
        self._pools = {}
        for spec in pool_specs(executor):
            pool = torch.zeros(pool_shape(spec, limits), dtype=getattr(torch, spec.dtype), device=self.device)
            executor.bind(spec.name, pool)
            self._pools[spec.name] = pool

    def submit(self, step: StepPlan) -> StepTokens:
        """Run or queue one step."""
        sent = self._sent(step)
        slots = sent["token_slots"]
        ids = torch.where(slots >= 0, self._sampler.last_tokens[slots.clamp(min=0)], sent["input_ids"])
        bind = self.executor.bind
        bind("input_ids", ids)
        for name in ("position_ids", "token_rows", "query_starts", "kv_lengths", "block_tables"):
            bind(name, sent[name])
        if step.num_logits:
            bind("logit_indices", sent["logit_indices"])
            logits = self._logits[: step.num_logits]
        else:
            # Every step has at least one wanted logit; here nobody reads it.
            bind("logit_indices", self._block[:1].clone().zero_())
            logits = self._logits[:1]
        bind("logits", logits)
        self.executor.run()
        return self._chosen(logits, step, sent["sample_slots"])

    def _chosen(self, logits: torch.Tensor, step: StepPlan, slots: torch.Tensor) -> StepTokens:
        """Choose the step's tokens on rank 0, and let every rank have them for the next step."""
        tokens, log_probs = torch.empty(0, dtype=torch.int32), None
        if not step.num_logits:
            return StepTokens(tokens, None, None)
        chooses = self._ranks is None or self._ranks.mapping.rank == 0
        with torch.inference_mode(), one_thread(self.device):
            if chooses:
                tokens, log_probs = self._sampler.choose(logits, step.sampling, slots.long())
            if self._ranks is not None:
                self._ranks.broadcast(self._sampler.last_tokens, 0)
        return StepTokens.copied(tokens, log_probs)

    def _sent(self, step: StepPlan) -> dict[str, torch.Tensor]:
        """The step's arrays on the device."""
        if self.device.type == "cpu":
            source = step.buffers.block
        else:
            self._block.copy_(step.buffers.block, non_blocking=True)
            source = self._block
        used = {
            "input_ids": step.num_tokens,
            "token_slots": step.num_tokens,
            "position_ids": step.num_tokens,
            "token_rows": step.num_tokens,
            "query_starts": step.num_rows + 1,
            "kv_lengths": step.num_rows,
            "logit_indices": step.num_logits,
            "sample_slots": step.num_logits,
        }
        offsets = self._layout.offsets
        sent = {name: source[offsets[name] : offsets[name] + count] for name, count in used.items()}
        columns = self.limits.max_blocks_per_row
        start = offsets["block_tables"]
        tables = source[start : start + step.num_rows * columns].view(step.num_rows, columns)
        # Reference forms gather a row's whole table, so the columns that nobody reads are cut off.
        sent["block_tables"] = tables[:, : step.num_columns].contiguous()
        return sent

    def memory(self) -> dict[str, int]:
        """Bytes held: what the executor knows, and ``kv_cache_bytes``."""
        return {**self.executor.memory(), "kv_cache_bytes": sum(pool.nbytes for pool in self._pools.values())}

    def close(self) -> None:
        """Free the engine and the pool."""
        self._pools.clear()
        self.executor.close()


class StepTokens:
    """See `stepper.StepTicket`: tokens on their way to the host.

    Parameters
    ----------
    tokens, log_probs
        On the host; complete once `event` has come.
    event
        A CUDA event, or None where there is nothing to wait for.
    """

    def __init__(self, tokens: torch.Tensor, log_probs: torch.Tensor | None, event: Any) -> None:
        self._tokens, self._log_probs, self._event = tokens, log_probs, event

    @classmethod
    def copied(cls, tokens: torch.Tensor, log_probs: torch.Tensor | None) -> StepTokens:
        if tokens.device.type == "cpu":
            return cls(tokens, log_probs, None)
        host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True).copy_(tokens, non_blocking=True)
        host_probs = None
        if log_probs is not None:
            host_probs = torch.empty(log_probs.shape, pin_memory=True).copy_(log_probs, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return cls(host, host_probs, event)

    def tokens(self) -> np.ndarray:
        if self._event is not None:
            try:
                self._event.synchronize()
            except RuntimeError as error:
                raise EngineError(
                    "The step failed on the device.",
                    remedy="Load the engine again; the details say what the driver reports.",
                    details=str(error),
                ) from error
        found: np.ndarray = self._tokens.numpy()
        return found

    def log_probs(self) -> np.ndarray | None:
        return None if self._log_probs is None else self._log_probs.numpy()


def not_paged(backend: str) -> EngineError:
    """The error for an engine whose cache is one piece a sequence."""
    return EngineError(
        "This engine keeps its cache in one piece a sequence; requests cannot join and leave a running batch.",
        where=f"backend {backend}",
        remedy="Build it with --use_inflight_batching.",
    )


def _check_form(executor: Executor) -> None:
    names = {spec.name for spec in executor.io}
    if not is_paged(executor):
        raise not_paged(executor.backend)
    if "logits" not in names or "input_ids" not in names:
        raise EngineError(
            "This engine holds one of several pipeline stages, and in-flight batching needs the whole model.",
            remedy="Build with pp_size=1 to run it in one process.",
        )
