"""Flags of the tools that download, convert and quantize."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..coerce import Unfit
from .entry import LegacyTable, ignored, meant, refused

_FROM_SOURCE = "The architecture is read from the source's own config.json."
_DUMMY = ("--vocab_size", "--n_positions", "--n_layer", "--n_head", "--n_kv_head", "--n_embd", "--inter_size")
_NO_CALIBRATION = "Calibration runs layer by layer in batches of its own: see --calib_size and --calib_device."
_CACHE_TYPE = "The K/V cache's type is --kv_cache_dtype here."
_CALIBRATION = ("--calib_batch_size", "--calib_batches", "--calib_tp_size", "--calib_pp_size", "--dataset_cache_dir")
_SEARCH = "Formats are searched layer by layer here: --search --budget size=0.35, among those of --search_formats."
_STREAMED = "Conversion always streams tensor by tensor and never holds the model."
_LOGS = "There is no separate log here: progress is shown, and the result tells the rest."
_FP8_LATER = "FP8 is made by the verb quantize: --qformat fp8."
_QUANTIZED_SOURCE = (
    "A model that is quantized already is converted from its own folder, without more flags: give it as --model_dir."
)
_MOE_LATER = "Mixture-of-experts models are not available in this version."
_CONTEXT_PARALLEL = "Context parallelism is not available in this version. Available: --tp_size and --pp_size."
_NEMO = "NeMo files are not available in this version. Available: Hugging Face models, as a folder or by their id."
_MEDUSA = "Speculative decoding is not available in this version."

_DOWNLOAD: LegacyTable = {
    **ignored("A download that was cut off is always resumed.", 0, "--resume_download"),
    **ignored("Files are written to the folder itself, without links.", 1, "--local_dir_use_symlinks"),
    **ignored("Progress is shown in one line that the shell's --quiet removes.", 0, "--disable_progress"),
    **ignored("Use --local_dir for the folder of this model, or $TRTBENCH_HOME for all of them.", 1, "--cache_dir"),
    **refused(
        "Remove the folder to fetch a model again; a download cut short goes on by itself.", 0, "--force_download"
    ),
    **ignored("Only models are fetched here.", 1, "--repo_type"),
    **ignored("The identity of the client is not sent.", 1, "--library_name", "--library_version"),
}

_SOURCES: LegacyTable = {
    **ignored(_STREAMED, 0, "--load_by_shard", "--load_model_on_cpu", "--convert_model_on_cpu"),
    **ignored(_LOGS, 1, "--log_level"),
    **ignored(_LOGS, 0, "--verbose", "-v"),
    **ignored(_FROM_SOURCE, 1, *_DUMMY, "--hidden_act", "--rms_norm_eps", "--layer_norm_eps", "--multiple_of"),
    **ignored(_FROM_SOURCE, 1, "--ffn_dim_multiplier", "--model_version", "--rotary_pct", "--gpt_variant"),
    **ignored(_FROM_SOURCE, 0, "--multi_query_mode", "-mq", "--no_bias"),
    **ignored(_NO_CALIBRATION, 1, *_CALIBRATION),
    **ignored("The kernels are chosen when the engine is built.", 0, "--disable_weight_only_quant_plugin"),
    **ignored("Groups are asked for by --group_size.", 0, "--per_group"),
    **ignored("All ranks are written by one command.", 1, "--gpus_per_node"),
    **refused(_FP8_LATER, 0, "--use_fp8", "--use_fp8_rowwise", "--enable_fp8", "--use_meta_fp8_rowwise_recipe"),
    **refused("An FP8 K/V cache is made by the verb quantize: --kv_cache_dtype fp8.", 0, "--fp8_kv_cache"),
    **refused(
        _QUANTIZED_SOURCE,
        1,
        "--quant_ckpt_path",
        "--modelopt_quant_ckpt_path",
        "--ammo_quant_ckpt_path",
        "--load_model_from",
    ),
    **refused(
        "Meta's own checkpoints are not available in this version. Available: Hugging Face models.",
        1,
        "--meta_ckpt_dir",
    ),
    **refused(_NEMO, 1, "--nemo_ckpt_path", "--ft_model_dir"),
    **refused(_MOE_LATER, 1, "--moe_num_experts", "--moe_top_k", harmless=("0",)),
    **refused(_MOE_LATER, 1, "--moe_tp_size", "--moe_ep_size", harmless=("-1", "1")),
    **refused(_MOE_LATER, 1, "--moe_renorm_mode", "--moe_normalization_mode", harmless=("1",)),
    **refused(_CONTEXT_PARALLEL, 1, "--cp_size", harmless=("1",)),
    **refused("Use --dry_run to see the layout without writing anything.", 0, "--save_config_only"),
    **refused(
        "Sources with repeated key/value heads are not available in this version.", 0, "--remove_duplicated_kv_heads"
    ),
    **refused("One rank alone cannot be written; --workers sets how many are written at a time.", 1, "--rank"),
    **refused("LoRA is not available in this version.", 1, "--hf_lora_dir", "--lora_dir", "--max_lora_rank"),
    **refused(_MEDUSA, 1, "--medusa_model_dir", "--num_medusa_heads", "--num_medusa_layers", "--max_draft_len"),
}

_CONVERT: LegacyTable = {
    **_SOURCES,
    **refused("SmoothQuant is asked for with its alpha: --smoothquant 0.5.", 0, "--use_smooth_quant"),
    **ignored(_NO_CALIBRATION, 1, "--batch_size"),
    **refused("FP8 with given scales is made by the verb quantize: --qformat fp8 --fp8_scales FILE.", 1,
              "--quantized_fp8_model_path"),
}


def _qformat_of_precision(word: str) -> Mapping[str, Any]:
    formats = {"int8": "int8_wo", "int4": "int4_wo"}
    if word not in formats:
        raise Unfit(f"cannot be {word!r} in this version", "Choose int8 or int4.")
    return {"qformat": formats[word]}


_QUANTIZE: LegacyTable = {
    **_SOURCES,
    **ignored(_NO_CALIBRATION, 1, "--batch_size", "--device_map", "--max_seq_length", "--decoder_type"),
    **ignored("Weights are always quantized by this verb, in the width that --qformat says.", 0, "--use_weight_only"),
    **meant("The width of the weights is part of --qformat here.", 1, "--weight_only_precision", _qformat_of_precision),
    **meant(_CACHE_TYPE, 0, "--int8_kv_cache", {"kv_cache_dtype": "int8"}),
    **meant(_CACHE_TYPE, 0, "--calibrate_kv_cache", {"kv_cache_dtype": "int8"}),
    **refused(_SEARCH, 1, "--autoq_format"),
    **refused(_SEARCH, 1, "--auto_quantize_bits"),
    **refused(
        "Only the TensorRT-LLM checkpoint is written in this version.", 1, "--export_format", harmless=("tensorrt_llm",)
    ),
    **refused(_MEDUSA, 1, "--medusa_hidden_act"),
    **refused(_MEDUSA, 0, "--quant_medusa_head"),
}

MAKING: dict[str, LegacyTable] = {"download": _DOWNLOAD, "convert": _CONVERT, "quantize": _QUANTIZE}
