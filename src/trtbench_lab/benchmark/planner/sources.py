"""A model's configuration from whatever a person has of it: config.json alone is enough."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from ...checkpoint.layout import whole_tensors
from ...errors import IntakeError
from ...families.foreign import complete_config
from ...families.registry import family_for_hf
from ...intake.model_config import read_json_object
from ...specs import Mapping, ModelConfig, QuantConfig


def config_from_files(path: Path | str, dtype: str = "auto") -> tuple[ModelConfig, dict[str, Any]]:
    """Return a model's configuration, on one rank, and config.json as it stands.

    Parameters
    ----------
    path
        A folder with config.json, or the file: of a Hugging Face model, a checkpoint or an engine of this project.
    dtype
        Data type of the weights; ``"auto"`` is the source's own.

    Raises
    ------
    IntakeError
        When there is none, it is malformed, or of an unknown family.
    """
    file = Path(path).expanduser()
    file = file / "config.json" if file.is_dir() else file
    if not file.is_file():
        raise IntakeError(
            "There is no config.json here.",
            where=str(file),
            remedy="Give a folder or file with the model's config.json; its weights are not needed.",
        )
    raw = read_json_object(file, what="model configuration")
    if "pretrained_config" in raw:  # an engine
        raw = dict(raw["pretrained_config"])
    if "architecture" in raw and "architectures" not in raw:  # a checkpoint
        config = complete_config(raw, where=str(file))
        return (config if dtype == "auto" else config.replace(dtype=dtype)), raw
    plain = {name: value for name, value in raw.items() if name != "quantization_config"}
    family = family_for_hf(plain, where=str(file))
    return family.config_from_hf(plain, dtype, Mapping(), QuantConfig(), where=str(file)), raw


def source_bytes(config: ModelConfig, raw: dict[str, Any]) -> int:
    """Return the bytes that the source's weights take: every tensor in the source's own type, a tied head once."""
    named = str(raw.get("dtype") or raw.get("torch_dtype") or config.dtype).removeprefix("torch.")
    item = {"float32": 4, "float16": 2, "bfloat16": 2}.get(named, 2)
    plain = config.replace(quantization=QuantConfig(), mapping=Mapping(), share_embedding_table=False)
    tied = plain.tie_word_embeddings
    return sum(
        prod(tensor.shape) * item for tensor in whole_tensors(plain) if not (tied and tensor.name.startswith("lm_head"))
    )
