"""Requests that generate text: run it, compare it with Hugging Face, score it on summaries."""

from __future__ import annotations

from typing import Any

from ..inflight import InflightConfig
from ..options import option
from ..quality import QualityConfig, max_drop_option
from ..sampling import SamplingConfig
from ..spec import Spec
from .shared import (
    DEFAULT_PROMPT,
    engine_dir_option,
    gpu_weights_option,
    hf_dtype_option,
    hf_model_dir_option,
    name_option,
    tokenizer_dir_option,
    trust_remote_code_option,
)

SPLITS = ("test", "validation", "train")


def _prompts() -> tuple[str, ...]:
    return option(  # type: ignore[no-any-return]
        default=(DEFAULT_PROMPT,),
        help="Prompts, each a text of its own.",
        nonempty=True,
        nargs="+",
        flags=("--prompt", "--input"),
        positional=1,
        metavar="TEXT",
        group="input",
    )


def _input_file() -> str | None:
    return option(  # type: ignore[no-any-return]
        default=None,
        help="File of prompts: .txt with one a line, .csv or .npy with token ids. Takes the place of the text.",
        flags=("--input_tokens",),
        metavar="FILE",
        group="input",
    )


def _max_input_length(default: int | None, help: str) -> int | None:
    return option(default=default, help=help, minimum=1, unit="tokens", flags=("--max_input_len",), group="input")  # type: ignore[no-any-return]


def _truncation() -> str:
    return option(  # type: ignore[no-any-return]
        default="error",
        help="A prompt longer than the engine takes: error, or cut off its left or right end.",
        choices=("error", "left", "right"),
        flags=("--truncate",),
        bare="left",
        group="input",
    )


def _add_special_tokens() -> bool:
    return option(  # type: ignore[no-any-return]
        default=True, help="Let the tokenizer add its special tokens to the prompt.", group="input"
    )


def _words(help: str) -> tuple[str, ...]:
    return option(default=(), help=help, nargs="+", metavar="WORD", group="sampling")  # type: ignore[no-any-return]


class RunSpec(Spec):
    """Generate text with an engine."""

    engine_dir: str = engine_dir_option()
    gpu_weights_percent: float | None = gpu_weights_option()
    input_text: tuple[str, ...] = _prompts()
    input_file: str | None = _input_file()
    prompts: str | None = option(
        default=None,
        help="File of requests for a running batch, one JSON object a line: prompt (text) or input_ids, and its own "
        "sampling fields over those given here. Takes the place of the text; the engine must be paged.",
        metavar="FILE.jsonl",
        group="input",
    )
    inflight: InflightConfig = option(
        factory=InflightConfig, help="Cache and steps of the running batch, for --prompts.", group="batching"
    )
    tokenizer_dir: str | None = tokenizer_dir_option()
    max_input_length: int | None = _max_input_length(None, "Longest prompt; none means the engine's limit.")
    truncation: str = _truncation()
    add_special_tokens: bool = _add_special_tokens()
    sampling: SamplingConfig = option(factory=SamplingConfig, help="Choice of tokens.", group="sampling")
    stop_words: tuple[str, ...] = _words("Texts that end generation.")
    bad_words: tuple[str, ...] = _words("Texts that are never generated.")
    streaming: bool = option(default=False, help="Show the text as it comes.", flags=("--stream",), group="output")
    streaming_interval: int = option(
        default=1, help="Tokens between two updates of the text.", minimum=1, unit="tokens", group="output"
    )
    output_jsonl: str | None = option(
        default=None,
        help="File for the results of --prompts, one JSON object a line.",
        metavar="FILE",
        group="output",
    )
    output_csv: str | None = option(
        default=None, help="File for the token ids, as CSV.", metavar="FILE", group="output"
    )
    output_npy: str | None = option(
        default=None, help="File for the token ids, as NumPy array.", metavar="FILE", group="output"
    )
    output_logits_npy: str | None = option(
        default=None, help="File for the logits of the generated tokens.", metavar="FILE", group="output"
    )
    name: str | None = name_option()


