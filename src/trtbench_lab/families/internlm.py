"""InternLM: LLaMA's layers and names with biases on q, k, v and the attention's output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import IntakeError
from .base import Family
from .hf_config import HfConfig
from .llama import ROTARY_BUFFERS, llama_extras, llama_fields, llama_traits, llama_weights

if TYPE_CHECKING:
    from ..specs import ModelConfig


def _read(hf: HfConfig) -> dict[str, Any]:
    bias = hf.flag("bias", "attention_bias", default=True)
    fields = {**llama_fields(hf), "qkv_bias": bias, "dense_bias": bias, "mlp_bias": False}
    rotary = hf.get("rotary", default=None)
    if rotary is None:
        return fields
    if not isinstance(rotary, Mapping):
        raise hf.unfit("rotary", rotary, "a table")
    table = HfConfig(rotary, f"{hf.where}, rotary")
    kind = table.text("type", default="origin")
    # "dynamic" stretches the angles only beyond max_position_embeddings; up to there it is the plain rotation.
    if kind not in ("origin", "dynamic"):
        raise IntakeError(
            f"The rotary type {kind!r} is not supported.", where=table.where, remedy="Supported: origin, dynamic."
        )
    return {**fields, "rotary_base": table.number("base", default=fields["rotary_base"])}


def _traits(raw: Mapping[str, Any]) -> dict[str, Any]:
    return llama_traits({"attn_bias": True, **raw})


def _extras(config: ModelConfig) -> dict[str, Any]:
    return llama_extras(config)


FAMILY = Family(
    name="internlm",
    title="InternLM",
    architectures=("InternLMForCausalLM",),
    base_architectures=("InternLMModel",),
    model_types=("internlm",),
    read=_read,
    weights=llama_weights,
    traits=_traits,
    extras=_extras,
    prefix="model.",
    ignored=ROTARY_BUFFERS,
)
