"""Meta's own LLaMA folders: params.json and ``consolidated.NN.pth`` shards, offered under Hugging Face's names.

Two things differ from Hugging Face beside the names. A model is cut over several files (by rows or columns, as Meta's
model parallelism runs it), and the rows of q and k go pair by pair: Meta rotates elements (2i, 2i + 1) of a head,
Hugging Face elements (i, i + d/2), so the rows are put into the other order here.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.location import TensorLocation
from ..errors import IntakeError, did_you_mean
from ..families.hf_config import HfConfig
from ..storage import digest_of_file, digest_of_json
from .identify import require_folder
from .model_config import read_json_object
from .torch_bin import load_torch_bin

PARAMS = "params.json"
_SHARD = re.compile(r"consolidated\.(\d+)\.pth")
_KNOWN = frozenset(
    {
        "dim", "n_heads", "n_layers", "n_kv_heads", "multiple_of", "ffn_dim_multiplier", "hidden_dim", "norm_eps",
        "vocab_size", "rope_theta", "use_scaled_rope", "rope_scaling_factor", "max_seq_len", "max_batch_size",
    }
)  # fmt: skip
# Meta's name → (Hugging Face's name, how the shards lie: below each other, beside each other, alike).
_EDGES = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", "table"),
    "norm.weight": ("model.norm.weight", "alike"),
    "output.weight": ("lm_head.weight", "rows"),
}
_LAYER = {
    "attention.wq.weight": ("self_attn.q_proj.weight", "rows"),
    "attention.wk.weight": ("self_attn.k_proj.weight", "rows"),
    "attention.wv.weight": ("self_attn.v_proj.weight", "rows"),
    "attention.wo.weight": ("self_attn.o_proj.weight", "columns"),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", "rows"),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", "rows"),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", "columns"),
    "attention_norm.weight": ("input_layernorm.weight", "alike"),
    "ffn_norm.weight": ("post_attention_layernorm.weight", "alike"),
}
# Factor by number of layers where use_scaled_rope comes without one: LLaMA 3.1 (8B, 70B, 405B) and 3.2 (1B, 3B).
_SCALING_FACTOR = {32: 8.0, 80: 8.0, 126: 8.0, 16: 32.0, 28: 32.0}
_LLAMA3_THETA = 500000.0


class MetaSource:
    """A Meta folder as a `ModelSource`; made by `open_meta_folder`.

    Attributes
    ----------
    directory
        The folder.
    config
        The configuration in Hugging Face's field names.
    """

    def __init__(self, directory: Path, files: list[Path], max_position_embeddings: int | None):
        self.directory = directory
        self._files = files
        params = HfConfig(read_json_object(directory / PARAMS, what="list of parameters"), str(directory / PARAMS))
        unknown = sorted(set(params.values) - _KNOWN)
        if unknown:
            raise IntakeError(
                f"{PARAMS} asks for what this version does not read: {', '.join(unknown[:6])}.",
                where=params.where,
                remedy="Use the model's Hugging Face folder.",
            )
        self._shards = [load_torch_bin(file) for file in files]
        self._check_alike()
        self._names = self._mapped()
        self.config = self._hf_config(params, max_position_embeddings)

    def __repr__(self) -> str:
        return f"MetaSource({str(self.directory)!r}, {len(self._names)} tensors in {len(self._files)} shards)"

    def names(self) -> tuple[str, ...]:
        """Return the tensors' names as Hugging Face has them; what is not LLaMA's keeps its own."""
        return tuple(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the extents of tensor `name` with its shards together."""
        meta_name, _ = self._entry(name)
        shape = list(self._shards[0][meta_name].shape)
        dim = self._joined_along(name)
        if dim is not None:
            shape[dim] = sum(int(shard[meta_name].shape[dim]) for shard in self._shards)
        return tuple(shape)

    def dtype(self, name: str) -> torch.dtype:
        """Return the element type of tensor `name`."""
        return self._shards[0][self._entry(name)[0]].dtype

    def tensor(self, name: str) -> torch.Tensor:
        """Return tensor `name`: mapped where it is one shard's own, else put together in memory."""
        meta_name, _ = self._entry(name)
        dim = self._joined_along(name)
        parts = [shard[meta_name] for shard in self._shards]
        whole = parts[0] if dim is None or len(parts) == 1 else torch.cat(parts, dim)
        if name.endswith(("q_proj.weight", "k_proj.weight")) and whole.ndim == 2:
            return halves_from_pairs(whole, self.config["head_dim"])
        return whole

    def location(self, name: str) -> TensorLocation | None:
        """Return None: the files are archives."""
        self._entry(name)
        return None

    def release(self, name: str) -> None:
        """Do nothing: the system takes mapped pages back when it needs them."""

    @cached_property
    def _digest(self) -> str:
        return digest_of_json({file.name: digest_of_file(file) for file in [self.directory / PARAMS, *self._files]})

    def digest(self) -> str:
        """Return a digest over params.json and every shard's content; read once, then remembered."""
        return self._digest

    def _entry(self, name: str) -> tuple[str, str]:
        try:
            return self._names[name]
        except KeyError:
            raise IntakeError(
                f"There is no tensor {name!r} among the {len(self._names)} of this model.",
                where=str(self.directory),
                remedy=did_you_mean(name, list(self._names), limit=6),
            ) from None

    def _joined_along(self, name: str) -> int | None:
        meta_name, kind = self._entry(name)
        if kind == "table":  # LLaMA 1 and 2 cut the table's columns, LLaMA 3 its rows
            kind = "rows" if self._shards[0][meta_name].shape[-1] == self.config["hidden_size"] else "columns"
        return {"rows": 0, "columns": 1}.get(kind) if self._shards[0][meta_name].ndim == 2 else None

    def _check_alike(self) -> None:
        first = set(self._shards[0])
        for file, shard in zip(self._files, self._shards, strict=True):
            if set(shard) != first:
                odd = sorted(set(shard) ^ first)[0]
                raise IntakeError(
                    f"{odd!r} is in some shards and not in others.", where=str(file), remedy="Fetch all shards again."
                )

    def _mapped(self) -> dict[str, tuple[str, str]]:
        names: dict[str, tuple[str, str]] = {}
        for meta_name in self._shards[0]:
            if meta_name == "rope.freqs":  # a table of angles, computed anew
                continue
            hf_name, kind = _EDGES.get(meta_name, (meta_name, "alike"))
            match = re.fullmatch(r"layers\.(\d+)\.(.+)", meta_name)
            if match and match[2] in _LAYER:
                inner, kind = _LAYER[match[2]]
                hf_name = f"model.layers.{match[1]}.{inner}"
            names[hf_name] = (meta_name, kind)
        return names

    def _hf_config(self, params: HfConfig, max_position_embeddings: int | None) -> dict[str, Any]:
        dim, heads, layers = params.count("dim"), params.count("n_heads"), params.count("n_layers")
        kv_heads = params.count("n_kv_heads", default=heads)
        if dim % heads or kv_heads % len(self._shards):
            raise IntakeError(
                f"dim {dim}, n_heads {heads} and n_kv_heads {kv_heads} over {len(self._shards)} shards do not divide.",
                where=params.where,
                remedy="Fetch params.json and all shards again.",
            )
        theta = params.number("rope_theta", default=10000.0)
        scaled = params.flag("use_scaled_rope", default=False)
        if max_position_embeddings is None:
            # params.json does not say; LLaMA 1 has 2,048, LLaMA 2 has 4,096 and looks the same
            max_position_embeddings = 131072 if scaled else 8192 if theta >= _LLAMA3_THETA else 2048
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
        if scaled:
            rope |= {
                "rope_type": "llama3", "factor": _scaling_factor(params, layers), "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            }  # fmt: skip
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": dim,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim // heads,
            "num_hidden_layers": layers, "intermediate_size": intermediate_size(params),
            "rms_norm_eps": params.number("norm_eps"), "vocab_size": self._vocab_size(params),
            "max_position_embeddings": max_position_embeddings, "rope_parameters": rope,
            "tie_word_embeddings": "lm_head.weight" not in self._names,
        }  # fmt: skip

    def _vocab_size(self, params: HfConfig) -> int:
        """Rows of the output head (LLaMA 1 and 2 give a vocab_size of −1), else of the table."""
        for meta_name in ("output.weight", "tok_embeddings.weight"):
            if meta_name in self._shards[0] and self._shards[0][meta_name].ndim == 2:
                rows = [int(shard[meta_name].shape[0]) for shard in self._shards]
                by_rows = meta_name == "output.weight" or self._shards[0][meta_name].shape[1] == params.count("dim")
                return sum(rows) if by_rows else rows[0]
        return params.count("vocab_size")


