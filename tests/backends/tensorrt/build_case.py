"""A tiny model taken through the backend's whole build, with TensorRT stood in for by the recorder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.backends.models import checkpoint_of, random_model

from trtbench_lab.backends.protocol import QuietReporter
from trtbench_lab.backends.registry import backend
from trtbench_lab.backends.tensorrt import builder as builder_module
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.specs import BuildConfig, ModelConfig

LIMITS = {"max_batch_size": 2, "max_input_len": 8, "max_seq_len": 16}


@dataclass
class Built:
    """One build: its folder, the resolved options with notes, and what was reported."""

    folder: Path
    config: ModelConfig
    options: BuildConfig
    notes: list[str]
    report: QuietReporter = field(default_factory=QuietReporter)


def checkpoint(folder: Path, family: str = "gpt2", **options: Any) -> Path:
    """Write the checkpoint of a random model of two alike layers and return its folder."""
    model = random_model(family, folder / "hf")
    checkpoint_of(model, folder / "checkpoint", **options)
    return folder / "checkpoint"


def build(
    source: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    report: QuietReporter | None = None,
    rank: int = 0,
    verify: bool = False,
    **options: Any,
) -> Built:
    """Resolve and build; loading the engine afterwards is left out unless `verify`."""
    if not verify:
        monkeypatch.setattr(builder_module.TensorRTBuilder, "_verify", lambda *_: None)
    made = backend("tensorrt")
    config = open_checkpoint(source).config
    resolution = made.resolve(config, BuildConfig(**{**LIMITS, **options}))
    folder.mkdir(parents=True, exist_ok=True)
    done = Built(folder, config, resolution.build_config, resolution.notes, report or QuietReporter())
    made.build(source, rank, done.options, folder, done.report)
    return done
