"""Run a checkpoint without an engine: what it stands for, by definition, on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch

from ..backends.torch.executor import TorchExecutor
from ..calibration.defined import defined_decoder
from ..checkpoint import Checkpoint, open_checkpoint
from ..runtime import EngineLimits, ModelRunner

BACKEND = "definition"
"""The name under which results speak of it: it is no engine."""


class DefinitionExecutor(TorchExecutor):
    """The padded form of a checkpoint's own arithmetic."""

    backend = BACKEND


def definition_runner(checkpoint: Checkpoint | Path | str, *, name: str | None = None) -> ModelRunner:
    """Return a runner over a checkpoint of any quantization and any ranks, in float32.

    Raises
    ------
    CheckpointError
        When the folder is no whole checkpoint.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    decoder, plain, stored_bytes = defined_decoder(opened)
    device = torch.device("cpu")
    executor = DefinitionExecutor(decoder, plain, device, "float32", weights_bytes=stored_bytes)
    longest = plain.max_position_embeddings
    limits = EngineLimits(vocab_size=plain.vocab_size, max_seq_len=longest)
    return ModelRunner(executor, limits, name=name or opened.directory.name)
