"""The command lines that people bring: accepted as typed, or refused in a plain sentence."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from trtbench_lab.errors import SpecError
from trtbench_lab.specs.command_line import command_line, parse

# Verb, the line as typed (program included), and what must have been understood.
ACCEPTED: list[tuple[str, str, dict[str, Any]]] = [
    (
        "download",
        'huggingface-cli download gpt2-medium --local-dir ./gpt2-medium --include "*.json"',
        {"model": "gpt2-medium", "local_dir": "./gpt2-medium", "include": ("*.json",)},
    ),
    (
        "download",
        "HF_ENDPOINT=https://mirror.example huggingface-cli download gpt2 config.json --resume-download",
        {"model": "gpt2", "mirror": "https://mirror.example", "files": ("config.json",)},
    ),
    (
        "download",
        "--local-dir-use-symlinks False gpt2 --include *.json *.model --exclude *.bin --revision main",
        {"model": "gpt2", "include": ("*.json", "*.model"), "exclude": ("*.bin",), "revision": "main"},
    ),
    (
        "convert",
        "hf_gpt_convert.py -i gpt2 -o c-model/gpt2 --tensor-parallelism 2 --storage-type float16",
        {
            "source": "gpt2",
            "output_dir": "c-model/gpt2",
            "mapping.tp_size": 2,
            "mapping.world_size": 2,
            "dtype": "float16",
        },
    ),
    (
        "convert",
        "python3 hf_gpt_convert.py -i sc -o out -tp 4 -t bfloat16 -p 3 --model starcoder --load-model-on-cpu",
        {"mapping.tp_size": 4, "dtype": "bfloat16", "workers": 3, "family": "starcoder"},
    ),
    (
        "convert",
        "convert_checkpoint.py --model_dir D --output_dir O --dtype float16 --tp_size 8 --pp_size 1",
        {"source": "D", "output_dir": "O", "mapping.tp_size": 8, "mapping.pp_size": 1, "mapping.world_size": 8},
    ),
    (
        "convert",
        "convert_checkpoint.py --model_dir D --output_dir O --tp 2 --use_weight_only --weight_only_precision int4",
        {
            "mapping.tp_size": 2,
            "use_weight_only": True,
            "weight_only_precision": "int4",
            "quant_config.quant_algo": "W4A16",
        },
    ),
    (
        "convert",
        "--model_dir D --output_dir O --use_weight_only --group_size 64 --quantize_lm_head",
        {
            "quant_config.quant_algo": "W8A16",
            "quant_config.group_size": 64,
            "quant_config.exclude_modules": (),
        },
    ),
    (
        "convert",
        "--model_dir D --tp 2 --use_parallel_embedding --embedding_sharding_dim 0 --use_embedding_sharing",
        {"use_parallel_embedding": True, "embedding_sharding_dim": 0, "share_embedding_table": True},
    ),
    (
        "convert",
        "demo:llama --rotary_scaling linear 2.0 --rotary_base 500000 --workers 2",
        {"rotary_scaling": {"type": "linear", "factor": 2.0}, "rotary_base": 500000.0, "workers": 2},
    ),
    (
        "quantize",
        "quantize.py --model_dir D --qformat int4_wo --calib_size 512 --output_dir O --tp_size 2",
        {"qformat": "int4_wo", "quant_config.quant_algo": "W4A16", "mapping.tp_size": 2},
    ),
    (
        "quantize",
        "--model_dir D --output_dir O --use_weight_only --weight_only_precision int4 --group_size 128",
        {"qformat": "int4_wo", "quant_config.group_size": 128},
    ),
    (
        "quantize",
        "quantize.py --model_dir D --qformat fp8 --kv_cache_dtype fp8 --calib_size 512 --output_dir O --tp_size 2",
        {
            "quant_config.quant_algo": "FP8",
            "quant_config.kv_cache_quant_algo": "FP8",
            "calibration.calib_size": 512,
            "mapping.tp_size": 2,
        },
    ),
    (
        "quantize",
        "--model_dir D --qformat int4_awq --output_dir O --awq_block_size 64",
        {"quant_config.quant_algo": "W4A16_AWQ", "quant_config.group_size": 64, "quant_config.pre_quant_scale": True},
    ),
    (
        "quantize",
        "--model_dir D --qformat w4a8_awq --kv_cache_dtype int8 --output_dir O",
        {"quant_config.quant_algo": "W4A8_AWQ", "quant_config.kv_cache_quant_algo": "INT8"},
    ),
    (
        "convert",
        "hf_gpt_convert.py -i gpt2 -o c-model/gpt2 --smoothquant 0.5 --calibrate-kv-cache",
        {"quant_config.quant_algo": "W8A8_SQ_PER_TENSOR_PLUGIN", "quant_config.kv_cache_quant_algo": "INT8"},
    ),
    (
        "convert",
        "convert_checkpoint.py --model_dir D --smoothquant 0.5 --per_token --per_channel --int8_kv_cache",
        {"quant_config.quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", "quant_config.smoothquant_val": 0.5},
    ),
    (
        "build",
        "build.py --model_dir c-model/gpt2/2-gpu --world_size 2 --use_gpt_attention_plugin --remove_input_padding "
        "--enable_context_fmha --use_gemm_plugin --use_inflight_batching --parallel_build --max_batch_size 8 "
        "--max_input_len 924 --max_output_len 100 --hidden_act gelu --output_dir O",
        {
            "checkpoint_dir": "c-model/gpt2/2-gpu",
            "world_size": 2,
            "build_config.plugin_config.gpt_attention_plugin": "auto",
            "build_config.plugin_config.remove_input_padding": True,
            "build_config.plugin_config.context_fmha": True,
            "build_config.plugin_config.gemm_plugin": "auto",
            "build_config.plugin_config.use_inflight_batching": True,
            "build_config.parallel_build": True,
            "build_config.max_batch_size": 8,
            "build_config.max_input_len": 924,
            "build_config.max_output_len": 100,
            "output_dir": "O",
        },
    ),
    (
        "build",
        "trtllm-build --checkpoint_dir C --output_dir E --gemm_plugin auto --max_batch_size 16 "
        "--max_num_tokens 16384 --max_input_len 1024 --max_seq_len 2048 --workers 2",
        {
            "checkpoint_dir": "C",
            "build_config.max_num_tokens": 16384,
            "build_config.max_seq_len": 2048,
            "build_config.workers": 2,
            "build_config.plugin_config.gemm_plugin": "auto",
        },
    ),
    (
        "run",
        'run.py --engine_dir E --max_output_len 100 --tokenizer_dir T --input_text "Born in north-east France" '
        "--no_add_special_tokens",
        {
            "engine_dir": "E",
            "sampling.max_new_tokens": 100,
            "tokenizer_dir": "T",
            "input_text": ("Born in north-east France",),
            "add_special_tokens": False,
        },
    ),
    (
        "run",
        "mpirun -n 8 --allow-run-as-root python3 run.py --engine_dir E --max_output_len 8 --input_tokens X.csv",
        {"input_file": "X.csv", "sampling.max_new_tokens": 8},
    ),
    (
        "run",
        "run.py --engine_dir E --max_output_len 8 --streaming --streaming_interval 2 --top_k 50 --top_p 0.9 "
        "--temperature 0.7 --random_seed 3 --repetition_penalty 1.2 --use_py_session --early_stopping 1",
        {
            "streaming": True,
            "streaming_interval": 2,
            "sampling.top_k": 50,
            "sampling.top_p": 0.9,
            "sampling.temperature": 0.7,
            "sampling.random_seed": 3,
            "sampling.repetition_penalty": 1.2,
            "sampling.early_stopping": True,
        },
    ),
    (
        "run",
        'run.py --engine_dir E --max_output_len 8 --stop_words " London" " chef" --bad_words never',
        {"stop_words": (" London", " chef"), "bad_words": ("never",)},
    ),
    (
        "summarize",
        "summarize.py --engine_dir E --hf_model_dir D --test_trt_llm --test_hf --batch_size 1 --check_accuracy "
        "--tensorrt_llm_rouge1_threshold 14 --dataset_dir P --max_ite 20",
        {
            "engine_dir": "E",
            "hf_model_dir": "D",
            "test_trt_llm": True,
            "test_hf": True,
            "batch_size": 1,
            "check_accuracy": True,
            "tensorrt_llm_rouge1_threshold": 14.0,
            "dataset_dir": "P",
            "max_ite": 20,
            "sampling.max_new_tokens": 100,
        },
    ),
    (
        "bench",
        'benchmark.py --model dec --engine_dir E --batch_size 16 --input_output_len "1024,1024" --num_runs 10',
        {"bench.batch_size": (16,), "bench.input_output_len": ((1024, 1024),), "bench.num_runs": 10},
    ),
    (
        "bench",
        'gptSessionBenchmark --model gpt --engine_dir E --batch_size "1;8" --input_output_len "60,20;60,100" '
        "--duration 60 --warm_up 2",
        {
            "bench.batch_size": (1, 8),
            "bench.input_output_len": ((60, 20), (60, 100)),
            "bench.duration_s": 60.0,
            "bench.warm_up": 2,
        },
    ),
    ("bench", "trtllm-bench --model M latency --engine_dir E", {"bench.mode": "static", "engine_dir": "E"}),
    ("bench", "benchmark.py -m gpt_350m --mode plugin --engine_dir E", {"bench.mode": "static"}),
    (
        "bench",
        "trtllm-bench --model M throughput --dataset F --engine_dir E --concurrency 64 --num_requests 500",
        {"bench.mode": "serving", "bench.dataset": "F", "bench.concurrency": 64, "bench.num_requests": 500},
    ),
    (
        "bench",
        "--engine_dir E --mode serving --request_rate 4.5 --goodput ttft:500 e2el:2000 "
        "--kv_cache_free_gpu_mem_fraction 0.8",
        {
            "bench.request_rate": 4.5,
            "bench.goodput": {"ttft": 500.0, "latency": 2000.0},
            "inflight.kv_cache_fraction": 0.8,
        },
    ),
    ("bench", "--engine_dir E --mode serving --request_rate inf", {"bench.request_rate": None}),
    (
        "run",
        "--engine_dir E --prompts requests.jsonl --max_running 4 --output_jsonl out.jsonl",
        {"prompts": "requests.jsonl", "inflight.max_running": 4, "output_jsonl": "out.jsonl"},
    ),
]

# Verb, line, and words of the sentence that refuses it.
REFUSED: list[tuple[str, str, tuple[str, ...]]] = [
    ("convert", "-i gpt2 -o out --format ft", ("FasterTransformer layout is not available", "Available: trtllm")),
    (
        "convert",
        "--model_dir D --output_dir O --use_weight_only --weight_only_precision int4_awq",
        ("Use the verb quantize: --qformat int4_awq",),
    ),
    (
        "convert",
        "nemo_ckpt_convert.py -i X.nemo -o O --tensor-parallelism 1 --storage-type bfloat16",
        ("NeMo files are not available in this version", "Hugging Face models"),
    ),
    ("convert", "nemo_prompt_convert.py -i X.nemo -o X.npy", ("NeMo files are not available",)),
    (
        "build",
        "build.py --model_dir D --use_weight_only --weight_only_precision int8",
        ("decided when the checkpoint is made: trtbench convert --use_weight_only",),
    ),
    ("build", "trtllm-build --checkpoint_dir C --lora_plugin auto", ("LoRA is not available in this version",)),
    (
        "run",
        "run.py --engine_dir E --max_output_len 8 --prompt_table P.npy --tasks 0",
        ("Prompt tuning is not available in this version",),
    ),
    ("bench", "--engine_dir E --mode serving --request_rate 0", ("request_rate",)),
    ("bench", "--engine_dir E --mode serving --goodput ttf:500", ("Did you mean 'ttft'?",)),
    ("bench", "--engine_dir E --mode serving --goodput ttft=fast", ("limits in milliseconds such as",)),
]


def _value(spec: Any, path: str) -> Any:
    for name in path.split("."):
        spec = getattr(spec, name)
    return spec


@pytest.mark.parametrize(
    ("verb", "line", "understood"), ACCEPTED, ids=[f"{verb}: {line[:50]}" for verb, line, _ in ACCEPTED]
)
def test_line_is_accepted_as_typed(verb: str, line: str, understood: dict[str, Any]) -> None:
    spec, notes = parse(verb, shlex.split(line))
    assert {path: _value(spec, path) for path in understood} == understood
    assert all(note.strip() for note in notes)
    again, _ = parse(verb, command_line(verb, spec))
    assert again == spec


@pytest.mark.parametrize(("verb", "line", "words"), REFUSED, ids=[f"{verb}: {line[:50]}" for verb, line, _ in REFUSED])
def test_line_of_a_later_version_is_refused_in_plain_words(verb: str, line: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        parse(verb, shlex.split(line))
    for word in words:
        assert word in str(caught.value)


def test_inflight_batching_of_the_old_build_line_is_told() -> None:
    _, notes = parse("build", ["C", "--use_inflight_batching"])
    assert any("turns on gpt_attention_plugin, remove_input_padding and paged_kv_cache" in note for note in notes)


def test_flags_without_meaning_are_told() -> None:
    _, notes = parse("build", shlex.split("C --hidden_act gelu --gpus_per_node 8 --logits_dtype float16"))
    assert [note.split(" does nothing here: ")[0] for note in notes] == [
        "--hidden_act gelu",
        "--gpus_per_node 8",
        "--logits_dtype float16",
    ]
