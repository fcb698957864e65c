"""Engines of the real backends, built from the tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.ranks.direct_build import build_here

from trtbench_lab.checkpoint import config_from_source, convert
from trtbench_lab.engine import Engine
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.specs import BuildConfig

LIMITS = {"max_batch_size": 4, "max_input_len": 64, "max_seq_len": 100, "max_beam_width": 3}


def engine_of(hf_model: Any, backend: str, folder: Path, **options: Any) -> Engine:
    """Save, convert and build."""
    hf_model.save_pretrained(folder / "hf")
    source = open_hf_folder(folder / "hf")
    convert(source, folder / "checkpoint", config=config_from_source(source, dtype="float32"))
    config = BuildConfig(backend=backend, **{**LIMITS, **options})
    return Engine.from_dir(build_here(folder / "checkpoint", config, folder / "engine"))
