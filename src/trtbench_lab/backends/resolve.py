"""Settle a build configuration for a backend that has neither TensorRT's plugins nor its builder options."""

from __future__ import annotations

from ..errors import BuildError, SpecError
from ..network.decoder import check_supported
from ..quantization.linear_kinds import kinds_in
from ..specs import BuildConfig, ModelConfig, PluginConfig

# Options that mean nothing here: field → why.
_WITHOUT_EFFECT = {
    "weight_streaming": "weights stream from host memory in the tensorrt backend only",
    "strip_plan": "engines without weights are the tensorrt backend's",
    "refit": "weights are replaced later in the tensorrt backend only",
    "timing_cache": "kernels are timed by the tensorrt backend only",
    "enable_debug_output": "every engine of this backend gives its intermediate tensors (explore --tensors)",
    "profiling_verbosity": "the engine always keeps its layers' names",
    "max_num_tokens": "it bounds packed input, and this engine's input is padded",
    "max_prompt_embedding_table_size": "prompt tuning is not executed by this version",
    "gather_context_logits": "this engine gives logits of any token anyway",
    "phase_engines": "one engine serves both phases",
    "batch_buckets": "kernels are not tuned for sizes by this backend",
    "length_buckets": "kernels are not tuned for sizes by this backend",
    "capacity_buckets": "the cache has the length that each call binds",
    "aux_streams": "layers run on the tensorrt backend's streams only",
    "tiling": "tilings are searched for by the tensorrt backend only",
    "workspace_limit_mib": "scratch memory is bounded by the tensorrt backend only",
    "hardware_compatibility": "the engine is not bound to one model of GPU",
    "strongly_typed": "weak typing no longer exists, in TensorRT 11 either",
}


# What belongs to the paged form, and is settled with it.
PAGED_OPTIONS = ("gpt_attention_plugin", "remove_input_padding", "paged_kv_cache", "use_inflight_batching")


def wants_paged(model_config: ModelConfig, plugins: PluginConfig) -> bool:
    """Whether the paged form was asked for outright, or is needed: by in-flight batching or by a quantized cache."""
    if not plugins.enabled("gpt_attention_plugin"):
        return False
    asked = plugins.gpt_attention_plugin != "auto" or plugins.use_inflight_batching
    return asked or model_config.quantization.kv_cache_quant_algo is not None


def resolve_without_plugins(
    model_config: ModelConfig,
    build_config: BuildConfig,
    backend: str,
    *,
    compute_dtypes: tuple[str, ...],
    reason: str,
    plugins: tuple[str, ...] = (),
    paged: bool = False,
) -> tuple[BuildConfig, list[str]]:
    """Return the configuration that `backend` builds, and a sentence for each choice and each option not honoured.

    Parameters
    ----------
    model_config, build_config
        What was asked for.
    backend
        Its name, for the sentences.
    compute_dtypes
        Types it computes in here, the preferred fallback first.
    reason
        Why other types are not among them, as the end of a sentence.
    plugins
        Options of `PluginConfig` that the backend honours.
    paged
        Whether the engine gets the paged form, see `wants_paged`.

    Raises
    ------
    BuildError
        When the network or the quantization of the model cannot be built.
    """
    try:
        check_supported(model_config, paged=paged)
        kinds_in(model_config)
    except SpecError as error:
        raise BuildError(error.what, where=error.where, remedy=error.remedy) from error
    dtype, notes = _compute_dtype(model_config, build_config, compute_dtypes, reason)
    settled, plugin_notes = _plugins(build_config.plugin_config, backend, plugins, paged)
    if paged:
        settled = settled.replace(gpt_attention_plugin=dtype, remove_input_padding=True, paged_kv_cache=True)
    changes: dict[str, object] = {"backend": backend, "compute_dtype": dtype, "plugin_config": settled}
    defaults = BuildConfig()
    for name, reason_why in _WITHOUT_EFFECT.items():
        if paged and name == "max_num_tokens":
            continue
        if getattr(build_config, name) != getattr(defaults, name):
            changes[name] = getattr(defaults, name)
            notes.append(f"{name} has no effect: {reason_why}.")
    resolved, length_notes = build_config.replace(**changes).resolved(model_config)
    return resolved, [*length_notes, *notes, *plugin_notes]


def _compute_dtype(
    model_config: ModelConfig, build_config: BuildConfig, available: tuple[str, ...], reason: str
) -> tuple[str, list[str]]:
    asked = build_config.compute_dtype
    wanted = model_config.dtype if asked == "auto" else asked
    if wanted in available:
        return wanted, []
    source = f"the checkpoint is {wanted}" if asked == "auto" else f"compute_dtype {wanted} was asked for"
    return available[0], [f"Computes in {available[0]}, though {source}: {reason}."]


def _plugins(
    asked: PluginConfig, backend: str, honoured: tuple[str, ...], paged: bool
) -> tuple[PluginConfig, list[str]]:
    """Turn off what needs a plugin; say so where it was on, in one sentence for defaults and one for each wish."""
    defaults, notes = PluginConfig(), []
    changes: dict[str, object] = {}
    wished, by_default = [], []
    for info in PluginConfig.options():
        value, off = getattr(asked, info.name), _off_value(getattr(defaults, info.name))
        if off is None or value == off or info.name in honoured or (paged and info.name in PAGED_OPTIONS):
            continue
        changes[info.name] = off
        if value != getattr(defaults, info.name):
            wished.append(info.name)
        elif info.name in ("gpt_attention_plugin", "context_fmha", "remove_input_padding", "paged_kv_cache"):
            by_default.append(info.name)
    if paged:
        notes.append(
            f"The attention plugin over packed tokens and a paged cache runs as its definition in plain operators: the "
            f"{backend} backend has no kernel for it here."
        )
    elif by_default:
        notes.append(
            f"{', '.join(by_default)}: off, since packed input, paged cache and their fused attention are TensorRT "
            f"plugins; the {backend} backend runs its own attention layers over a padded batch and a contiguous cache."
        )
    notes += [f"{name} has no effect: the {backend} backend has no such plugin." for name in wished]
    return asked.replace(**changes), notes


def _off_value(default: object) -> object | None:
    """Return what 'off' is for an option with this default; None for options that are sizes."""
    if isinstance(default, bool):
        return False
    return "disable" if isinstance(default, str) else None
