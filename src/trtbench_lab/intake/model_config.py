"""A source's config.json, read so that any malformed content ends in one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import IntakeError
from ..storage import storage_error

_MAX_BYTES = 64 << 20  # the largest real index (hundreds of thousands of tensors) stays below 30 MB


def read_json_object(path: Path, *, what: str) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Parameters
    ----------
    path
        A UTF-8 file, with or without a byte order mark.
    what
        What the file is, for messages: ``"model configuration"``.

    Raises
    ------
    IntakeError
        When it is not UTF-8, not JSON (with line and column), or not an object.
    StorageError
        When it cannot be read.
    """
    where = str(path)
    try:
        raw = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else None
    except FileNotFoundError:
        raise IntakeError(f"The {what} is missing.", where=where, remedy="Fetch the file again.") from None
    except OSError as error:
        raise storage_error(error, path, f"read the {what}") from error
    if raw is None:
        raise IntakeError(f"The {what} is larger than {_MAX_BYTES >> 20} MiB.", where=where, remedy="Fetch it again.")
    if not raw.strip():
        raise IntakeError(f"The {what} is empty.", where=where, remedy="Fetch the file again.")
    if raw.startswith(b"version https://git-lfs"):
        raise IntakeError(f"The {what} is a Git LFS pointer.", where=where, remedy="Run `git lfs pull` in the folder.")
    try:
        payload = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise IntakeError(
            f"The {what} is not UTF-8 text (byte {error.start}).", where=where, remedy="Fetch the file again."
        ) from error
    except json.JSONDecodeError as error:
        raise IntakeError(
            f"The {what} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            where=where, remedy="Mend the file or fetch it again.",
        ) from error  # fmt: skip
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of nested brackets
        raise IntakeError(f"The {what} is not sensible JSON.", where=where, remedy="Fetch the file again.") from error
    if not isinstance(payload, dict):
        kind = type(payload).__name__
        raise IntakeError(f"The {what} is a JSON {kind}, not an object.", where=where, remedy="Fetch the file again.")
    return payload


def read_model_config(directory: Path) -> dict[str, Any]:
    """Return config.json of a Hugging Face folder after checking what every architecture needs: that it names one."""
    path = directory / "config.json"
    config = read_json_object(path, what="model configuration")
    architectures, model_type = config.get("architectures"), config.get("model_type")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    ):
        raise IntakeError(
            f"`architectures` is {_short(architectures)}, not a list of names.",
            where=str(path), remedy='It reads like ["LlamaForCausalLM"]; mend it or fetch the file again.',
        )  # fmt: skip
    if model_type is not None and not isinstance(model_type, str):
        raise IntakeError(
            f"`model_type` is {_short(model_type)}, not a name.",
            where=str(path), remedy='It reads like "llama"; mend it or fetch the file again.',
        )  # fmt: skip
    if not architectures and not model_type:
        _refuse_our_own(config, directory)
        raise IntakeError(
            "It names neither `architectures` nor `model_type`, so nobody can say what the weights mean.",
            where=str(path), remedy='Add "architectures": ["…ForCausalLM"], or fetch the file again.',
        )  # fmt: skip
    return config


def _refuse_our_own(config: dict[str, Any], directory: Path) -> None:
    """Name a checkpoint or an engine that was given where a Hugging Face model is read."""
    if "pretrained_config" in config:
        raise IntakeError(
            "This is an engine, and a Hugging Face model is read here.",
            where=str(directory), remedy="Give the model or the checkpoint that it was built from.",
        )  # fmt: skip
    if "architecture" in config and not (directory / "rank0.safetensors").is_file():
        raise IntakeError(
            "This is a TensorRT-LLM checkpoint, and its rank0.safetensors is missing.",
            where=str(directory), remedy="Convert the model again, or copy the folder again from where it is whole.",
        )  # fmt: skip
    if "architecture" in config:
        raise IntakeError(
            "This is a TensorRT-LLM checkpoint already, and a Hugging Face model is read here.",
            where=str(directory), remedy=f"Build an engine from it: trtbench build --checkpoint_dir {directory}",
        )  # fmt: skip


def refuse_quantized(config: dict[str, Any], directory: Path) -> None:
    """Raise `IntakeError` for weights that another tool has already quantized: their tensors are not plain weights."""
    quantization = config.get("quantization_config")
    if not quantization:
        return
    method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
    raise IntakeError(
        f"The weights are already quantized (quant_method {_short(method)}), and this source reads plain weights.",
        where=str(directory), remedy="`convert` takes it as it is; for this, use the unquantized model.",
    )  # fmt: skip


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
