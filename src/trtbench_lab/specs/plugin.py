"""Plugins and attention features of an engine: one table drives flags, widgets, config.json and the docs."""

from __future__ import annotations

from .model import DTYPE_SYNONYMS
from .options import option
from .spec import Spec

PLUGIN_DTYPES = ("auto", "float16", "bfloat16", "float32", "disable")
# Older tools write true, false or null where newer ones write a word.
PLUGIN_SYNONYMS = {
    **DTYPE_SYNONYMS,
    "enable": "auto",
    "true": "auto",
    "on": "auto",
    "false": "disable",
    "off": "disable",
    "none": "disable",
    "null": "disable",
}


def _plugin(default: str, help: str, *flags: str, effect: str | None = None, group: str = "plugins") -> str:
    return option(  # type: ignore[no-any-return]
        default=default,
        help=help,
        choices=PLUGIN_DTYPES,
        synonyms=PLUGIN_SYNONYMS,
        bare="auto",
        flags=flags,
        group=group,
        effect=effect,
    )


def _old_switch(name: str) -> dict[str, bool]:
    return {f"--enable_{name}": True, f"--disable_{name}": False}


class PluginConfig(Spec):
    """What the engine computes with plugins and how its attention and cache are laid out.

    A plugin takes ``auto`` (the engine's data type), a data type, or ``disable``.
    """

    gpt_attention_plugin: str = _plugin(
        "auto",
        "Fused attention over packed input and paged cache; off means the backend's own attention layers.",
        "--use_gpt_attention_plugin",
        effect="Needed by packed input, paged cache and flash attention in the prompt phase.",
    )
    gemm_plugin: str = _plugin(
        "disable",
        "The project's own matrix kernels instead of the backend's.",
        "--use_gemm_plugin",
        effect="Often quicker for one or a few rows at a time.",
    )
    rmsnorm_plugin: str = _plugin("disable", "Fused residual add and RMS norm.", "--use_rmsnorm_plugin")
    layernorm_plugin: str = _plugin("disable", "Fused residual add and layer norm.", "--use_layernorm_plugin")
    swiglu_plugin: str = _plugin(
        "disable", "Activation and product of a gated feed-forward block in one kernel.", "--use_swiglu_plugin"
    )
    lookup_plugin: str = _plugin(
        "disable", "Embedding lookup for a table divided along the vocabulary.", "--use_lookup_plugin"
    )
    nccl_plugin: str = _plugin(
        "auto", "Collectives between ranks; auto means on when there are several.", "--use_nccl_plugin"
    )
    use_custom_all_reduce: bool = option(
        default=False,
        help="The one-shot low-latency all-reduce kernel instead of NCCL's.",
        group="plugins",
        effect="Quicker for the small messages of decoding.",
    )
    context_fmha: bool = option(
        default=True,
        help="Flash attention in the prompt phase.",
        constants=_old_switch("context_fmha"),
        group="attention",
        effect="Memory of the prompt phase grows with the length rather than its square.",
    )
    context_fmha_fp32_acc: bool = option(
        default=False,
        help="Accumulate flash attention in float32.",
        constants=_old_switch("context_fmha_fp32_acc"),
        group="attention",
        effect="More exact on long prompts, slower.",
    )
    multi_block_mode: str = option(
        default="auto",
        help="Split a long K/V sequence over blocks when batch × heads cannot fill the GPU.",
        choices=("auto", "enable", "disable"),
        synonyms={"true": "enable", "on": "enable", "false": "disable", "off": "disable", "none": "auto"},
        bare="enable",
        constants={"--enable_multi_block_mode": "enable"},
        group="attention",
        effect="Quicker decoding of one long sequence.",
    )
    remove_input_padding: bool = option(
        default=True,
        help="Pack the tokens of all prompts without padding.",
        group="attention",
        effect="No work is spent on padding.",
    )
    paged_kv_cache: bool = option(
        default=True,
        help="Keep the K/V cache in blocks that a table names; off means one piece a sequence.",
        group="cache",
        effect="Sequences share the memory as they grow.",
    )
    tokens_per_block: int = option(
        default=64,
        help="Tokens in one block of the paged cache.",
        choices=(8, 16, 32, 64, 128, 256, 512),
        unit="tokens",
        group="cache",
    )
    use_inflight_batching: bool = option(
        default=False,
        help="Let requests join and leave a running batch; turns on attention plugin, packed input and paged cache.",
        group="cache",
    )
    smooth_quant_gemm_plugin: str = _plugin(
        "auto",
        "INT8 matrix kernel; auto means set by SmoothQuant.",
        "--use_smooth_quant_gemm_plugin",
        group="quantization",
    )
    rmsnorm_quantization_plugin: str = _plugin(
        "auto",
        "RMS norm with INT8 output, for networks you write: those built here quantize after the norm.",
        "--use_rmsnorm_quantization_plugin",
        group="quantization",
    )
    layernorm_quantization_plugin: str = _plugin(
        "auto",
        "Layer norm with INT8 output, for networks you write: those built here quantize after the norm.",
        "--use_layernorm_quantization_plugin",
        group="quantization",
    )
    quantize_per_token_plugin: str = _plugin(
        "auto", "Quantization of activations token by token; auto means set by SmoothQuant.", group="quantization"
    )
    quantize_tensor_plugin: str = _plugin(
        "auto", "Quantization of activations by one scale; auto means set by SmoothQuant.", group="quantization"
    )
    weight_only_quant_matmul_plugin: str = _plugin(
        "auto",
        "Matrix kernel for INT8 and INT4 weights; auto means set by weight-only quantization.",
        "--use_weight_only_quant_matmul_plugin",
        group="quantization",
    )
    weight_only_groupwise_quant_matmul_plugin: str = _plugin(
        "auto",
        "Matrix kernel for weights with group scales; auto means set by AWQ, GPTQ and grouped weight-only.",
        "--use_weight_only_groupwise_quant_matmul_plugin",
        group="quantization",
    )

    def enabled(self, plugin: str) -> bool:
        """Whether the named plugin is on or left to the backend."""
        return bool(getattr(self, plugin) != "disable")
