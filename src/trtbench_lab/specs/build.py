"""How an engine is built: its limits, its backend, and what the build writes besides."""

from __future__ import annotations

import re
from typing import Any

from .coerce import Unfit
from .model import DTYPE_SYNONYMS, DTYPES, ModelConfig
from .options import option
from .plugin import PluginConfig
from .spec import Spec

BACKENDS = ("auto", "tensorrt", "torch", "onnxruntime")
LOG_LEVELS = ("internal_error", "error", "warning", "info", "verbose")


def _sizes(text: str) -> list[int]:
    words = [word for word in text.replace(";", ",").split(",") if word.strip()]
    try:
        return [int(word) for word in words]
    except ValueError:
        raise Unfit(f"must be numbers such as '1,8,64', not {text!r}") from None


def _buckets(help: str, *, unit: str, effect: str) -> Any:
    return option(
        default=None,
        help=help,
        parse=_sizes,
        render=lambda value: ",".join(map(str, value)),
        nonempty=False,
        minimum=1,
        unit=unit,
        metavar='"1,8,64"',
        group="buckets",
        effect=effect,
    )


_MEMORY_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(GiB|MiB|GB|MB|B)?")


def memory_budget(text: str) -> str:
    """Return a share of memory (``"0.9"``) or an amount (``"20GiB"``) in one spelling, or raise `Unfit`."""
    found = _MEMORY_BUDGET.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0 or (found[2] is None and float(found[1]) > 1):
        raise Unfit(
            f"cannot be {text!r}", "Give a share above 0 and up to 1, such as 0.9, or an amount such as 20GiB."
        )
    return f"{found[1]}{found[2] or ''}"


