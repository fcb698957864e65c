"""What a build configuration comes to with TensorRT: every ``auto`` settled, and a sentence for what cannot be had."""

from __future__ import annotations

import importlib.util

from ...errors import BuildError, SpecError
from ...network.decoder import check_supported
from ...specs import BuildConfig, ModelConfig, PluginConfig
from ..protocol import Resolution
from ..resolve import wants_paged
from .gpu import Gpu
from .plan_layout import PADDED, PAGED
from .quantized_layers import check_quantization, plugins_needed

BACKEND = "tensorrt"
LEAST_CAPABILITY = 75
"""Compute capability of the oldest GPUs that TensorRT 11 builds for."""
COLLECTIVES_CAPABILITY = 80


def form_of(options: BuildConfig) -> str:
    """Return the form of an engine with these (resolved) options: paged with the attention plugin, else padded."""
    plugins = options.plugin_config
    return PAGED if plugins.enabled("gpt_attention_plugin") and plugins.paged_kv_cache else PADDED


def resolve(model: ModelConfig, options: BuildConfig, gpu: Gpu) -> Resolution:
    """Settle the configuration for a GPU (see the protocol's `Builder.resolve`).

    Raises
    ------
    BuildError
        For what cannot be built at all.
    """
    paged = wants_paged(model, options.plugin_config)
    try:
        check_supported(model, paged=paged)
        check_quantization(model, gpu)
    except SpecError as error:
        raise BuildError(error.what, where=error.where, remedy=error.remedy) from error
    _refuse_gpu(model, gpu)
    dtype, notes = _compute_dtype(model, options, gpu)
    plugins, plugin_notes = _plugins(model, options, dtype, paged)
    changes: dict[str, object] = {"backend": BACKEND, "compute_dtype": dtype, "plugin_config": plugins}
    if not options.strongly_typed:
        changes["strongly_typed"] = True
        notes.append("strongly_typed is always on: TensorRT 11 has no other networks.")
    if options.max_prompt_embedding_table_size:
        changes["max_prompt_embedding_table_size"] = 0
        notes.append("max_prompt_embedding_table_size has no effect: prompt tuning is not executed by this version.")
    resolved, length_notes = options.replace(**changes).resolved(model)
    if form_of(resolved) == PAGED and resolved.capacity_buckets is not None:
        resolved = resolved.replace(capacity_buckets=None)
        notes.append("capacity_buckets has no effect: a paged cache has no capacity to pay for.")
    if form_of(resolved) == PADDED and resolved.max_num_tokens is not None:
        resolved = resolved.replace(max_num_tokens=None)
        notes.append("max_num_tokens has no effect: it bounds packed input, and this engine's input is padded.")
    return Resolution(resolved, [*length_notes, *notes, *plugin_notes, *_told(model, resolved)])


def _compute_dtype(model: ModelConfig, options: BuildConfig, gpu: Gpu) -> tuple[str, list[str]]:
    wanted = model.dtype if options.compute_dtype == "auto" else options.compute_dtype
    if wanted == "bfloat16" and gpu.compute_capability < 80:
        return "float16", [f"Computes in float16: {gpu.name} has no bfloat16 (compute capability 8.0 and later do)."]
    return wanted, []


