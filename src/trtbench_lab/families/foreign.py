"""A checkpoint's config.json: written with the keys TensorRT-LLM wants, read from this project or from TensorRT-LLM.

TensorRT-LLM 0.16 writes keys of its own beside the documented ones. Those that would change the arithmetic are accepted
at their neutral value only; the decoder's traits, which it leaves to its model classes, are filled in by the family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import IntakeError, SpecError, did_you_mean
from ..specs import ModelConfig
from .registry import family_for_architecture

# Keys of TensorRT-LLM's configuration classes and the values at which they change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "qk_layernorm": (False,),
    "q_scaling": (1.0,),
    "embedding_scale": (None, 1.0),
    "apply_query_key_layer_scaling": (False,),
    "residual_mlp": (False,),
    "fc_after_embed": (False,),
    "use_input_layernorm_in_first_layer": (True,),
    "use_last_layernorm": (True,),
    "layer_idx_offset": (0,),
    "embedding_multiplier": (1.0,),
    "attention_multiplier": (1.0,),
    "residual_multiplier": (1.0,),
    "output_multiplier_scale": (1.0,),
    "remove_duplicated_kv_heads": (False,),
    "use_logn_attn": (False,),
    "num_labels": (1,),
    "moe_intermediate_size": (0, None),
    "moe_shared_expert_intermediate_size": (0, None),
    "moe_num_experts": (0, None),
    "moe_top_k": (0, None),
    "inner_layernorm": (False,),
    "position_embedding_offset": (0, None),
    "is_pruned": (False,),
    "has_partial_lora_mask": (False,),
}
# Keys that say who wrote the file or how TensorRT-LLM's own kernels run it.
_REMARKS = frozenset(
    {
        "producer",
        "version",
        "format_version",
        "runtime_defaults",
        "disable_weight_only_quant_plugin",
        "gpt_variant",
        "qwen_type",
        "seq_length",
        "bias",
        "attn_bias",
        "kv_dtype",
        "intermediate_size_per_gpu",
    }
)
_TRAITS = ("norm_type", "gated_mlp", "qkv_bias", "dense_bias", "mlp_bias", "sliding_window")
_QUANT_REMARKS: dict[str, tuple[Any, ...] | None] = {"clamp_val": (None,), "use_meta_recipe": (False,)}
_MAPPING_REMARKS: dict[str, tuple[Any, ...] | None] = {
    "gpus_per_node": None, "cp_size": (1,), "moe_tp_size": None, "moe_ep_size": None, "moe_cluster_size": None,
    "auto_parallel": (False,), "rank": None, "cp_config": ({}, None), "enable_attention_dp": (False,),
}  # fmt: skip


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """Return what a checkpoint's config.json holds: ModelConfig's fields and the family's extra keys."""
    payload = config.to_dict()
    payload["mapping"].pop("rank", None)  # the file belongs to all ranks
    return {**payload, **family_for_architecture(config.architecture).extras(config)}


def complete_config(raw: Mapping[str, Any], *, where: str = "config.json") -> ModelConfig:
    """Return the ModelConfig of a checkpoint's config.json, whoever wrote it.

    Parameters
    ----------
    raw
        The parsed JSON object.
    where
        The file, for messages.

    Raises
    ------
    IntakeError
        For an unknown architecture, unknown keys, and keys that ask for arithmetic the decoder does not do.
    SpecError
        For values that do not fit their field.
    """
    if not isinstance(raw, Mapping):
        raise IntakeError("The configuration is not a JSON object.", where=where, remedy="Write the checkpoint again.")
    architecture = raw.get("architecture")
    if not isinstance(architecture, str):
        raise IntakeError(
            "The configuration names no architecture, so this is no checkpoint's config.json.",
            where=where,
            remedy="A Hugging Face folder is converted first (verb `convert`); a checkpoint is opened as it is.",
        )
    family = family_for_architecture(architecture, where=where)
    fields = _without_remarks(raw, where)
    if any(name not in raw for name in _TRAITS):
        fields = {**family.traits(raw), **fields}
    for name, neutral in (("quantization", _QUANT_REMARKS), ("mapping", _MAPPING_REMARKS)):
        if isinstance(fields.get(name), Mapping):
            fields[name] = _tidied(fields[name], neutral, f"{where}, {name}")
    quantization = fields.get("quantization")
    if isinstance(quantization, dict) and "norm_type" not in raw and not _groupwise(quantization):
        quantization["group_size"] = None  # TensorRT-LLM writes 128 whether or not anything goes by groups
    return ModelConfig.from_dict(fields, where=where)


def _groupwise(quantization: Mapping[str, Any]) -> bool:
    return str(quantization.get("quant_algo")).endswith(("AWQ", "GPTQ"))


def _without_remarks(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = ModelConfig.field_names()
    fields: dict[str, Any] = {}
    for name, value in raw.items():
        if name in known:
            fields[name] = value
        elif name == "moe":
            if isinstance(value, Mapping) and value.get("num_experts"):
                raise _refused(name, f"{value['num_experts']} experts", where)
        elif name == "rotary_embedding_dim":
            continue  # checked below, where the head size is known
        elif name in _NEUTRAL:
            if value not in _NEUTRAL[name] and value is not None:
                raise _refused(name, repr(value), where)
        elif name not in _REMARKS:
            remedy = did_you_mean(str(name), known, limit=40)
            raise SpecError(f"Unknown key {name!r} in a checkpoint's configuration.", where=where, remedy=remedy)
    _check_rotary_dim(raw, fields, where)
    return fields


def _check_rotary_dim(raw: Mapping[str, Any], fields: dict[str, Any], where: str) -> None:
    """`rotary_embedding_dim` of 0 means none; otherwise it says which share of the head is rotated."""
    dim, head_size = raw.get("rotary_embedding_dim"), raw.get("head_size")
    rope = str(raw.get("position_embedding_type", "")).startswith("rope")
    if rope and isinstance(dim, int) and isinstance(head_size, int) and head_size > 0 and 0 < dim < head_size:
        fields.setdefault("rotary_pct", dim / head_size)


def _tidied(table: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...] | None], where: str) -> dict[str, Any]:
    kept = {}
    for name, value in table.items():
        if name not in neutral:
            kept[name] = value
            continue
        allowed = neutral[name]
        if allowed is not None and value not in allowed:
            raise _refused(name, repr(value), where)
    return kept


def _refused(name: str, value: str, where: str) -> IntakeError:
    return IntakeError(
        f"{name} = {value} is not supported: the decoder does not compute it.",
        where=where,
        remedy="Convert a model without it.",
    )