def open_meta_folder(directory: Path | str, *, max_position_embeddings: int | None = None) -> MetaSource:
    """Open a folder as Meta distributes LLaMA: params.json with ``consolidated.00.pth``, ``consolidated.01.pth`` …

    Parameters
    ----------
    directory
        The folder.
    max_position_embeddings
        Longest sequence, which params.json does not say; None takes 131,072 for LLaMA 3.1 and later, 8,192 for
        LLaMA 3, else 2,048.

    Raises
    ------
    IntakeError
        Missing or damaged files, parameters of another architecture, shards that do not belong together.
    StorageError
        Something cannot be read.
    """
    directory = Path(directory).expanduser()
    require_folder(directory)
    numbered = {int(match[1]): path for path in directory.iterdir() if (match := _SHARD.fullmatch(path.name))}
    if not numbered or not (directory / PARAMS).is_file():
        raise IntakeError(
            f"The folder has no {PARAMS if numbered else 'consolidated.NN.pth'}, so it is no Meta checkpoint.",
            where=str(directory),
            remedy="Give the folder with both; a Hugging Face folder is read by from_hugging_face.",
        )
    absent = sorted(set(range(max(numbered) + 1)) - set(numbered))
    if absent:
        raise IntakeError(
            f"Shard consolidated.{absent[0]:02d}.pth is missing.", where=str(directory), remedy="Fetch it again."
        )
    return MetaSource(directory, [numbered[number] for number in sorted(numbered)], max_position_embeddings)


