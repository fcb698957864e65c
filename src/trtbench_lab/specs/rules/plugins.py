"""What each plugin and attention feature needs of the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..build import BuildConfig
from ..conflicts import Conflict, rule
from ..mapping import Mapping
from ..model import ModelConfig
from ..plugin import PluginConfig
from ..quant import QuantConfig

_ATTENTION = "PluginConfig.gpt_attention_plugin"
_ATTENTION_ON = {_ATTENTION: "auto"}


def _needs_attention_plugin(name: str, what: str, off: Any) -> Conflict:
    off_word = "disable" if off in (False, "disable") else str(off)
    return Conflict(
        (f"PluginConfig.{name}", _ATTENTION),
        f"{what} ({name}) is part of the attention plugin, and gpt_attention_plugin is disabled.",
        f"Set gpt_attention_plugin to auto, or {name} to {off_word}.",
        _ATTENTION_ON,
        ({f"PluginConfig.{name}": off},),
    )


@rule(PluginConfig)
def attention_features(plugins: PluginConfig) -> Iterator[Conflict]:
    if not plugins.enabled("gpt_attention_plugin"):
        if plugins.context_fmha:
            yield _needs_attention_plugin("context_fmha", "Flash attention in the prompt phase", False)
        if plugins.context_fmha_fp32_acc:
            yield _needs_attention_plugin("context_fmha_fp32_acc", "float32 accumulation of flash attention", False)
        if plugins.remove_input_padding:
            yield _needs_attention_plugin("remove_input_padding", "Packed input", False)
        if plugins.paged_kv_cache:
            yield _needs_attention_plugin("paged_kv_cache", "The paged cache", False)
        if plugins.multi_block_mode == "enable":
            yield _needs_attention_plugin("multi_block_mode", "Splitting a long sequence over blocks", "auto")
    if plugins.context_fmha_fp32_acc and not plugins.context_fmha:
        yield Conflict(
            ("PluginConfig.context_fmha_fp32_acc", "PluginConfig.context_fmha"),
            "float32 accumulation (context_fmha_fp32_acc) is a property of flash attention, and context_fmha is "
            "disabled.",
            "Enable context_fmha, or disable context_fmha_fp32_acc.",
            {"PluginConfig.context_fmha": True},
            ({"PluginConfig.context_fmha_fp32_acc": False},),
        )


@rule(PluginConfig)
def inflight_batching(plugins: PluginConfig) -> Iterator[Conflict]:
    if not plugins.use_inflight_batching:
        return
    needed: list[tuple[str, Any, bool]] = [
        ("gpt_attention_plugin", "auto", plugins.enabled("gpt_attention_plugin")),
        ("remove_input_padding", True, plugins.remove_input_padding),
        ("paged_kv_cache", True, plugins.paged_kv_cache),
    ]
    for name, value, is_on in needed:
        if not is_on:
            yield Conflict(
                ("PluginConfig.use_inflight_batching", f"PluginConfig.{name}"),
                f"In-flight batching needs {name}, which is disabled.",
                f"Enable {name}, or leave use_inflight_batching off.",
                {f"PluginConfig.{name}": value},
                ({"PluginConfig.use_inflight_batching": False},),
            )
    yield Conflict(
        ("PluginConfig.use_inflight_batching",),
        "use_inflight_batching turns on gpt_attention_plugin, remove_input_padding and paged_kv_cache.",
        "",
        severity="note",
    )


@rule(PluginConfig)
def padding_is_unwise(plugins: PluginConfig) -> Iterator[Conflict]:
    if plugins.enabled("gpt_attention_plugin") and not plugins.remove_input_padding:
        yield Conflict(
            ("PluginConfig.remove_input_padding", _ATTENTION),
            "The attention plugin is on and prompts are padded: it computes the padding too.",
            "remove_input_padding is recommended whenever the attention plugin is on.",
            {"PluginConfig.remove_input_padding": True},
            severity="warning",
        )


@rule(BuildConfig, PluginConfig)
def max_num_tokens(build: BuildConfig, plugins: PluginConfig) -> Iterator[Conflict]:
    if build.max_num_tokens is None or plugins.context_fmha:
        return
    enable: dict[str, Any] = {"PluginConfig.context_fmha": True}
    if not plugins.enabled("gpt_attention_plugin"):
        enable |= _ATTENTION_ON
    yield Conflict(
        ("BuildConfig.max_num_tokens", "PluginConfig.context_fmha"),
        f"max_num_tokens {build.max_num_tokens} bounds the tokens of packed prompts, which needs context_fmha.",
        "Enable context_fmha, or leave max_num_tokens out.",
        enable,
        ({"BuildConfig.max_num_tokens": None},),
    )


@rule(PluginConfig)
def quantization_kernels_exclude_each_other(plugins: PluginConfig) -> Iterator[Conflict]:
    smooth = [name for name in _SMOOTHQUANT if getattr(plugins, name) not in ("auto", "disable")]
    weight_only = [name for name in _WEIGHT_ONLY if getattr(plugins, name) not in ("auto", "disable")]
    if smooth and weight_only:
        yield Conflict(
            tuple(f"PluginConfig.{name}" for name in (*smooth, *weight_only)),
            f"Kernels of SmoothQuant ({', '.join(smooth)}) and of weight-only quantization ({', '.join(weight_only)}) "
            "are both forced on, and they exclude each other: one layer has one kind of weights.",
            "Set them to auto: each layer then gets the kernel of its own weights, also where a recipe mixes both.",
            {f"PluginConfig.{name}": "auto" for name in (*smooth, *weight_only)},
        )


_SMOOTHQUANT = (
    "smooth_quant_gemm_plugin",
    "rmsnorm_quantization_plugin",
    "layernorm_quantization_plugin",
    "quantize_per_token_plugin",
    "quantize_tensor_plugin",
)
_WEIGHT_ONLY = ("weight_only_quant_matmul_plugin", "weight_only_groupwise_quant_matmul_plugin")


@rule(PluginConfig, QuantConfig)
def quantization_kernels_fit_weights(plugins: PluginConfig, quant: QuantConfig) -> Iterator[Conflict]:
    algo = quant.quant_algo
    layers = [quant] if quant.quantized_layers is None else [quant.of_module(one) for one in quant.quantized_layers]
    kinds = [(one.quant_algo, one.group_size is not None) for one in layers if one.quant_algo is not None]
    is_smooth = any(kind.is_smoothquant for kind, _ in kinds)
    is_grouped = any(kind.is_groupwise or (kind.is_weight_only and grouped) for kind, grouped in kinds)
    is_channel = any(kind.is_weight_only and not grouped for kind, grouped in kinds)
    wanted = dict.fromkeys(_SMOOTHQUANT, ("SmoothQuant", is_smooth))
    wanted |= {
        "weight_only_quant_matmul_plugin": ("weight-only quantization per channel", is_channel),
        "weight_only_groupwise_quant_matmul_plugin": ("weights with group scales", is_grouped),
    }
    for name, (kind, fits) in wanted.items():
        if getattr(plugins, name) not in ("auto", "disable") and not fits:
            weights = "not quantized" if algo is None else f"quantized as {algo.value}"
            if algo is not None and algo.is_weight_only:
                weights += " per channel" if quant.group_size is None else f" in groups of {quant.group_size}"
            yield Conflict(
                (f"PluginConfig.{name}", "QuantConfig.quant_algo"),
                f"{name} computes {kind}, and the checkpoint's weights are {weights}.",
                f"Set {name} to auto.",
                {f"PluginConfig.{name}": "auto"},
            )


@rule(PluginConfig, QuantConfig)
def quantized_cache_needs_plugin(plugins: PluginConfig, quant: QuantConfig) -> Iterator[Conflict]:
    if quant.kv_cache_quant_algo is not None and not plugins.enabled("gpt_attention_plugin"):
        yield Conflict(
            ("QuantConfig.kv_cache_quant_algo", _ATTENTION),
            f"A K/V cache in {quant.kv_cache_quant_algo.value} is read by the attention plugin only, and "
            "gpt_attention_plugin is disabled.",
            "Set gpt_attention_plugin to auto, or convert without a quantized K/V cache.",
            _ATTENTION_ON,
            ({"QuantConfig.kv_cache_quant_algo": None},),
        )


@rule(PluginConfig, Mapping)
def collectives(plugins: PluginConfig, mapping: Mapping) -> Iterator[Conflict]:
    if mapping.world_size > 1 and not plugins.enabled("nccl_plugin"):
        yield Conflict(
            ("PluginConfig.nccl_plugin", "Mapping.world_size"),
            f"{mapping.world_size} ranks exchange their results through nccl_plugin, which is disabled.",
            "Set nccl_plugin to auto.",
            {"PluginConfig.nccl_plugin": "auto"},
        )
    if plugins.use_custom_all_reduce and mapping.tp_size == 1:
        yield Conflict(
            ("PluginConfig.use_custom_all_reduce", "Mapping.tp_size"),
            "use_custom_all_reduce has nothing to do with tp_size 1.",
            "Leave it off.",
            {"PluginConfig.use_custom_all_reduce": False},
            severity="warning",
        )


@rule(PluginConfig, ModelConfig)
def plugins_fit_model(plugins: PluginConfig, model: ModelConfig) -> Iterator[Conflict]:
    for name, norm_type in (("rmsnorm_plugin", "rmsnorm"), ("layernorm_plugin", "layernorm")):
        if plugins.enabled(name) and model.norm_type != norm_type:
            yield Conflict(
                (f"PluginConfig.{name}", "ModelConfig.norm_type"),
                f"{name} has nothing to do: {model.architecture} normalises by {model.norm_type}.",
                f"Use {model.norm_type}_plugin.",
                {f"PluginConfig.{name}": "disable"},
                severity="warning",
            )
    if plugins.enabled("swiglu_plugin") and not model.gated_mlp:
        yield Conflict(
            ("PluginConfig.swiglu_plugin", "ModelConfig.gated_mlp"),
            f"swiglu_plugin has nothing to do: the feed-forward block of {model.architecture} has no gate.",
            "Disable swiglu_plugin.",
            {"PluginConfig.swiglu_plugin": "disable"},
            severity="warning",
        )
    sharded = model.use_parallel_embedding and model.embedding_sharding_dim == 0
    if plugins.enabled("lookup_plugin") and not sharded:
        yield Conflict(
            ("PluginConfig.lookup_plugin", "ModelConfig.use_parallel_embedding"),
            "lookup_plugin reads an embedding table that is divided along the vocabulary, and this one is not.",
            "Convert with use_parallel_embedding and embedding_sharding_dim 0, or disable lookup_plugin.",
            {"PluginConfig.lookup_plugin": "disable"},
            severity="warning",
        )


@rule(PluginConfig, ModelConfig)
def dynamic_rotary_needs_padding(plugins: PluginConfig, model: ModelConfig) -> Iterator[Conflict]:
    if model.rotary_scaling_type == "dynamic" and plugins.remove_input_padding:
        yield Conflict(
            ("ModelConfig.rotary_scaling", "PluginConfig.remove_input_padding"),
            "Dynamic rotary scaling looks at the length of the padded input, and remove_input_padding is enabled.",
            "Disable remove_input_padding, or use linear scaling.",
            {"PluginConfig.remove_input_padding": False},
        )
