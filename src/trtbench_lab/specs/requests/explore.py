"""Requests that look into things: an engine's layers, and a network by the rules of TensorRT's parser."""

from __future__ import annotations

from ..options import option
from ..spec import Spec
from .shared import name_option

PHASES = ("decode", "prompt")


class ExploreSpec(Spec):
    """Look into an engine: layers, precision, tactics, memory, time by module; what is slow; engine against engine."""

    engine_dir: str = option(
        help="Folder of an engine of any backend; or a file: TensorRT's inspector JSON, an ONNX Runtime profile, "
        "a torch "
        "profiler trace, an ONNX network.",
        flags=("--engine",),
        metavar="PATH",
        positional=0,
        group="engine",
    )
    against: str | None = option(
        default=None,
        help="A second engine or file; its layers are aligned with the first one's.",
        metavar="PATH",
        positional=1,
        group="engine",
    )
    profile: bool = option(
        default=False,
        help="Run the engine under its backend's profiler and show the time of each layer.",
        group="run",
        effect="Without it nothing is run: sizes and precision are shown as built.",
    )
    tensors: bool = option(
        default=False,
        help="Run the step once and show what attention, feed-forward blocks, layers and the last norm give; with a "
        "second engine, where the two part.",
        flags=("--debug_tensors",),
        group="run",
        effect="Engines of the tensorrt backend must be built with enable_debug_output.",
    )
    phase: str = option(
        default="decode",
        help="What is run or counted: one new token a row after input_length others, or a prompt of that length.",
        choices=PHASES,
        group="run",
    )
    batch_size: int = option(default=1, help="Rows of the step.", minimum=1, group="run")
    input_length: int = option(
        default=64,
        help="Tokens a row has in the cache (decode) or brings (prompt).",
        minimum=1,
        unit="tokens",
        group="run",
    )
    num_runs: int = option(default=20, help="Recorded runs.", minimum=1, maximum=10000, group="run")
    warm_up: int = option(default=3, help="Runs before the recorded ones.", minimum=0, group="run")
    rank: int = option(default=0, help="Rank of the engine that is looked into.", minimum=0, group="engine")
    times: str | None = option(
        default=None,
        help="For an inspector JSON: layer times of the same engine, as trtexec --exportProfile writes them.",
        metavar="FILE",
        group="engine",
    )
    ceilings: tuple[float, ...] = option(
        default=(),
        help="What the machine of a saved file reaches, as GB/s read and TFLOP/s, for the roofline; with "
        "--profile they are "
        "measured.",
        nargs=2,
        metavar="GB/S TFLOP/S",
        group="run",
    )
    output: str | None = option(
        default=None,
        help="File for the whole: .html (tables and figures), .json, or .txt.",
        metavar="FILE",
        flags=("-o",),
        group="output",
    )
    trace: str | None = option(
        default=None, help="File to keep the profiler's own record in.", metavar="FILE", group="output"
    )
    name: str | None = name_option()


class LintSpec(Spec):
    """Check an ONNX network by every rule of TensorRT's parser, without TensorRT; exit code 1 for findings."""

    model: str = option(
        help="ONNX file; its external data is measured, not read.",
        flags=("--onnx",),
        metavar="FILE",
        positional=0,
        group="network",
    )
    fixed_capacity: bool = option(
        default=True,
        help="Demand a constant cache length, as TensorRT's own cache update does.",
        group="network",
        effect="Networks that were written for the other backends leave it open; switch this off to look at the rest.",
    )
    output: str | None = option(
        default=None, help="File for the report: .json, .html or .txt.", metavar="FILE", flags=("-o",), group="output"
    )
