"""Requests before and after the work: what a model will need, and a report of everything that was done."""

from __future__ import annotations

from typing import Any

from ..build import BACKENDS
from ..coerce import Unfit
from ..mapping import Mapping
from ..options import option
from ..spec import Spec
from .formats import KV_CACHE_ALGOS, QFORMAT_ALGOS
from .shared import DEMO_HELP, dtype_option, group_size_option, name_option, quantize_lm_head_option


def _sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", ";").split(";") if part.strip()]
    except ValueError:
        raise Unfit(f"must be batch sizes such as '1;8;64', not {text!r}") from None


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.replace(",", ";").split(";") if part.strip()]


def _target(text: str) -> dict[str, float]:
    found = {}
    for word in text.replace(",", " ").replace(";", " ").split():
        name, equals, value = word.partition("=")
        if not equals:
            raise Unfit(f"must be names and numbers such as itl_ms=5, not {word!r}")
        try:
            found[name] = float(value)
        except ValueError:
            raise Unfit(f"must be names and numbers such as itl_ms=5, not {word!r}") from None
    return found


class PlanSpec(Spec):
    """Predict memory, speed, disk and build time of a model on a GPU, from its config.json alone."""

    model: str = option(
        help=f"Folder or config.json of the model (its weights are not needed), of a checkpoint or an engine, or an id "
        f"on the hub, of which config.json alone is fetched; {DEMO_HELP}.",
        flag="--model_dir",
        flags=("--hf_model_dir", "--checkpoint_dir", "--engine_dir"),
        metavar="MODEL",
        positional=0,
        group="model",
    )
    gpu: tuple[str, ...] = option(
        default=("this",),
        help="GPU by name, for example H200 or L40S; 'this' measures the machine at hand. Several, separated by "
        "semicolons, are weighed for --target; the first is planned.",
        parse=_names,
        render=";".join,
        nonempty=True,
        metavar="NAME",
        group="machine",
    )
    mapping: Mapping = option(factory=Mapping, help="Layout of the ranks.", group="parallelism")
    quant: str = option(
        default="none",
        help="Quantization, as %trt_quantize --qformat writes it; none leaves the model as it is.",
        choices=("none", *(name for name in QFORMAT_ALGOS if name != "full_prec")),
        synonyms={
            "full_prec": "none", "int8": "int8_wo", "int4": "int4_wo", "w8a16": "int8_wo", "w4a16": "int4_wo",
            "awq": "int4_awq", "gptq": "int4_gptq", "smoothquant": "int8_sq",
        },
        flags=("--qformat", "--quant_format", "--quantization"),
        group="quantization",
    )  # fmt: skip
    kv_cache_dtype: str | None = option(
        default=None,
        help="Type of the K/V cache; none keeps the compute type.",
        choices=tuple(KV_CACHE_ALGOS),
        group="quantization",
    )
    group_size: int | None = group_size_option("--awq_block_size")
    quantize_lm_head: bool = quantize_lm_head_option()
    dtype: str = dtype_option()
    backend: str = option(
        default="auto",
        help="What would run the engine; auto is torch on a GPU or for several ranks, else onnxruntime.",
        choices=BACKENDS,
        group="machine",
    )
    batch_size: tuple[int, ...] = option(
        default=(1,),
        help="Batch sizes, separated by semicolons; the first is the one that counts for --target.",
        parse=_sizes,
        render=lambda value: ";".join(str(size) for size in value),
        nonempty=True,
        minimum=1,
        unit="sequences",
        metavar='"1;8;64"',
        group="workload",
    )
    input_len: int = option(
        default=512, help="Prompt length.", minimum=1, unit="tokens", flags=("--max_input_len",), group="workload"
    )
    output_len: int = option(
        default=128, help="New tokens.", minimum=1, unit="tokens", flags=("--max_output_len",), group="workload"
    )
    max_batch_size: int | None = option(
        default=None,
        help="Sequences that the cache has room for; none means the largest batch.",
        minimum=1,
        unit="sequences",
        group="workload",
    )
    max_seq_len: int | None = option(
        default=None,
        help="Tokens of a sequence that the cache has room for; none means input and output together.",
        minimum=1,
        unit="tokens",
        group="workload",
    )
    target: dict[str, Any] = option(
        factory=dict,
        help="What is to be reached: itl_ms, ttft_ms, latency_ms, memory_gib and gpus at most, tokens_per_sec at least."
        " Quantizations and numbers of GPUs are weighed, and the cheapest that meets it comes first.",
        parse=_target,
        render=lambda value: " ".join(f"{name}={limit!r}" for name, limit in value.items()),
        nargs="+",
        metavar="'itl_ms=5 ttft_ms=200'",
        group="target",
    )
    output: str | None = option(
        default=None, help="File for the plan: .html (with figures), .json or .txt.", metavar="FILE", group="output"
    )
    name: str | None = name_option()


class ReportSpec(Spec):
    """Write one file about a whole path: choices, versions, shards, build, comparison, figures, commands."""

    output: str = option(
        default="report.html",
        help="The file: .html (everything in it, opens offline) or .md.",
        flags=("-o", "--output_file"),
        metavar="FILE",
        positional=0,
        group="output",
    )
    ids: tuple[str, ...] = option(
        default=(), help="Results to report; none means the path that the latest result belongs to.", nargs="+",
        metavar="ID", group="path",
    )  # fmt: skip
    model: str | None = option(
        default=None, help="Only results of this model; * and ? stand for anything.", metavar="NAME", group="path"
    )
    engine_dir: str | None = option(
        default=None, help="The path that led to this engine, and what was done with it.", flags=("--engine",),
        metavar="DIR", group="path",
    )  # fmt: skip
    result_name: str | None = option(
        default=None, help="Only results kept under this name.", flag="--name", metavar="NAME", group="path"
    )
    tag: str | None = option(default=None, help="Only results that carry this tag.", metavar="TAG", group="path")
    since: str | None = option(
        default=None,
        help="Only results since then: a date, or how long back (90m, 36h, 7d).",
        metavar="WHEN",
        group="path",
    )
    title: str | None = option(
        default=None, help="Title; none means one made of the model's name.", metavar="TEXT", group="output"
    )
    database: str | None = option(
        default=None, help="Database file; none means the one in this project's cache.", metavar="FILE", group="path"
    )
