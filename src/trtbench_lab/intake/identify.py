"""What a folder is, judged by the names in it, so that a wrong one is refused with the right name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import IntakeError
from ..storage import is_partial, storage_error


@dataclass(frozen=True)
class FolderKind:
    """A kind of model folder.

    Attributes
    ----------
    name
        Short name: ``"huggingface"``, ``"trtllm_checkpoint"``, ``"engine"``, ``"gguf"`` …
    description
        What it is, as the end of "This is …".
    remedy
        What to do with it where a Hugging Face model folder was asked for.
    """

    name: str
    description: str
    remedy: str


_GET_HF = "Give the folder of the Hugging Face model: config.json with its .safetensors or .bin files."

HUGGINGFACE = FolderKind("huggingface", "a Hugging Face model folder", "")
ENGINE = FolderKind("engine", "an engine folder, already built", "Run it: `run --engine_dir`, or Engine.from_dir(…).")
CHECKPOINT = FolderKind(
    "trtllm_checkpoint", "a TensorRT-LLM checkpoint, already converted",
    "Build it: `build --checkpoint_dir`, or open it with open_checkpoint(…).",
)  # fmt: skip
EMPTY = FolderKind("empty", "an empty folder", _GET_HF)
UNKNOWN = FolderKind("unknown", "a folder without model weights or config.json", _GET_HF)
CONFIG_ONLY = FolderKind(
    "config_only", "a folder with config.json and no weight file",
    "Fetch the weights too (*.safetensors), for example with the `download` verb.",
)  # fmt: skip
WEIGHTS_ONLY = FolderKind(
    "weights_only", "a folder with weights and no config.json",
    "Fetch the model's config.json too: it says what the weights mean.",
)  # fmt: skip

# File-name pattern → kind, for folders that are not Hugging Face's; the first match counts.
_BY_NAME: tuple[tuple[str, FolderKind], ...] = (
    ("adapter_config.json", FolderKind("adapter", "a LoRA/PEFT adapter, not a whole model",
     "Merge it into its base model first (PEFT's merge_and_unload), then use the merged folder.")),
    ("model_index.json", FolderKind("diffusers", "a diffusers pipeline, not a language model", _GET_HF)),
    ("*.engine", ENGINE),
    ("*.gguf", FolderKind("gguf", "a GGUF model", "Use the model's original Hugging Face folder: GGUF is not read.")),
    ("*.nemo", FolderKind("nemo", "a NeMo archive", "NeMo archives are not read; export the model to Hugging Face.")),
    ("consolidated.*.pth", FolderKind("meta", "a Meta checkpoint (params.json, consolidated.NN.pth)",
     "Read it with LLaMAForCausalLM.from_meta_ckpt(…), or use the model's Hugging Face folder (the repositories whose "
     "name ends in -hf, or the folder above original/).")),
    ("config.ini", FolderKind("fastertransformer", "a FasterTransformer folder", _GET_HF)),
    ("*.onnx", FolderKind("onnx", "an ONNX export", _GET_HF)),
    ("tf_model.h5", FolderKind("tensorflow", "a TensorFlow model",
     "Fetch the model's safetensors files, or convert it with transformers (from_tf=True) on a machine you trust.")),
    ("flax_model*.msgpack", FolderKind("flax", "a Flax model", "Fetch the model's safetensors files.")),
)  # fmt: skip


def identify(directory: Path) -> FolderKind:
    """Return what `directory` is, from file names and the keys of its config.json; never raises on its content."""
    names = visible_names(directory)
    if not names:
        return EMPTY
    keys = _config_keys(directory / "config.json")
    if {"pretrained_config", "build_config"} <= keys:
        return ENGINE
    if "architecture" in keys and not keys & {"architectures", "model_type"}:
        return CHECKPOINT
    has_config = "config.json" in names
    has_weights = any(name.endswith((".safetensors", ".bin")) or ".safetensors.index" in name for name in names)
    foreign = next((kind for pattern, kind in _BY_NAME if any(Path(name).match(pattern) for name in names)), None)
    if has_config and has_weights and (foreign is None or foreign.name not in ("adapter", "diffusers")):
        return HUGGINGFACE
    if foreign is not None:
        return foreign
    inner = _inner_model(directory)
    if inner is not None and not (has_config or has_weights):
        return FolderKind("parent", "a folder that holds a model one level down", f"Give the inner folder: {inner}")
    if has_config:
        return CONFIG_ONLY
    return WEIGHTS_ONLY if has_weights else UNKNOWN


def visible_names(directory: Path) -> list[str]:
    """Return the file and folder names in `directory`, without hidden ones and leftovers of unfinished writes."""
    try:
        found = [path for path in directory.iterdir() if not path.name.startswith(".") and not is_partial(path)]
        return sorted(path.name for path in found)
    except OSError as error:
        raise storage_error(error, directory, "read the model folder") from error


def require_folder(directory: Path) -> None:
    """Raise `IntakeError` unless `directory` is a folder, naming what it is instead."""
    if directory.is_dir():
        return
    where = str(directory)
    if directory.is_file():
        kind = {".gguf": "a GGUF file", ".nemo": "a NeMo archive"}.get(directory.suffix, "a file")
        raise IntakeError(f"This is {kind}, not a model folder.", where=where, remedy=_GET_HF)
    parts = directory.parts
    if len(parts) == 2 and not directory.is_absolute() and not where.startswith("."):
        remedy = f"If this names a model on the hub, fetch it first: `download {where}`. Otherwise check the path."
    else:
        remedy = "Check the path; a model on the hub is fetched with the `download` verb."
    raise IntakeError("There is no such folder.", where=where, remedy=remedy)


def _config_keys(path: Path) -> set[str]:
    try:
        config: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return set()
    return set(config) if isinstance(config, dict) else set()


def _inner_model(directory: Path) -> Path | None:
    """Find the model in a hub cache folder (``snapshots/<commit>``) or in the only subfolder that has a config.json."""
    for pattern in ("*/config.json", "snapshots/*/config.json"):
        found = sorted(directory.glob(pattern))
        if found:
            return found[-1].parent
    return None