def _plugins(model: ModelConfig, options: BuildConfig, dtype: str, paged: bool) -> tuple[PluginConfig, list[str]]:
    """Native attention unless the plugin was asked for; no plugins where they cannot be compiled."""
    asked, notes = options.plugin_config, []
    changes: dict[str, object] = {}
    reason = _no_plugins(options)
    if reason is not None:
        off = [info.name for info in PluginConfig.options() if _is_plugin(info.name)]
        wished = [name for name in off if getattr(asked, name) not in ("auto", "disable")]
        changes |= dict.fromkeys((name for name in off if name != "nccl_plugin"), "disable")
        if wished or paged:
            raise BuildError(
                f"{', '.join(wished) or 'The paged cache'} cannot be had: {reason}.",
                where="plugin_config",
                remedy="Leave it out, or remove what stands against it.",
            )
    if not paged:
        changes |= {"gpt_attention_plugin": "disable", "context_fmha": False, "context_fmha_fp32_acc": False}
        changes |= {"remove_input_padding": False, "paged_kv_cache": False}
        notes.append(
            "Attention is TensorRT's own (TRT_KVCacheUpdate and TRT_Attention, padded batch, contiguous cache); "
            "--gpt_attention_plugin auto|float16 with a type takes the project's plugin over packed tokens and a paged "
            "cache."
        )
    else:
        named = asked.gpt_attention_plugin
        changes["gpt_attention_plugin"] = dtype if named == "auto" else named
        changes |= {"remove_input_padding": True, "paged_kv_cache": True}
        if named not in ("auto", dtype):
            notes.append(f"gpt_attention_plugin computes in {dtype}, the engine's type, and not in {named}.")
            changes["gpt_attention_plugin"] = dtype
    ranks = model.mapping.world_size > 1
    changes["nccl_plugin"] = dtype if ranks else "disable"
    if asked.use_custom_all_reduce:
        changes["use_custom_all_reduce"] = False
        notes.append("use_custom_all_reduce has no effect: collectives are TensorRT's own layers, over NCCL.")
    for need in plugins_needed(model):
        given = [getattr(asked, switch) for switch in need.switches]
        if "disable" not in given and reason is None:
            on = {switch: dtype for switch, value in zip(need.switches, given, strict=True) if value == "auto"}
            changes |= on
            if on:
                notes.append(f"{' and '.join(on)}: on, because {need.why}.")
        elif need.otherwise is None:
            raise BuildError(
                f"This checkpoint needs {' and '.join(need.switches)}: {need.why}.",
                where="quantization",
                remedy=f"{need.remedy} or build with --{need.switches[0]} auto"
                + (f"; here {reason}." if reason else "."),
            )
        else:
            notes.append(need.otherwise)
    if changes.get("smooth_quant_gemm_plugin", asked.smooth_quant_gemm_plugin) not in ("auto", "disable"):
        for switch in ("quantize_per_token_plugin", "quantize_tensor_plugin"):  # whose integers it multiplies
            changes.setdefault(switch, dtype)
    for switch in ("rmsnorm_quantization_plugin", "layernorm_quantization_plugin"):
        if changes.get(switch, getattr(asked, switch)) not in ("auto", "disable"):
            changes[switch] = "disable"
            notes.append(
                f"{switch} has no effect: norms give {dtype}, and the layers that read them quantize it, each with its "
                "own scales."
            )
    for info in PluginConfig.options():  # what is still open is off: TensorRT has kernels of its own there
        if _is_plugin(info.name) and changes.get(info.name, getattr(asked, info.name)) == "auto":
            changes[info.name] = "disable"
    return asked.replace(**changes), notes


def _is_plugin(name: str) -> bool:
    return name.endswith("_plugin")


def _no_plugins(options: BuildConfig) -> str | None:
    """Return why no plugin can be compiled for this engine, None where they can."""
    if options.hardware_compatibility != "none":
        return (
            f"plugins are compiled for one architecture, and hardware_compatibility is {options.hardware_compatibility}"
        )
    if importlib.util.find_spec("triton") is None:
        return "plugins need Triton, which is not installed (pip install 'trtbench-lab[gpu]')"
    return None


def _refuse_gpu(model: ModelConfig, gpu: Gpu) -> None:
    if 0 < gpu.compute_capability < LEAST_CAPABILITY:
        raise BuildError(
            f"TensorRT 11 builds for compute capability {LEAST_CAPABILITY / 10} and later; {gpu.name} has "
            f"{gpu.compute_capability / 10}.",
            where="gpu",
            remedy="Use the torch backend on this GPU.",
        )
    if model.mapping.tp_size > 1 and 0 < gpu.compute_capability < COLLECTIVES_CAPABILITY:
        raise BuildError(
            f"TensorRT's collectives need compute capability {COLLECTIVES_CAPABILITY / 10} or later; {gpu.name} has "
            f"{gpu.compute_capability / 10}.",
            where="mapping.tp_size",
            remedy="Use the torch backend, or convert with tp_size 1.",
        )


def _told(model: ModelConfig, options: BuildConfig) -> list[str]:
    """Return what a person should know of the choices made."""
    notes = []
    if options.capacity_buckets:
        count = len({size for size in options.capacity_buckets if size < (options.max_seq_len or size + 1)}) + 1
        notes.append(f"{count} cache capacities make {count} plans, each with the weights of its own.")
    if options.phase_engines == "two":
        notes.append("Prompt and decode phase are two plans: the weights are on the GPU twice.")
    if options.opt_level == 0:
        notes.append("At opt_level 0 TensorRT takes the first kernel that works and ignores the timing cache.")
    if options.weight_streaming:
        notes.append("While weights stream, runs wait for the host, and no CUDA graphs are used.")
    return notes
