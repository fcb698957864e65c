"""Which files of a hub repository a conversion needs: configuration, tokenizer, and the weights in one format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from ..errors import DownloadError


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it.

    Attributes
    ----------
    name
        Path inside the repository.
    bytes
        Size; None where the hub does not say.
    digest
        ``"sha256:<hex>"`` for large files, ``"git-sha1:<hex>"`` for the others, None where the hub does not say.
    """

    name: str
    bytes: int | None
    digest: str | None


# Small files that say how to use the weights. Python files are left out: nothing from a repository is run unasked.
NEEDED_BESIDE_WEIGHTS = (
    "config.json", "generation_config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "tokenizer.model.v*", "spiece.model", "sentencepiece*.model",
    "*.tiktoken", "tekken.json", "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
)  # fmt: skip

_SAFETENSORS_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_BIN_SHARD = re.compile(r"pytorch_model-\d{5}-of-\d{5}\.bin")
_OTHER_FORMATS = ("*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.nemo", "*.pt", "*.pth", "*.ckpt*", "*.tflite", "*.ot")
_NOT_WEIGHTS = ("training_args.bin", "optimizer*.bin", "scheduler*.bin", "adapter_*")


def select_files(
    listing: Sequence[HubFile],
    *,
    include: list[str] | None,
    exclude: list[str] | None,
    repo_id: str,
) -> list[HubFile]:
    """Choose the files to fetch.

    Without `include` these are the files beside the weights that a conversion reads, and the weights in one format:
    one safetensors file, else sharded safetensors with their index, else the same in ``.bin``. Copies for other
    frameworks and in subfolders stay where they are. With `include`, exactly what its patterns match; `exclude`
    removes from either. Patterns are the shell's, over whole paths; one that ends in ``/`` means all below it.

    Raises
    ------
    DownloadError
        Nothing matches, the repository holds no readable weights, or a listed name would leave the folder.
    """
    for file in listing:
        _refuse_unsafe(file.name, repo_id)
    if include is not None:
        chosen = [file for file in listing if _matches(file.name, include)]
    else:
        names = {file.name for file in listing}
        weights = _weights(names)
        if not weights:
            _refuse_no_weights(names, repo_id)
        chosen = [file for file in listing if file.name in weights or _matches(file.name, list(NEEDED_BESIDE_WEIGHTS))]
    if exclude is not None:
        chosen = [file for file in chosen if not _matches(file.name, exclude)]
    if not chosen:
        shown = ", ".join(sorted(file.name for file in listing)[:12])
        raise DownloadError(
            f"No file matches (include {include}, exclude {exclude}).",
            where=repo_id, remedy=f"The repository holds: {shown}{', …' if len(listing) > 12 else '.'}",
        )  # fmt: skip
    return sorted(chosen, key=lambda file: file.name)


def _weights(names: set[str]) -> set[str]:
    """Return the weight files in one format, in transformers' order of preference."""
    top = {name for name in names if "/" not in name and not _matches(name, list(_NOT_WEIGHTS))}
    for single, shard in (("model.safetensors", _SAFETENSORS_SHARD), ("pytorch_model.bin", _BIN_SHARD)):
        index = f"{single}.index.json"
        if single in top:
            return {single}
        shards = {name for name in top if shard.fullmatch(name)}
        if shards:
            return shards | ({index} & top)
        suffix = f".{single.rsplit('.', 1)[1]}"
        others = {name for name in top if name.endswith(suffix)}
        # Mistral's consolidated copy repeats the weights under other tensor names; it counts only when it is alone.
        others = {name for name in others if not name.startswith("consolidated")} or others
        if others:
            return others | {name for name in top if name.endswith(f"{suffix}.index.json")}
    return set()


def _refuse_no_weights(names: set[str], repo_id: str) -> None:
    foreign = sorted(name for name in names if _matches(name.rsplit("/", 1)[-1], list(_OTHER_FORMATS)))
    if any(name.rsplit("/", 1)[-1].startswith("adapter_model") for name in names):
        what, remedy = "It holds an adapter, not a whole model.", "Fetch its base model, or a merged one."
    elif foreign:
        shown = ", ".join(foreign[:4]) + (", …" if len(foreign) > 4 else "")
        what = f"It holds no safetensors or .bin weights, only {shown}."
        remedy = "Choose the repository with the original weights, or name files yourself with include (--include)."
    else:
        what, remedy = "It holds no weights.", "Check the repository and the revision, or use include (--include)."
    raise DownloadError(what, where=repo_id, remedy=remedy)


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, f"{pattern}*" if pattern.endswith("/") else pattern) for pattern in patterns)


def _refuse_unsafe(name: str, repo_id: str) -> None:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".trtbench") for part in parts)
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0] or hidden:
        raise DownloadError(
            f"The hub lists a file named {name!r}, which would be written outside the model's folder.",
            where=repo_id, remedy="Nothing was written. Do not use this repository or mirror.",
        )  # fmt: skip
