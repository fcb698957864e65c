"""Flags of the tools that run, score and measure engines."""

from __future__ import annotations

from .entry import LegacyTable, ignored, refused

_LOGS = "There is no separate log here: progress is shown, and the result tells the rest."
_CACHE = "The K/V cache takes what the request needs, within the engine's limits."
_BUILT = "It is decided when the engine is built."
_TEMPLATE = "Prompts are taken as they are."
_OFF = ("0", "0.0", "1", "1.0", "-1", "none", "false", "disable")
_SPECULATIVE = "Speculative decoding is not available in this version."
_PROMPT_TUNING = "Prompt tuning is not available in this version."
_LORA = "LoRA is not available in this version."
_WINDOW = "A window other than the model's own is not available in this version."

_GENERATION: LegacyTable = {
    **ignored("There is one runtime, in Python.", 0, "--use_py_session", "--debug_mode"),
    **ignored("There is one runtime, in Python.", 1, "--session"),
    **ignored(_LOGS, 1, "--log_level"),
    **ignored(
        _CACHE, 1, "--max_tokens_in_paged_kv_cache", "--max_tokens_in_paged_kvcache", "--cross_kv_cache_fraction"
    ),
    **ignored("Long prompts are always taken in chunks.", 0, "--enable_chunked_context"),
    **ignored(_BUILT, 1, "--multi_block_mode"),
    **ignored(_BUILT, 0, "--enable_context_fmha_fp32_acc", "--cuda_graph_mode", "--enable_cuda_graph"),
    **ignored(_TEMPLATE, 0, "--no_prompt_template", "--use_prompt_template"),
    **ignored("The tokenizer's own files say what it is.", 1, "--tokenizer_type", "--vocab_file"),
    **refused(_PROMPT_TUNING, 1, "--prompt_table", "--prompt_table_path", "--tasks", "--prompt_tasks"),
    **refused(_PROMPT_TUNING, "+", "--num_prepend_vtokens"),
    **refused(_LORA, "+", "--lora_dir", "--lora_task_uids"),
    **refused(_LORA, 1, "--lora_ckpt_source"),
    **refused(
        _SPECULATIVE,
        1,
        "--medusa_choices",
        "--eagle_choices",
        "--eagle_posterior_threshold",
        "--lookahead_config",
        "--draft_target_model_config",
        "--prompt_lookup_config",
    ),
    **refused("Beams of changing width are not available in this version.", 1, "--beam_width_array"),
    **refused("Diverse beams are not available in this version.", 1, "--beam_search_diversity_rate", harmless=_OFF),
    **refused(
        "Several samples of one prompt: give the prompt several times.", 1, "--num_return_sequences", harmless=_OFF
    ),
    **refused(
        "It is not available in this version; see --repetition_penalty.", 1, "--no_repeat_ngram_size", harmless=_OFF
    ),
    **refused(_WINDOW, "+", "--max_attention_window_size"),
    **refused(_WINDOW, 1, "--sink_token_length", harmless=_OFF),
}

# `run` and `bench` have these for their running batch; the others run a batch at a time.
_NO_POOL: LegacyTable = {
    **ignored(_CACHE, 1, "--kv_cache_free_gpu_memory_fraction", "--kv_cache_free_gpu_mem_fraction"),
    **ignored(_CACHE, 0, "--kv_cache_enable_block_reuse"),
}

_RUN: LegacyTable = {
    **_GENERATION,
    **ignored("Every result holds its timings; trtbench bench repeats them.", 0, "--run_profiling"),
    **refused(
        "Use --output_log_probs; the result holds them.", 1, "--output_log_probs_npy", "--output_cum_log_probs_npy"
    ),
    **refused("Use trtbench compare.", 0, "--test_hf"),
    **refused("Models that see and hear are not available in this version.", 1, "--multimodal_input_file"),
}

_SUMMARIZE: LegacyTable = {
    **_GENERATION,
    **_NO_POOL,
    **ignored("rouge-score computes the scores; nothing is fetched.", 1, "--rouge_dir"),
    **ignored(
        "The dataset is read from --dataset_dir; nothing is fetched.", 1, "--dataset_cache_dir", "--dataset_name"
    ),
    **ignored("Hugging Face runs on one device.", 0, "--hf_device_map_auto"),
    **ignored("Articles of any length are scored.", 1, "--min_input_length"),
    **refused("Available: summarize.", 1, "--eval_task", harmless=("summarize",)),
    **refused("Perplexity has its own function: trtbench_lab.evaluation.perplexity.", 0, "--eval_ppl"),
}

_COMPARE: LegacyTable = {
    **_GENERATION,
    **_NO_POOL,
    **ignored("Both sides are always run.", 0, "--test_hf", "--test_trt_llm"),
}

_ENGINE_SAYS = "The engine says what model it is."

_BENCH: LegacyTable = {
    **_GENERATION,
    **ignored(_ENGINE_SAYS, 1, "--model", "-m", "--model_path", "--dtype", "--n_positions", "--workspace"),
    **ignored(
        _BUILT, 1, "--max_input_len", "--max_output_len", "--max_batch_size", "--max_seq_len", "--opt_batch_size"
    ),
    **ignored(_BUILT, 0, "--refit", "--force_num_layer_1", "--strongly_typed", "--serial_build", "--parallel_build"),
    **ignored(_BUILT, 0, "--enable_custom_all_reduce", "--use_custom_all_reduce"),
    **ignored(_BUILT, 1, "--input_timing_cache", "--tp", "--pp", "--world_size", "--rank"),
    **ignored("Give lengths as pairs by --input_output_len.", 1, "--input_len"),
    **ignored("Results are kept in the database; --output_csv writes the table.", 1, "--output_dir"),
    **ignored("A batch runs as a whole.", 1, "--ctx_micro_batch_size", "--gen_micro_batch_size"),
    **ignored(_WINDOW, 1, "--max_attention_window"),
    **ignored("Every run generates exactly the output length asked for.", 0, "--disable_force_max_tokens"),
    **ignored("Logits are not part of a benchmark's result.", 0, "--print_all_logits"),
    **ignored("Memory is always measured.", 0, "--debug_memory"),
    **refused("Quantization is decided when the checkpoint is made.", 0, "--enable_fp8", "--fp8_kv_cache"),
    **refused("Quantization is decided when the checkpoint is made.", 1, "--quantization"),
    **refused("Use trtbench build.", 0, "--build_only"),
    **refused("Inspecting layers is not available in this version.", 0, "--dump_profile", "--dump_layer_info"),
}

RUNNING: dict[str, LegacyTable] = {"run": _RUN, "compare": _COMPARE, "summarize": _SUMMARIZE, "bench": _BENCH}

BENCH_WORDS = {"throughput": "serving", "latency": "static"}
"""What trtllm-bench calls the two modes, as a word of its own."""