class CompareSpec(Spec):
    """Generate the same with an engine and with Hugging Face, side by side; or compare quality, or layer by layer."""

    engine_dir: str = engine_dir_option(
        help="Folder of the engine; for quality (--metrics, --max_drop) and --per_layer also of a checkpoint, which is "
        "then computed by definition."
    )
    gpu_weights_percent: float | None = gpu_weights_option()
    input_text: tuple[str, ...] = _prompts()
    input_file: str | None = _input_file()
    hf_model_dir: str | None = hf_model_dir_option()
    hf_dtype: str = hf_dtype_option()
    tokenizer_dir: str | None = tokenizer_dir_option()
    max_input_length: int | None = _max_input_length(None, "Longest prompt; none means the engine's limit.")
    truncation: str = _truncation()
    add_special_tokens: bool = _add_special_tokens()
    sampling: SamplingConfig = option(factory=SamplingConfig, help="Choice of tokens.", group="sampling")
    num_runs: int = option(
        default=1, help="Timed repetitions of each side; the median counts.", minimum=1, group="comparison"
    )
    warm_up: int = option(default=1, help="Repetitions before timing begins.", minimum=0, group="comparison")
    quality: QualityConfig = option(factory=QualityConfig, help="Quality against the baseline.", group="quality")
    per_layer: bool = option(
        default=False, help="Compare the hidden states of every layer with the baseline's.", group="layers"
    )
    bisect: bool = option(
        default=False,
        help="Search the first layer beyond the tolerance by halving, instead of comparing all.",
        group="layers",
        effect="A few passes with one layer's states in memory.",
    )
    tolerance: float = option(
        default=1e-3,
        help="Largest relative error of a layer's output that counts as equal.",
        minimum=1e-12,
        group="layers",
    )
    capture_mib: int = option(
        default=256, help="Most memory for hidden states at a time.", minimum=1, unit="MiB", group="layers"
    )
    deterministic: bool = option(
        default=False,
        help="Allow torch deterministic kernels only, run the engine twice, and say whether the bits were the same.",
        group="comparison",
        effect="Some GPU kernels are slower.",
    )
    trust_remote_code: bool = trust_remote_code_option()
    name: str | None = name_option()


def _rouge_types(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


class SummarizeSpec(Spec):
    """Summarise articles and score the summaries by ROUGE, with an engine, Hugging Face, or both."""

    engine_dir: str | None = engine_dir_option(required=False)
    gpu_weights_percent: float | None = gpu_weights_option()
    hf_model_dir: str | None = hf_model_dir_option()
    test_trt_llm: bool = option(default=True, help="Score the engine.", flags=("--test_engine",), group="comparison")
    test_hf: bool = option(default=False, help="Score Hugging Face too.", group="comparison")
    hf_dtype: str = hf_dtype_option()
    tokenizer_dir: str | None = tokenizer_dir_option()
    dataset_dir: str | None = option(
        default=None,
        help="File or folder of articles in the cnn_dailymail schema; none means the demo corpus.",
        flags=("--dataset", "--dataset_path"),
        metavar="PATH",
        group="input",
    )
    split: str = option(default="test", help="Part of the dataset.", choices=SPLITS, group="input")
    max_ite: int = option(
        default=20, help="Batches of articles to score.", minimum=1, flags=("--max_items",), group="input"
    )
    batch_size: int = option(default=1, help="Articles at a time.", minimum=1, unit="articles", group="input")
    max_input_length: int = _max_input_length(923, "Tokens of the article that are kept.")  # type: ignore[assignment]
    append_text: str = option(
        default=" TL;DR: ", help="Text that follows the article in the prompt.", metavar="TEXT", group="input"
    )
    add_special_tokens: bool = _add_special_tokens()
    sampling: SamplingConfig = option(factory=SamplingConfig, help="Choice of tokens.", group="sampling")
    rouge_types: tuple[str, ...] = option(
        default=("rouge1", "rouge2", "rougeL", "rougeLsum"),
        help="Scores to compute.",
        choices=("rouge1", "rouge2", "rougeL", "rougeLsum"),
        parse=_rouge_types,
        nonempty=True,
        render=",".join,
        group="scoring",
    )
    check_accuracy: bool = option(
        default=False, help="Fail unless the engine's rouge1 is above the threshold.", group="scoring"
    )
    tensorrt_llm_rouge1_threshold: float = option(
        default=14.0, help="What rouge1 must exceed with --check_accuracy.", minimum=0, maximum=100, group="scoring"
    )
    max_drop: dict[str, Any] = max_drop_option(
        "rouge1, rouge2, rougeL, rougeLsum, entities (against Hugging Face, with --test_hf)"
    )
    bootstrap_samples: int = option(
        default=1000,
        help="Resamples behind the interval of each score; 0 means no interval.",
        minimum=0,
        group="scoring",
    )
    output_dir: str | None = option(
        default=None,
        help="Folder for the summaries as text; none means they stay in the result.",
        metavar="DIR",
        group="output",
    )
    trust_remote_code: bool = trust_remote_code_option()
    name: str | None = name_option()
