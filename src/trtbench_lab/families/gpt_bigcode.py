"""SantaCoder and StarCoder: GPT-2 with one key/value head for all query heads (multi-query attention)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import IntakeError
from .base import BLOCK, Family, Part, Sources, conv1d, linear, norm, transposed
from .gpt2 import gpt_edges, gpt_fields, gpt_traits
from .hf_config import HfConfig

if TYPE_CHECKING:
    import torch

    from ..specs import ModelConfig

_SOURCE = "transformer.h.{layer}"


class HeadwiseRows:
    """Takes q, k or v out of a fused layer whose rows go head by head (heads, 3, head_size).

    Parameters
    ----------
    which
        0 for q, 1 for k, 2 for v.
    head_size
        Elements a head.
    """

    def __init__(self, which: int, head_size: int):
        self.which, self.head_size = which, head_size

    def __call__(self, fused: torch.Tensor) -> torch.Tensor:
        by_head = fused.view(-1, 3, self.head_size, *fused.shape[1:])  # (heads, 3, head_size, …)
        return by_head[:, self.which].flatten(0, 1)  # (heads * head_size, …); copies a third of the tensor


def _read(hf: HfConfig) -> dict[str, Any]:
    fields = gpt_fields(hf, default_act="gelu_pytorch_tanh")
    kv_heads = 1 if hf.flag("multi_query", default=True) else fields["num_attention_heads"]
    return {**fields, "num_key_value_heads": kv_heads}


def _weights(config: ModelConfig) -> dict[str, Sources]:
    first, last = gpt_edges(config)
    fused = f"{_SOURCE}.attn.c_attn"
    qkv: dict[str, Sources] = linear(f"{BLOCK}.attention.qkv", fused, bias=True)
    if config.kv_heads == config.num_attention_heads:
        takes = [HeadwiseRows(which, config.head_width) for which in range(3)]
        qkv = {
            f"{BLOCK}.attention.qkv.{kind}": tuple(
                Part(f"{fused}.{kind}", take, config.attention_width) for take in takes
            )
            for kind in ("weight", "bias")
        }
    return {
        **first,
        **norm(f"{BLOCK}.input_layernorm", f"{_SOURCE}.ln_1", bias=True),
        **qkv,
        **linear(f"{BLOCK}.attention.dense", f"{_SOURCE}.attn.c_proj", bias=True),
        **norm(f"{BLOCK}.post_layernorm", f"{_SOURCE}.ln_2", bias=True),
        **linear(f"{BLOCK}.mlp.fc", f"{_SOURCE}.mlp.c_fc", bias=True),
        **linear(f"{BLOCK}.mlp.proj", f"{_SOURCE}.mlp.c_proj", bias=True),
        **last,
    }


def _read_santacoder(hf: HfConfig) -> dict[str, Any]:
    kind = hf.text("attention_head_type", default="multihead")
    if kind not in ("multiquery", "multihead"):
        raise IntakeError(
            f"attention_head_type = {kind!r} is not supported.",
            where=hf.where,
            remedy="Supported: multiquery, multihead.",
        )
    fields = gpt_fields(hf, default_act="gelu_new")
    return {**fields, "num_key_value_heads": 1 if kind == "multiquery" else fields["num_attention_heads"]}


def _weights_santacoder(config: ModelConfig) -> dict[str, Sources]:
    first, last = gpt_edges(config)
    attention = f"{_SOURCE}.attn"
    qkv = conv1d(f"{BLOCK}.attention.qkv", f"{attention}.c_attn")
    if config.kv_heads == 1 and config.num_attention_heads > 1:
        # kv_attn: k's rows, then v's
        split = {f"{attention}.q_attn": config.attention_width, f"{attention}.kv_attn": 2 * config.head_width}
        qkv = {
            f"{BLOCK}.attention.qkv.weight": tuple(
                Part(f"{name}.weight", transposed, rows) for name, rows in split.items()
            ),
            f"{BLOCK}.attention.qkv.bias": tuple(Part(f"{name}.bias", rows=rows) for name, rows in split.items()),
        }
    return {
        **first,
        **norm(f"{BLOCK}.input_layernorm", f"{_SOURCE}.ln_1", bias=True),
        **qkv,
        **conv1d(f"{BLOCK}.attention.dense", f"{attention}.c_proj"),
        **norm(f"{BLOCK}.post_layernorm", f"{_SOURCE}.ln_2", bias=True),
        **conv1d(f"{BLOCK}.mlp.fc", f"{_SOURCE}.mlp.c_fc"),
        **conv1d(f"{BLOCK}.mlp.proj", f"{_SOURCE}.mlp.c_proj"),
        **last,
    }


_BUFFERS = (r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",)

STARCODER = Family(
    name="gpt_bigcode",
    title="StarCoder and SantaCoder (GPTBigCode)",
    architectures=("GPTBigCodeForCausalLM",),
    base_architectures=("GPTBigCodeModel",),
    model_types=("gpt_bigcode",),
    read=_read,
    weights=_weights,
    traits=gpt_traits,
    extras=lambda config: {"gpt_variant": "starcoder", "bias": True},
    prefix="transformer.",
    ignored=_BUFFERS,
)

SANTACODER = Family(
    name="santacoder",
    title="SantaCoder (original files, with remote code)",
    architectures=("GPT2LMHeadCustomModel",),
    base_architectures=("GPT2CustomModel",),
    model_types=(),
    read=_read_santacoder,
    weights=_weights_santacoder,
    traits=gpt_traits,
    extras=lambda config: {"gpt_variant": "santacoder", "bias": True},
    prefix="transformer.",
    ignored=_BUFFERS,
)

FAMILIES = (STARCODER, SANTACODER)
