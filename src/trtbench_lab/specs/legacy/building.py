"""Flags of the tools that build engines, of both generations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..coerce import Unfit
from .entry import LegacyTable, ignored, meant, refused

_CHECKPOINT = "It is read from the checkpoint."
_ARCHITECTURE = (
    "--hidden_act",
    "--vocab_size",
    "--n_positions",
    "--n_layer",
    "--n_head",
    "--n_kv_head",
    "--n_embd",
    "--inter_size",
    "--rotary_pct",
    "--rms_norm_eps",
    "--multiple_of",
    "--ffn_dim_multiplier",
    "--model_version",
    "--model_name",
    "--model",
    "--model_type",
)
_AT_CONVERSION = "It is decided when the checkpoint is made"
_QUANTIZED = f"{_AT_CONVERSION}: trtbench convert --use_weight_only, or trtbench quantize --qformat int8_wo."
_ROTARY = f"{_AT_CONVERSION}: trtbench convert --rotary_scaling TYPE FACTOR, --rotary_base BASE."
_EMBEDDING = f"{_AT_CONVERSION}: trtbench convert --use_parallel_embedding."
_LAYOUT = f"{_AT_CONVERSION}: trtbench convert --tp_size N --pp_size N."
_NO_KERNEL = "No engine of this version has such a kernel; the layer is computed without it."
_LATER_LORA = "LoRA is not available in this version."
_LATER_SPECULATIVE = "Speculative decoding is not available in this version."
_ON_REQUEST = "Logits of any token can be asked for when the engine runs; the build need not know."
_OFF = ("disable", "false", "none", "0", "1", "-1")


def _cache_type(word: str) -> Mapping[str, Any]:
    kinds = {"paged": True, "continuous": False}
    if word.lower() not in kinds:
        raise Unfit(f"cannot be {word!r} in this version", "Choose paged or continuous.")
    return {"paged_kv_cache": kinds[word.lower()]}


BUILD: LegacyTable = {
    **ignored(_CHECKPOINT, 1, *_ARCHITECTURE),
    **ignored(_CHECKPOINT, 0, "--no_bias", "--multi_query_mode", "-mq", "--enable_qk_half_accum"),
    **ignored(_EMBEDDING, 0, "--use_parallel_embedding", "--use_embedding_sharing"),
    **ignored(_EMBEDDING, 1, "--embedding_sharding_dim"),
    **ignored(_LAYOUT, 1, "--tp_size", "--pp_size", "--tp", "--pp"),
    **ignored("Ranks are placed on the GPUs that this machine has.", 1, "--gpus_per_node", "--cluster_key"),
    **ignored("Ranks are built one after the other unless --parallel_build is given.", 0, "--serial_build"),
    **ignored("A build draws nothing at random.", 1, "--random_seed"),
    **ignored("Logits are float32 here.", 1, "--logits_dtype"),
    **ignored(_ON_REQUEST, 0, "--gather_generation_logits"),
    **ignored("An engine serves every size up to its limits.", 1, "--opt_num_tokens", "--opt_batch_size"),
    **ignored("An engine serves every size up to its limits.", "?", "--multiple_profiles"),
    **ignored("The build's memory is always part of its result.", 0, "--monitor_memory"),
    **ignored("Timings are always kept in model.cache of the engine folder.", 1, "--output_timing_cache"),
    **ignored(
        _NO_KERNEL,
        "?",
        "--bert_attention_plugin",
        "--use_bert_attention_plugin",
        "--bert_context_fmha_fp32_acc",
        "--identity_plugin",
        "--mamba_conv1d_plugin",
        "--paged_state",
        "--moe_plugin",
        "--gemm_swiglu_plugin",
        "--fp8_rowwise_gemm_plugin",
        "--qserve_gemm_plugin",
        "--low_latency_gemm_plugin",
        "--low_latency_gemm_swiglu_plugin",
        "--gemm_allreduce_plugin",
        "--use_fused_mlp",
        "--use_fp8_context_fmha",
        "--use_paged_context_fmha",
        "--reduce_fusion",
        "--norm_quant_fusion",
        "--user_buffer",
        "--pp_reduce_scatter",
        "--enable_xqa",
        "--disable_xqa",
        "--attention_qk_half_accumulation",
        "--manage_weights",
    ),
    **meant(
        "It is said by --visualize here; the file lies in the engine folder.",
        1,
        "--visualize_network",
        {"visualize": True},
    ),
    **meant("It is said by --paged_kv_cache here.", 1, "--kv_cache_type", _cache_type),
    **meant("It is said by --opt_level 1 here.", 0, "--fast_build", {"opt_level": 1}),
    **refused(
        _QUANTIZED,
        0,
        "--use_weight_only",
        "--use_smooth_quant",
        "--per_group",
        "--per_channel",
        "--per_token",
        "--int8_kv_cache",
        "--fp8_kv_cache",
        "--enable_fp8",
    ),
    **refused(_QUANTIZED, "?", "--weight_only_precision"),
    **refused(_QUANTIZED, 1, "--group_size", "--quantized_fp8_model_path", "--quant_ckpt_path", "--smoothquant"),
    **refused(_ROTARY, 1, "--rotary_base"),
    **refused(_ROTARY, 2, "--rotary_scaling"),
    **refused(_LATER_LORA, "+", "--lora_dir", "--lora_target_modules"),
    **refused(_LATER_LORA, 1, "--hf_lora_dir", "--lora_ckpt_source", "--max_lora_rank"),
    **refused(_LATER_LORA, "?", "--lora_plugin", "--use_lora_plugin", harmless=_OFF),
    **refused(_LATER_SPECULATIVE, 1, "--speculative_decoding_mode", "--max_draft_len", harmless=_OFF),
    **refused("Layouts are not chosen automatically in this version. " + _LAYOUT, 1, "--auto_parallel", harmless=_OFF),
    **refused("Context parallelism is not available in this version.", 1, "--cp_size", harmless=_OFF),
    **refused("Encoders are not available in this version.", 1, "--max_encoder_input_len", harmless=_OFF),
    **refused("Sparse weights are not available in this version.", 0, "--weight_sparsity"),
    **refused(
        "Engines with random weights are not available in this version; give --checkpoint_dir.", 1, "--model_config"
    ),
    **refused(
        "Give the build's options as flags, or build_config=<a BuildConfig> in a notebook.", 1, "--build_config_file"
    ),
    **refused("Own model classes are not available in this version.", 1, "--model_cls_file", "--model_cls_name"),
    **refused("All ranks are built by one command.", 1, "--rank"),
    **refused("A layout is shown without building by trtbench convert --dry_run.", 0, "--dry_run"),
    **refused("StreamingLLM is not available in this version.", "?", "--streamingllm", harmless=_OFF),
    **refused("Meta's own checkpoints are not available in this version.", 1, "--meta_ckpt_dir", "--ft_model_dir"),
    **refused("The FasterTransformer layout is not available in this version.", 1, "--ft_dir_path"),
}
