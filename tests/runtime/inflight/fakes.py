"""A paged executor whose "model" hashes every token it can see: one wrong block and the next token is another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trtbench_lab.network.signature import paged_signature
from trtbench_lab.runtime.inflight.executor_runner import ExecutorStepRunner
from trtbench_lab.runtime.inflight.stepper import StepLimits
from trtbench_lab.specs import Mapping, ModelConfig

VOCAB_SIZE = 61
BLOCK = 4
_PRIME = 1_000_003


def next_token(text: list[int]) -> int:
    """The greedy continuation: a hash of all tokens in their order."""
    state = 17
    for token in text:
        state = (state * 31 + token + 1) % _PRIME
    return state % VOCAB_SIZE


def logits_of(text: list[int]) -> np.ndarray:
    """(V,) logits whose largest is `next_token`; the others differ and depend on the text too."""
    best = next_token(text)
    order = (np.arange(VOCAB_SIZE) * 7 + best * 3 + len(text)) % VOCAB_SIZE
    logits = (order / VOCAB_SIZE).astype(np.float32)
    logits[best] = 1.5
    return logits


def greedy(prompt: list[int], new_tokens: int, end_id: int | None = None) -> list[int]:
    """What a request alone gives, by no code of this project."""
    text = list(prompt)
    for _ in range(new_tokens):
        text.append(next_token(text))
        if text[-1] == end_id:
            break
    return text[len(prompt) :]


def fake_config() -> ModelConfig:
    return ModelConfig(
        architecture="GPT2LMHeadModel",
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=4096,
        hidden_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        hidden_act="gelu_new",
        position_embedding_type="learned_absolute",
        mapping=Mapping(),
    )


class HashExecutor:
    """The paged form over one layer whose keys are the tokens themselves; counts what it is given."""

    backend = "torch"

    def __init__(self, tokens_per_block: int = BLOCK) -> None:
        self.device = torch.device("cpu")
        self.config = fake_config()
        self.io = paged_signature(self.config, Mapping(), "float32", tokens_per_block=tokens_per_block)
        self.guards_writes = True
        self.bound: dict[str, torch.Tensor] = {}
        self.steps: list[tuple[int, int]] = []  # (tokens, rows) of each run
        self.fail_at: int | None = None
        self.poison: int | None = None  # a text that begins with this token gives NaN
        self.closed = False

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        spec = next(spec for spec in self.io if spec.name == name)
        assert str(tensor.dtype) == f"torch.{spec.dtype}", name
        assert tensor.ndim == len(spec.shape), name
        assert tensor.is_contiguous(), name
        self.bound[name] = tensor

    def run(self, stream: Any = None) -> None:
        if self.fail_at == len(self.steps):
            self.steps.append((0, 0))
            raise RuntimeError("the device is on fire")
        names = ("input_ids", "position_ids", "token_rows", "query_starts", "kv_lengths", "block_tables")
        ids, positions, rows, starts, lengths, tables = (self.bound[name].numpy() for name in names)
        pool = self.bound["kv_cache_0"].numpy()
        assert starts[0] == 0
        assert starts[-1] == len(ids)
        written: dict[tuple[int, int], int] = {}  # place → row
        for n in range(len(ids)):
            row = int(rows[n])
            assert starts[row] <= n < starts[row + 1]
            block, offset = int(tables[row, positions[n] // BLOCK]), int(positions[n]) % BLOCK
            assert block != 0, "written to the sink"
            assert (block, offset) not in written, "two tokens in one place"
            written[block, offset] = row
            pool[block, 0, 0, offset, :] = ids[n]
            pool[block, 1, 0, offset, :] = positions[n]
        logits = self.bound["logits"]
        for k, index in enumerate(self.bound["logit_indices"].tolist()):
            row, visible = int(rows[index]), int(positions[index]) + 1
            assert lengths[row] == positions[starts[row + 1] - 1] + 1
            places = [(int(tables[row, p // BLOCK]), p % BLOCK) for p in range(visible)]
            # Kernels read and write in any order, so what another row writes in this step is not there yet.
            assert all(written.get(place, row) == row for place in places), "reads what another row is writing"
            text = [int(pool[block, 0, 0, offset, 0]) for block, offset in places]
            assert [int(pool[block, 1, 0, offset, 0]) for block, offset in places] == list(range(visible))
            logits[k] = torch.from_numpy(logits_of(text))
            if self.poison is not None and text[0] == self.poison:
                logits[k, 5] = float("nan")
        self.steps.append((len(ids), len(lengths)))

    def synchronize(self) -> None:
        """Nothing is queued."""

    def memory(self) -> dict[str, int]:
        return {"weights_bytes": 0}

    def close(self) -> None:
        self.closed = True


def step_limits(**changes: int) -> StepLimits:
    values = {
        "max_batch_size": 4,
        "max_num_tokens": 16,
        "num_blocks": 25,
        "tokens_per_block": BLOCK,
        "max_blocks_per_row": 16,
        "vocab_size": VOCAB_SIZE,
    }
    return StepLimits(**{**values, **changes})


def fake_runner(queue_depth: int = 1, **changes: int) -> ExecutorStepRunner:
    """A runner over `HashExecutor`; with a depth of 2 its tokens are read a step late, as on a GPU."""
    runner = ExecutorStepRunner(HashExecutor(), step_limits(**changes))
    runner.queue_depth = queue_depth
    return runner
