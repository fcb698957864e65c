"""Open what the running verbs have in common: the engine, its tokenizer, and the Hugging Face side of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..engine import Engine
from ..errors import RequestError
from ..progress import ProgressSink, phase
from ..ranks import launched
from ..ranks.world import check_world_size
from ..runtime.hf import HFRunner
from .places import model_dir_from


def open_engine(engine_dir: str, gpu_weights_percent: float | None = None) -> Engine:
    """Open an engine folder, whose load verifies it; of several ranks their number is checked first.

    `gpu_weights_percent` is the share of its weights that it will keep on the GPU when it is loaded.
    """
    engine = Engine.from_dir(engine_dir, verify="load", rank=0 if launched().size > 1 else None)
    check_world_size(engine.world_size, str(engine.directory))
    return engine.with_gpu_weights(gpu_weights_percent)


def tokenizer_for(engine: Engine | None, tokenizer_dir: str | None, *, required: bool = True) -> Any:
    """Return the tokenizer chosen, or the one recorded with the engine; None where neither is, if not `required`."""
    from ..intake.tokenizer import load_tokenizer

    known = engine.tokenizer_dir if engine is not None else None
    chosen = model_dir_from(tokenizer_dir) if tokenizer_dir is not None else known
    if chosen is None:
        if not required:
            return None
        raise RequestError(
            "No tokenizer is known here.",
            where=str(engine.directory) if engine is not None else "tokenizer_dir",
            remedy="Give the folder of the original model with --tokenizer_dir.",
        )
    return load_tokenizer(chosen)


def hf_dir_for(engine: Engine | None, hf_model_dir: str | None, *, progress: ProgressSink | None = None) -> Path:
    """Return the folder of the Hugging Face model: the one chosen, or the one the engine came from."""
    if hf_model_dir is not None:
        return model_dir_from(hf_model_dir, progress=progress)
    if engine is not None and engine.tokenizer_dir is not None and (engine.tokenizer_dir / "config.json").is_file():
        return engine.tokenizer_dir
    raise RequestError(
        "The Hugging Face model that this engine came from is not known.",
        where=str(engine.directory) if engine is not None else "hf_model_dir",
        remedy="Give its folder with --hf_model_dir.",
    )


def hf_runner_for(
    engine: Engine | None,
    hf_model_dir: str | None,
    hf_dtype: str,
    *,
    trust_remote_code: bool = False,
    progress: ProgressSink | None = None,
) -> HFRunner:
    """Load the Hugging Face side; dtype ``auto`` is what the engine computes in, so that both sides do alike."""
    directory = hf_dir_for(engine, hf_model_dir, progress=progress)
    dtype = hf_dtype
    if dtype == "auto":
        dtype = engine.config.build_config.compute_dtype if engine is not None else "float32"
    with phase("load the Hugging Face model", progress):
        return HFRunner.from_dir(directory, dtype=dtype, trust_remote_code=trust_remote_code)