class BuildConfig(Spec):
    """Limits and options of one build; the ``build_config`` table of an engine folder."""

    max_batch_size: int = option(
        default=8, help="Most sequences at a time.", minimum=1, unit="sequences", group="limits"
    )
    max_input_len: int = option(
        default=1024, help="Longest prompt.", minimum=1, unit="tokens", flags=("--max_input_length",), group="limits"
    )
    max_seq_len: int | None = option(
        default=None,
        help="Longest prompt and output together; none means max_input_len + max_output_len, or the model's own limit.",
        minimum=1,
        unit="tokens",
        flags=("--max_decoder_seq_len", "--max_sequence_len", "--max_seq_length"),
        group="limits",
        effect="Bounds the K/V cache.",
    )
    max_output_len: int | None = option(
        default=None, help="Most new tokens; none leaves it to max_seq_len.", minimum=1, unit="tokens", group="limits"
    )
    max_beam_width: int = option(default=1, help="Most beams.", minimum=1, group="limits")
    max_num_tokens: int | None = option(
        default=None,
        help="Most tokens in one step over all sequences, for packed input; none means no bound of its own.",
        minimum=1,
        unit="tokens",
        group="limits",
        effect="Bounds the memory of the prompt phase.",
    )
    kv_cache_memory: str = option(
        default="0.9",
        help="Most memory of the paged K/V cache: a share of what is free on the GPU, or an amount such as 20GiB.",
        parse=memory_budget,
        flags=("--kv_cache_free_gpu_memory_fraction", "--kv_cache_free_gpu_mem_fraction"),
        metavar="SHARE|SIZE",
        group="limits",
        effect="Never more is taken than max_batch_size sequences of max_seq_len need.",
    )
    max_prompt_embedding_table_size: int = option(
        default=0,
        help="Rows of the prompt-tuning table; 0 means none.",
        minimum=0,
        flags=("--max_multimodal_len",),
        group="limits",
    )
    plugin_config: PluginConfig = option(factory=PluginConfig, help="Plugins and attention features.", group="plugins")
    backend: str = option(
        default="auto",
        help="What runs the engine; auto takes tensorrt, torch or onnxruntime, whichever this machine serves best.",
        choices=BACKENDS,
        synonyms={"trt": "tensorrt", "ort": "onnxruntime", "onnx": "onnxruntime", "pytorch": "torch"},
        group="build",
    )
    compute_dtype: str = option(
        default="auto",
        help="Data type of the computation; auto is the checkpoint's, or float32 where the machine lacks it.",
        choices=("auto", *DTYPES),
        synonyms=DTYPE_SYNONYMS,
        flags=("--dtype",),
        group="build",
    )
    opt_level: int = option(
        default=3,
        help="Optimization level of the builder.",
        minimum=0,
        maximum=5,
        flags=("--builder_opt", "--builder_optimization_level", "--optimization_level"),
        group="build",
        effect="Higher levels search longer for quicker kernels.",
    )
    strongly_typed: bool = option(default=True, help="Keep the network's data types exactly.", group="build")
    parallel_build: bool = option(
        default=False,
        help="Build the ranks side by side, one GPU each; one after the other where there are fewer GPUs.",
        group="build",
    )
    workers: int = option(default=1, help="Ranks built at the same time.", minimum=1, group="build")
    visualize: bool = option(
        default=False,
        help="Keep the network as an ONNX file beside the engine.",
        group="build",
    )
    enable_debug_output: bool = option(
        default=False,
        help="Give intermediate tensors by name, for explore --tensors (tensorrt; the others always can).",
        group="build",
        effect="Larger and slower engine.",
    )
    profiling_verbosity: str = option(
        default="layer_names_only",
        help="What the engine tells of its layers.",
        choices=("layer_names_only", "detailed", "none"),
        group="build",
    )
    weight_streaming: bool = option(
        default=False, help="Let weights stay in host memory and stream in (tensorrt).", group="build"
    )
    strip_plan: bool = option(
        default=False,
        help="Write the engine without its weights, to be refitted (tensorrt).",
        flags=("--stripped",),
        group="build",
    )
    refit: bool = option(
        default=False,
        help="Let the engine's weights be replaced later by another checkpoint's, with --refit_from (tensorrt).",
        group="build",
        effect="Kernels that fit the weights' values are given up.",
    )
    timing_cache: str | None = option(
        default=None,
        help="File of kernel timings to start from; none means model.cache of the engine folder.",
        flags=("--input_timing_cache",),
        metavar="FILE",
        group="build",
    )
    gather_context_logits: bool = option(
        default=False,
        help="Let the engine give logits of every prompt token, not of one a row (tensorrt; the others always can).",
        flags=("--gather_all_token_logits",),
        group="limits",
        effect="Needed to score texts; activation memory grows by prompt tokens × vocabulary.",
    )
    phase_engines: str = option(
        default="one",
        help="Prompt and decode phase in one engine with a profile each, or in two engines (tensorrt).",
        choices=("one", "two"),
        synonyms={"1": "one", "dual_profile": "one", "shared": "one", "2": "two", "split": "two", "separate": "two"},
        group="buckets",
        effect="One holds the weights once; two hold them twice, and let each phase lay out its weights as it likes.",
    )
    batch_buckets: tuple[int, ...] | None = _buckets(
        "Largest batch of each set of decode kernels, apart from the limit; none means one row alone and the limit "
        "(tensorrt).",
        unit="sequences",
        effect="Each bucket is a profile: quicker small batches, a longer build, a larger plan.",
    )
    length_buckets: tuple[int, ...] | None = _buckets(
        "Longest prompt of each set of prompt kernels, apart from the limit; none means 128 and the limit (tensorrt).",
        unit="tokens",
        effect="Each bucket is a profile: quicker short prompts, a longer build, a larger plan.",
    )
    capacity_buckets: tuple[int, ...] | None = _buckets(
        "Cache lengths to build for beside max_seq_len; TensorRT's own attention reads the whole length at each step "
        "(tensorrt).",
        unit="tokens",
        effect="Each is a plan with weights of its own: short sequences decode quicker; memory and build time grow.",
    )
    aux_streams: int | None = option(
        default=None,
        help="Further CUDA streams an engine may run layers on; none leaves it to TensorRT, 0 is one stream.",
        minimum=0,
        maximum=32,
        flags=("--max_aux_streams",),
        group="builder",
        effect="More overlap and more activation memory.",
    )
    tiling: str = option(
        default="none",
        help="How long TensorRT searches for tilings across layers that keep data in the L2 cache.",
        choices=("none", "fast", "moderate", "full"),
        flags=("--tiling_optimization_level",),
        group="builder",
        effect="Longer builds.",
    )
    workspace_limit_mib: int | None = option(
        default=None,
        help="Most scratch memory of a layer; none means all of the GPU's.",
        minimum=1,
        unit="MiB",
        flags=("--workspace",),
        group="builder",
        effect="A low limit takes kernels away, and a build may then fail.",
    )
    hardware_compatibility: str = option(
        default="none",
        help="Which other GPUs the engine shall run on: none, Ampere and later, or those of one compute capability.",
        choices=("none", "ampere_plus", "same_compute_capability"),
        flags=("--hardware_compatibility_level",),
        group="builder",
        effect="Slower kernels; the project's own plugins are compiled for one architecture and are off with it.",
    )
    log_level: str = option(
        default="info",
        help="How much the build says.",
        choices=LOG_LEVELS,
        synonyms={"warn": "warning", "debug": "verbose", "trace": "verbose", "fatal": "internal_error"},
        group="build",
    )
    timeout_s: float | None = option(
        default=None,
        help="Seconds after which the build is stopped; none means no limit.",
        minimum=0,
        unit="s",
        flag="--timeout",
        group="build",
    )
    use_cache: bool = option(
        default=True,
        help="Take an engine that was built from the same inputs instead of building again.",
        flags=("--cache",),
        constants={"--no_cache": False},
        group="build",
    )
    legacy_names: bool = option(
        default=False,
        help="Name engine files {model}_{dtype}_tp{T}_rank{R}.engine as well, as older tools did.",
        group="build",
    )

    def resolved_max_seq_len(self, model_config: ModelConfig) -> int:
        """Return the sequence length that the engine is built for, in tokens.

        Learned positions end where their table ends, so such a model never gets more than its own limit.
        """
        limit = model_config.max_position_embeddings
        if self.max_seq_len is not None:
            wanted = self.max_seq_len
        elif self.max_output_len is not None:
            wanted = min(self.max_input_len, limit) + self.max_output_len
        else:
            wanted = limit
        learned = model_config.position_embedding_type == "learned_absolute"
        return min(wanted, limit) if learned else wanted

    def resolved(self, model_config: ModelConfig) -> tuple[BuildConfig, list[str]]:
        """Return this configuration with what was left open settled for one model, and a sentence for each change.

        Features that nobody asked for give way to those that somebody did (`settle`), `max_seq_len` is filled in, and a
        `max_input_len` beyond it (the default is 1024, a demo model may take 512) is clipped so that at least one new
        token fits. Contradictions stay, for `find_conflicts` to name.
        """
        from .conflicts import settle

        settled = settle(self, model_config)
        return settled.specs[0]._with_lengths(model_config, settled.notes)

    def _with_lengths(self, model_config: ModelConfig, notes: list[str]) -> tuple[BuildConfig, list[str]]:
        max_seq_len = self.resolved_max_seq_len(model_config)
        max_input_len = min(self.max_input_len, max(1, max_seq_len - 1))
        if self.max_seq_len is not None and max_seq_len != self.max_seq_len:
            notes.append(
                f"max_seq_len {self.max_seq_len} was clipped to {max_seq_len}, the last position the model has learned."
            )
        if max_input_len != self.max_input_len:
            notes.append(
                f"max_input_len {self.max_input_len} was clipped to {max_input_len}: sequences of this engine have at "
                f"most {max_seq_len} tokens, prompt and output together."
            )
        return self.replace(max_seq_len=max_seq_len, max_input_len=max_input_len), notes
