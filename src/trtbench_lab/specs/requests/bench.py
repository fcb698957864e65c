"""Requests about numbers: measure an engine, look through past results, look over this machine."""

from __future__ import annotations

from ..bench import BenchConfig
from ..build import BACKENDS
from ..inflight import InflightConfig
from ..options import option
from ..spec import Spec
from .shared import (
    engine_dir_option,
    gpu_weights_option,
    hf_dtype_option,
    hf_model_dir_option,
    name_option,
    tokenizer_dir_option,
    trust_remote_code_option,
)

RESULT_KINDS = (
    *("download", "convert", "quantize", "build", "run", "compare", "summarize"),
    *("bench", "serving", "perplexity", "explore", "explore_pair", "plan"),
)


class BenchSpec(Spec):
    """Measure latency, throughput and memory of an engine, and of Hugging Face by the same clock."""

    engine_dir: str = engine_dir_option()
    gpu_weights_percent: float | None = gpu_weights_option()
    bench: BenchConfig = option(factory=BenchConfig, help="What is measured.", group="benchmark")
    inflight: InflightConfig = option(
        factory=InflightConfig, help="Cache and steps of the running batch, for --mode serving.", group="batching"
    )
    tokenizer_dir: str | None = tokenizer_dir_option()
    test_hf: bool = option(
        default=False, help="Measure Hugging Face too, in turn with the engine.", group="hugging face"
    )
    hf_model_dir: str | None = hf_model_dir_option()
    hf_dtype: str = hf_dtype_option()
    csv: bool = option(default=False, help="Print the configurations as CSV.", group="output")
    output_csv: str | None = option(
        default=None, help="File for the table of configurations.", metavar="FILE", group="output"
    )
    trust_remote_code: bool = trust_remote_code_option()
    name: str | None = name_option()


class HistorySpec(Spec):
    """List, show, compare and export the results kept so far."""

    ids: tuple[str, ...] = option(
        default=(),
        help="Results to show; none means the latest of all.",
        positional=0,
        nargs="+",
        metavar="ID",
        group="history",
    )
    kind: str | None = option(default=None, help="Only results of this verb.", choices=RESULT_KINDS, group="history")
    backend: str | None = option(
        default=None, help="Only results of this backend.", choices=(*BACKENDS[1:], "huggingface"), group="history"
    )
    result_name: str | None = option(
        default=None, help="Only results kept under this name.", flag="--name", group="history"
    )
    last: int = option(default=20, help="Most results shown.", minimum=1, flags=("-n", "--limit"), group="history")
    compare: bool = option(default=False, help="Show the results named side by side, with ratios.", group="history")
    export: str | None = option(
        default=None, help="File to export to; .csv or .parquet.", metavar="FILE", flags=("--to",), group="output"
    )
    database: str | None = option(
        default=None, help="Database file; none means the one in this project's cache.", metavar="FILE", group="history"
    )


class DoctorSpec(Spec):
    """Look over this machine: packages, GPU, backends, and what each of them can do here."""

    backend: str | None = option(
        default=None, help="Only this backend; none means all.", choices=BACKENDS[1:], positional=0, group="doctor"
    )
    engine_dir: str | None = option(
        default=None,
        help="An engine folder: say first whether it can be loaded here, without loading it.",
        flags=("--engine",),
        metavar="DIR",
        since="0.2",
        group="doctor",
    )
    mpi: bool = option(
        default=False,
        help="Look at what several ranks need, and start two of them: launcher, library, slots, root, shared memory, "
        "interfaces, NCCL, GPU peer access, Slurm.",
        since="0.2",
        group="doctor",
    )
    conformance: bool = option(
        default=False,
        help="Try TensorRT feature by feature on this GPU against a float32 reference, and keep the verdicts.",
        since="0.2",
        group="conformance",
        effect="Builds some sixty tiny engines; later builds refuse what failed.",
    )
    conformance_features: tuple[str, ...] | None = option(
        default=None,
        help="Try only these features or groups, for example native_attention/float16; none means all.",
        nargs="+",
        metavar="NAME",
        since="0.2",
        group="conformance",
    )
    bundle_dir: str | None = option(
        default=None,
        help="Folder for the zip file to attach to a bug report; none means the current one.",
        metavar="DIR",
        since="0.2",
        group="conformance",
    )
