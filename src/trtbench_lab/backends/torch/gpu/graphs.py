"""Decode steps as CUDA graphs: one a batch bucket, captured once, over memory whose addresses never change.

A graph replays some 130 kernels with one call; rows of the bucket that no sequence uses stand at position −1 and touch
nothing. A greedy graph also chooses the token, makes it the next step's input and writes it to pinned host memory, so
that steps follow one another without the host; the host waits for events only.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from ....plugins.matmul.launch import Workspace
from . import ops
from .attention import Scratch
from .ops import launch, launch_options
from .step import Steps

RING_STEPS = 64
"""Steps whose tokens the host's ring holds: more than are ever queued."""
ARGMAX_PARTS = 64


def buckets(max_rows: int) -> list[int]:
    """Batch sizes that get a graph: 1, 2, 4, 8, then steps of 8, then of 32, up to `max_rows`."""
    sizes = [size for size in (1, 2, 4, 8, *range(16, 64, 8), *range(64, 1025, 32)) if size < max_rows]
    return [*sizes, max_rows]


def bucket_for(rows: int, max_rows: int) -> int:
    """Return the smallest bucket that holds `rows`."""
    return next(size for size in buckets(max_rows) if size >= rows)


def let_go(captured: dict[int, DecodeBucket], device: torch.device) -> None:
    """Free all buckets, once no queued step writes to the pool or to the host's rings any more."""
    if device.type == "cuda":
        with suppress(RuntimeError):  # of a device that has failed
            torch.cuda.synchronize(device)
    captured.clear()


class DecodeBucket:
    """The memory and the graphs of decode steps of up to `rows` rows.

    Parameters
    ----------
    steps
        Runs the model.
    rows, columns
        Rows of the bucket, columns of its block tables.
    max_tokens
        Longest sequence.
    pools
        The cache, one a layer.

    Attributes
    ----------
    ids, positions
        (rows,) int32: the tokens of the next step and where they go; position −1 for rows that are not in use.
    tables
        (rows, columns) int32.
    logits
        (rows, V) float32 of the last step; V counts the padding of the vocabulary too.
    ring
        (RING_STEPS, rows) int32 on the host, pinned where there is a GPU: the tokens of step s in row s % RING_STEPS.
    """

    def __init__(self, steps: Steps, rows: int, columns: int, max_tokens: int, pools: Sequence[torch.Tensor]) -> None:
        device = steps.model.device
        integers: dict[str, Any] = {"dtype": torch.int32, "device": device}
        self.steps, self.rows, self.pools = steps, rows, pools
        self.ids = torch.zeros(rows, **integers)
        self.positions = torch.full((rows,), -1, **integers)
        self.tables = torch.zeros(rows, columns, **integers)
        self.counters = torch.zeros(rows, **integers)
        self.chosen = torch.zeros(rows, dtype=torch.int64, device=device)
        self.logits = torch.zeros(rows, steps.model.vocab_size, device=device)
        self.ring = torch.zeros(RING_STEPS, rows, dtype=torch.int32, pin_memory=device.type == "cuda")
        self.scratch: Scratch = steps.scratch(rows, max_tokens)
        self.workspace = Workspace(device)
        self._tops = torch.zeros(rows, ARGMAX_PARTS, device=device)
        self._places = torch.zeros(rows, ARGMAX_PARTS, **integers)
        self._graphs: dict[bool, Any] = {}
        # Within a graph nothing but the new token is written in the very step that reads it.
        self._in_graph = False

    def run(self, *, greedy: bool) -> None:
        """Queue one step: ids → logits; greedy also chooses and advances, as `take` does."""
        if self.ids.device.type != "cuda":
            self._step(greedy)
            return
        graph = self._graphs.get(greedy)
        if graph is None:
            graph = self._graphs[greedy] = self._captured(greedy)
        graph.replay()

    def run_eagerly(self) -> None:
        """Queue the kernels of one step, ids → logits, one by one: for profilers, which do not see into a graph."""
        self._step(greedy=False)

    def take(self, *, greedy: bool) -> None:
        """Choose tokens from `logits` (greedy) or take them from `chosen`: they become the next step's input."""
        # Behind the vocabulary lies what pads it for the ranks: zeros, which may be larger than every logit.
        vocab = self.steps.model.config.vocab_size
        if not ops.kernels_run_on(self.ids.device.type):
            tokens = self.logits[:, :vocab].argmax(dim=1) if greedy else self.chosen
            slot = self.counters.long() % RING_STEPS
            self.ring[slot.cpu(), torch.arange(self.rows)] = tokens.to(torch.int32).cpu()
            self.ids.copy_(tokens)
            self.counters += 1
            self.positions.add_((self.positions >= 0).to(torch.int32))
            return
        kernels, options = ops.kernels("choose"), launch_options(self.ids.device)
        if greedy:
            block = ops.power_of_two(-(-vocab // ARGMAX_PARTS))
            launch(
                kernels.argmax_parts_kernel,
                (self.rows, -(-vocab // block)),
                (self.logits, self._tops, self._places, self.logits.shape[1], vocab),
                PARTS=ARGMAX_PARTS,
                BLOCK=block,
                num_warps=4,
                **options,
            )
        launch(
            kernels.take_token_kernel,
            (self.rows,),
            (self._tops, self._places, self.chosen, self.ids, self.positions, self.counters, self.ring, self.rows),
            PARTS=ARGMAX_PARTS,
            PARTS_PADDED=ARGMAX_PARTS,
            RING=RING_STEPS,
            GREEDY=greedy,
            ADVANCE=True,
            num_warps=1,
            **options,
        )

    def begin(self, positions: torch.Tensor, tables: torch.Tensor) -> None:
        """Start sequences at `positions` (b,) of their last token, with block `tables` (b, m); others are empty."""
        used = positions.shape[0]
        self.positions.fill_(-1)
        self.positions[:used].copy_(positions, non_blocking=True)
        self.tables.zero_()
        self.tables[:used, : tables.shape[1]].copy_(tables, non_blocking=True)
        self.counters.zero_()
        self._tops.fill_(float("-inf"))
        self._places.zero_()

    def _step(self, greedy: bool) -> None:
        self.steps.decode(
            self.ids,
            self.positions,
            self.tables,
            self.pools,
            self.scratch,
            self.logits,
            self.workspace,
            early=self._in_graph,
        )
        if greedy:
            self.take(greedy=True)

    def _captured(self, greedy: bool) -> Any:
        """Capture after two runs that compile and warm up every kernel; the runs touch empty rows only."""
        saved = self.positions.clone(), self.ids.clone(), self.counters.clone(), self.logits.clone()
        self.positions.fill_(-1)
        self._in_graph = True
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.inference_mode(), self.steps.store.used():
            for _ in range(2):
                self._step(greedy)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # With ranks, NCCL's watchdog looks at its events meanwhile, which is no part of this thread's capture.
            mode = "global" if self.steps.model.ranks is None else "thread_local"
            with torch.cuda.graph(graph, stream=stream, capture_error_mode=mode):
                self._step(greedy)
        self._in_graph = False
        torch.cuda.current_stream().wait_stream(stream)
        for target, value in zip((self.positions, self.ids, self.counters, self.logits), saved, strict=True):
            target.copy_(value)
        return graph
