"""Fields that several requests have in common, each declared once."""

from __future__ import annotations

from typing import Any

from ..model import DTYPE_SYNONYMS, DTYPES
from ..options import option

DEFAULT_PROMPT = "Born in north-east France, Soyer trained as a"
DEMO_HELP = "'demo', 'demo:gpt2' and 'demo:llama' name the models that ship with this project"


def engine_dir_option(required: bool = True, help: str = "Folder of the engine.") -> Any:
    """The engine that a request runs."""
    words: dict[str, Any] = {
        "help": help,
        "flags": ("--engine",),
        "metavar": "DIR",
        "positional": 0,
        "group": "engine",
    }
    return option(**words) if required else option(default=None, **words)


def gpu_weights_option() -> Any:
    """How much of an engine's weights stays on the GPU while it runs."""
    return option(
        default=None,
        help="Share of the weights kept on the GPU, 0 to 1; the others stream from host memory in every step. For "
        "engines of the tensorrt backend built with weight_streaming; none means all.",
        minimum=0,
        maximum=1,
        group="engine",
        effect="Less GPU memory and much slower steps: while weights stream, no CUDA graph is used.",
    )


def hf_model_dir_option(
    help: str = "Folder of the Hugging Face model; none means the one the engine came from.",
) -> Any:
    """The Hugging Face side of a comparison."""
    return option(default=None, help=help, flags=("--model_dir", "--hf_model"), metavar="DIR", group="hugging face")


def tokenizer_dir_option() -> Any:
    return option(
        default=None,
        help="Folder of the tokenizer; none means the one that came with the model.",
        flags=("--tokenizer",),
        metavar="DIR",
        group="input",
    )


def name_option() -> Any:
    return option(
        default=None, help="Name under which the result is kept and found again.", metavar="NAME", group="result"
    )


def overwrite_option() -> Any:
    return option(
        default=False, help="Replace the output folder as a whole if it exists.", flags=("--force",), group="output"
    )


def source_option() -> Any:
    """The model that is converted or quantized."""
    return option(
        help=f"Folder of the Hugging Face model, or its id on the hub; {DEMO_HELP}.",
        flag="--model_dir",
        flags=("--hf_model_dir", "--in_file", "-i"),
        metavar="DIR",
        positional=0,
        group="model",
    )


def output_dir_option(*flags: str, help: str) -> Any:
    return option(default=None, help=help, flags=("--out_dir", *flags), metavar="DIR", positional=1, group="output")


def dtype_option() -> Any:
    return option(
        default="auto",
        help="Data type of the weights; auto is the source's own, and float16 for a float32 source.",
        choices=("auto", *DTYPES),
        synonyms=DTYPE_SYNONYMS,
        flags=("--storage_type", "-t"),
        group="model",
    )


def hf_dtype_option() -> Any:
    return option(
        default="auto",
        help="Data type of the Hugging Face model; auto is the engine's compute type.",
        choices=("auto", *DTYPES),
        synonyms=DTYPE_SYNONYMS,
        flags=("--data_type", "--hf_data_type"),
        group="hugging face",
    )


def trust_remote_code_option() -> Any:
    return option(default=False, help="Let code inside the model folder run.", group="model")


def group_size_option(*flags: str) -> Any:
    from ..quant import GROUP_SIZES

    return option(
        default=None,
        help="Input features that share one scale; none means one scale for each output channel.",
        choices=GROUP_SIZES,
        flags=flags,
        unit="features",
        group="quantization",
        effect="Smaller groups are nearer to the original and need more scales.",
    )


def exclude_modules_option() -> Any:
    return option(
        default=None,
        help="Patterns of modules left as they are; none means lm_head only.",
        nargs="+",
        metavar="PATTERN",
        group="quantization",
    )


def quantize_lm_head_option() -> Any:
    return option(
        default=False,
        help="Quantize lm_head too.",
        group="quantization",
        effect="The head of a small model is a large part of each step.",
    )


def use_parallel_embedding_option() -> Any:
    return option(
        default=False, help="Divide the embedding table over the tensor-parallel ranks.", group="parallelism"
    )


def embedding_sharding_dim_option() -> Any:
    return option(
        default=0,
        help="Dimension along which the table is divided: 0 vocabulary, 1 hidden.",
        choices=(0, 1),
        group="parallelism",
    )


def workers_option() -> Any:
    return option(
        default=1,
        help="Ranks written at the same time; 1 needs the least memory.",
        minimum=1,
        flags=("--processes", "-p"),
        group="output",
    )