def intermediate_size(params: HfConfig) -> int:
    """Return the MLP's width: two thirds of 4 · dim, times the multiplier, up to the next multiple."""
    if params.get("hidden_dim", default=None) is not None:
        return params.count("hidden_dim")
    width = int(params.number("ffn_dim_multiplier", default=1.0) * int(4 * params.count("dim") * 2 / 3))
    multiple = params.count("multiple_of", default=1)
    return -(-width // multiple) * multiple


def halves_from_pairs(weight: torch.Tensor, head_size: int) -> torch.Tensor:
    """Reorder the rows of each head from (0, 1), (2, 3) … to first elements, then second elements.

    Parameters
    ----------
    weight
        (heads · head_size, in_features).
    """
    pairs = weight.reshape(-1, head_size // 2, 2, weight.shape[1])  # (heads, pairs, 2, in_features)
    return pairs.transpose(1, 2).reshape(weight.shape)


def _scaling_factor(params: HfConfig, layers: int) -> float:
    given = params.get("rope_scaling_factor", default=_SCALING_FACTOR.get(layers))
    if given is None:
        raise IntakeError(
            f"use_scaled_rope comes without rope_scaling_factor, and a LLaMA of {layers} layers is not known.",
            where=params.where,
            remedy="Add rope_scaling_factor (8 for LLaMA 3.1, 32 for LLaMA 3.2) to params.json.",
        )
    return params.number("rope_scaling_factor", default=given)
