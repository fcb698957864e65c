"""What runs the steps of a running batch: a `StepPlan` goes in, tokens come out later, steps take effect in order.

A step is a packed run of the paged form (`backends.protocol`): some rows decode one token, others take in a piece of
their prompt. The scheduler plans step k+1 while step k runs, so the tokens that step k chooses are not known on the
host yet: they stay on the device, one a slot, and step k+1 takes them from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ...errors import EngineError

if TYPE_CHECKING:
    import torch

    from .plan_buffers import PlanBuffers

FAULTY_TOKEN = -1
"""What a runner returns in place of a token when the row's logits hold NaN."""


class RunnerLostError(EngineError):
    """A step failed and no later one can run: of several ranks some may still be in the midst of it."""


@dataclass(frozen=True)
class StepLimits:
    """The largest step that a runner is asked for; fixed while it lives, so that it can fix shapes and addresses.

    Attributes
    ----------
    max_batch_size
        Rows of a step, and the number of slots: a running request keeps its slot (0 to ``max_batch_size - 1``).
    max_num_tokens
        Packed tokens of a step.
    num_blocks
        Blocks of the pool, block 0 (the sink, which no request gets) included.
    tokens_per_block
        Tokens a block holds.
    max_blocks_per_row
        Columns of ``block_tables``.
    vocab_size
        Columns of the logits that are tokens.
    """

    max_batch_size: int
    max_num_tokens: int
    num_blocks: int
    tokens_per_block: int
    max_blocks_per_row: int
    vocab_size: int


@dataclass
class SamplingPlan:
    """How the K tokens of a step are chosen. Arrays have one entry a wanted logit, in the order of ``logit_indices``.

    Attributes
    ----------
    plain
        Every row takes its largest raw logit: nothing below but `slots` need be read.
    slots
        (K,) int32: where the chosen token is kept on the device for the next step, ``last_tokens[slots] = tokens``.
    greedy
        (K,) bool: rows that take the largest processed logit.
    temperature, top_k, top_p
        (K,) float32, int32, float32; ``top_k`` 0 and ``top_p`` 1 mean all tokens.
    uniforms
        (K,) float32 in [0, 1): the draw of a sampled row; a function of the request's seed and the token's number
        alone, so that the row draws the same in any batch and after any preemption.
    repetition, presence, frequency
        (K,) float32 penalties; 1, 0 and 0 are neutral.
    counts_tokens
        Whether any row has a penalty; rows' token counts are then kept by slot.
    count_resets
        (slot, token ids) of requests whose counts begin in this step, before its tokens are chosen.
    ban_rows, ban_tokens
        int64: logit ``[ban_rows[i], ban_tokens[i]]`` is not to be chosen.
    log_probs
        Whether any row wants the raw log-probability of its token.
    """

    plain: bool
    slots: np.ndarray
    greedy: np.ndarray
    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    uniforms: np.ndarray
    repetition: np.ndarray
    presence: np.ndarray
    frequency: np.ndarray
    counts_tokens: bool = False
    count_resets: Sequence[tuple[int, np.ndarray]] = ()
    ban_rows: np.ndarray | None = None
    ban_tokens: np.ndarray | None = None
    log_probs: bool = False


@dataclass
class StepPlan:
    """One step: packed arrays of the paged form, as views of reusable (on a GPU pinned) host memory.

    The first `num_decode_rows` rows decode one token each; the others take in a piece of a prompt. The buffers stay as
    they are until the step's ticket has given its tokens.

    Attributes
    ----------
    number
        Steps are numbered from 0, without gaps, in the order of submission.
    num_tokens, num_rows, num_decode_rows, num_logits, num_columns
        N, B, rows that decode, K, and the block-table columns that are in use in this step.
    max_kv_length
        Largest of ``kv_lengths``.
    input_ids
        (N,) int32; where ``token_slots`` is not −1, any number: the token is ``last_tokens[token_slots]``.
    token_slots
        (N,) int32: slot whose last chosen token goes in here, or −1 for ``input_ids`` as it is.
    position_ids, token_rows, query_starts, kv_lengths, block_tables, logit_indices
        (N,), (N,), (B+1,), (B,), (B, M), (K,) int32, as in the paged form.
    sampling
        How the tokens are chosen.
    buffers
        The memory behind the arrays: one int32 block with a section an array, each at a fixed place.
    """

    number: int
    num_tokens: int
    num_rows: int
    num_decode_rows: int
    num_logits: int
    num_columns: int
    max_kv_length: int
    input_ids: np.ndarray
    token_slots: np.ndarray
    position_ids: np.ndarray
    token_rows: np.ndarray
    query_starts: np.ndarray
    kv_lengths: np.ndarray
    block_tables: np.ndarray
    logit_indices: np.ndarray
    sampling: SamplingPlan
    buffers: PlanBuffers


class StepTicket(Protocol):
    """A step that was submitted."""

    def tokens(self) -> np.ndarray:
        """Wait for the step's tokens and return them: (K,) integers, `FAULTY_TOKEN` where logits hold NaN.

        Raises
        ------
        EngineError
            When the step failed on the device.
        """

    def log_probs(self) -> np.ndarray | None:
        """(K,) float32: the raw log-probability of each token, where the plan asked for it; after `tokens`."""


@runtime_checkable
class StepRunner(Protocol):
    """Runs steps in the order of submission: what an earlier one wrote, a later one sees.

    Attributes
    ----------
    backend, device
        Who runs, and where.
    limits
        The largest step.
    queue_depth
        Steps worth holding at a time: 1 where `submit` returns when the step is done (a CPU), 2 where it only queues.
    """

    backend: str
    device: torch.device
    limits: StepLimits
    queue_depth: int

    def submit(self, step: StepPlan) -> StepTicket:
        """Queue one step without waiting for it.

        Raises
        ------
        EngineError
            When the step could not be queued; the runner stays usable unless it was closed.
        RunnerLostError
            When it is not usable any more.
        """

    def memory(self) -> dict[str, int]:
        """Bytes held: ``weights_bytes``, ``kv_cache_bytes`` and what else is known."""

    def close(self) -> None:
        """Free the engine and the cache."""


@runtime_checkable
class OffersSteps(Protocol):
    """An executor with a runner of its own, faster than the plain one over `Executor`."""

    def step_runner(self, limits: StepLimits) -> Any:
        """Return a `StepRunner` for steps within `limits`; it allocates the pool of ``limits.num_blocks`` blocks."""
