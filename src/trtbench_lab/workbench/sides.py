"""Open whatever a comparison names as a side: an engine, a checkpoint, or a Hugging Face model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import open_checkpoint
from ..engine import Engine
from ..errors import RequestError
from ..progress import ProgressSink, phase
from ..runtime import HFRunner, ModelRunner
from .labels import label_of, quantization_label
from .places import model_dir_from


@dataclass(frozen=True)
class Side:
    """An opened side.

    Attributes
    ----------
    runner
        Generates and scores.
    label
        Its name for people.
    quantization, dtype
        As people say it; the type it computes in.
    hf_dir
        The Hugging Face folder that it came from, with the tokenizer; None where it is not known.
    checkpoint_dir
        The checkpoint that it is or was built from, where that is known.
    """

    runner: Any
    label: str
    quantization: str
    dtype: str
    hf_dir: Path | None
    checkpoint_dir: Path | None = None

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.close()


def open_side(
    folder: str,
    *,
    hf_dtype: str = "auto",
    trust_remote_code: bool = False,
    gpu_weights_percent: float | None = None,
    progress: ProgressSink | None = None,
) -> Side:
    """Open a folder as what it is; of an engine, `gpu_weights_percent` of the weights are kept on the GPU.

    Raises
    ------
    RequestError
        When it is neither an engine, nor a checkpoint, nor a model.
    EngineError, CheckpointError, IntakeError
        When it is one and cannot be opened.
    """
    path = Path(folder).expanduser()
    if any(path.glob("rank*.engine")):
        engine = Engine.from_dir(path, verify="load").with_gpu_weights(gpu_weights_percent)
        config = engine.config
        recorded = config.checkpoint.get("directory")
        with phase("load the engine", progress):
            runner = ModelRunner.from_engine(engine)
        return Side(
            runner,
            engine.name,
            quantization_label(config.pretrained_config),
            config.build_config.compute_dtype,
            engine.tokenizer_dir,
            Path(recorded) if isinstance(recorded, str) else None,
        )
    if any(path.glob("rank*.safetensors")):
        from ..evaluation.definition import definition_runner

        checkpoint = open_checkpoint(path)
        with phase("load the checkpoint", progress):
            runner = definition_runner(checkpoint)
        label = quantization_label(checkpoint.config)
        return Side(runner, label_of(path), label, "float32", checkpoint.source_dir, path)
    if path.is_dir() and not (path / "config.json").is_file():
        raise RequestError(
            "This folder is neither an engine, nor a checkpoint, nor a Hugging Face model.",
            where=str(path),
            remedy="Give what build, convert, quantize or download wrote.",
        )
    directory = model_dir_from(folder, progress=progress)
    return hf_side(directory, "float32" if hf_dtype == "auto" else hf_dtype, trust_remote_code, progress)


def hf_side(directory: Path, dtype: str, trust_remote_code: bool, progress: ProgressSink | None) -> Side:
    """Load a Hugging Face model as a side."""
    with phase("load the Hugging Face model", progress):
        runner = HFRunner.from_dir(directory, dtype=dtype, trust_remote_code=trust_remote_code)
    return Side(runner, label_of(directory), "none", dtype, directory)


def baseline_of(
    side: Side,
    baseline: str | None,
    hf_model_dir: str | None,
    *,
    hf_dtype: str = "auto",
    trust_remote_code: bool = False,
    progress: ProgressSink | None = None,
) -> Side:
    """Open what a side is held against: the folder named, or the Hugging Face model that it came from.

    Raises
    ------
    RequestError
        When no baseline is named and the model is not known.
    """
    if baseline is not None:
        return open_side(baseline, hf_dtype=hf_dtype, trust_remote_code=trust_remote_code, progress=progress)
    directory = model_dir_from(hf_model_dir, progress=progress) if hf_model_dir is not None else side.hf_dir
    if directory is None or not (directory / "config.json").is_file():
        raise RequestError(
            "The Hugging Face model that this came from is not known.",
            where=side.label,
            remedy="Give its folder with --hf_model_dir, or another baseline with --baseline.",
        )
    return hf_side(directory, side.dtype if hf_dtype == "auto" else hf_dtype, trust_remote_code, progress)
