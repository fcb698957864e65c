"""Which engines take the paged form with fused steps, how they are resolved, built and warmed up."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from ...network.signature import PagedForm
from ...specs import BuildConfig, ModelConfig
from ..protocol import BuildReporter
from ..resolve import resolve_without_plugins
from ..trial import paged_trial_run
from .gpu.kernel_store import KernelStore, forget_compiled, kernels_file_name
from .gpu.session import FusedSession
from .gpu.tuning import TOKEN_COUNTS, read_cache, tune, write_cache
from .paged_executor import PagedTorchExecutor
from .staged_session import StagedSession

ATTENTION_OPTIONS = (
    "gpt_attention_plugin", "context_fmha", "context_fmha_fp32_acc", "multi_block_mode", "remove_input_padding",
    "paged_kv_cache", "use_inflight_batching", "gemm_plugin", "weight_only_quant_matmul_plugin",
    "weight_only_groupwise_quant_matmul_plugin", "use_custom_all_reduce",
)  # fmt: skip
"""Options of `PluginConfig` that engines of this form honour."""
TIMING_CACHE_NAME = "model.cache"
_HONOURED = ("max_num_tokens", "timing_cache")

_LEVELS = {
    0: "kernels by rule, nothing timed, nothing compiled ahead",
    1: "a few kernels timed for one sequence",
    2: "kernels timed for one sequence",
    3: "kernels timed for one sequence and for the largest batch",
    4: "more kernels timed, for every batch bucket",
    5: "every kernel timed, for every batch bucket",
}


def form_of(model: ModelConfig, build: BuildConfig) -> PagedForm | None:
    """Return how the cache of a (resolved) engine is paged; None for engines of the padded form.

    A contiguous cache is one block a sequence.
    """
    plugins = build.plugin_config
    if not plugins.enabled("gpt_attention_plugin"):
        return None
    algo = model.quantization.kv_cache_quant_algo
    dtype = None if algo is None else {"INT8": "int8", "FP8": "float8_e4m3fn"}[algo.value]
    longest = build.resolved_max_seq_len(model)
    size = plugins.tokens_per_block if plugins.paged_kv_cache else longest
    return PagedForm(min(size, 1 << max(0, longest - 1).bit_length()), dtype)


def wants_fused(model: ModelConfig, build: BuildConfig, device: torch.device) -> bool:
    """Whether an engine takes the paged form: on a GPU unless it is turned off, on a CPU where it is asked for.

    A quantized cache asks for it: only the attention plugin reads one.
    """
    plugins = build.plugin_config
    if not plugins.enabled("gpt_attention_plugin"):
        return False
    quantized_cache = model.quantization.kv_cache_quant_algo is not None
    if model.mapping.pp_size > 1:  # stages run modules: the paged form is for a running batch, or a quantized cache
        return plugins.use_inflight_batching or quantized_cache
    asked = plugins.given("gpt_attention_plugin") or plugins.use_inflight_batching
    return device.type == "cuda" or asked or quantized_cache


def resolve_fused(
    model: ModelConfig, build: BuildConfig, *, dtypes: tuple[str, ...], reason: str, device: torch.device
) -> tuple[BuildConfig, list[str]]:
    """Settle the configuration of an engine of the paged form, with a sentence for each choice."""
    quantization = model.quantization
    plain = model.replace(quantization=quantization.replace(kv_cache_quant_algo=None))
    config, notes = resolve_without_plugins(
        plain, build, "torch", compute_dtypes=dtypes, reason=reason, plugins=ATTENTION_OPTIONS
    )
    config = config.replace(**{name: getattr(build, name) for name in _HONOURED})
    notes = [note for note in notes if not note.startswith(tuple(f"{name} has no effect" for name in _HONOURED))]
    if device.type == "cuda":
        notes.append(f"opt_level {build.opt_level}: {_LEVELS[build.opt_level]}.")
        if not build.plugin_config.given("gemm_plugin"):
            config = config.replace(plugin_config=config.plugin_config.replace(gemm_plugin="auto"))
        if config.plugin_config.enabled("gemm_plugin"):
            notes.append("gemm_plugin: each product takes the quicker of this project's kernel and the library's.")
        else:
            notes.append("gemm_plugin disable: dense and FP8 products are the library's at every size.")
        if config.plugin_config.context_fmha_fp32_acc:
            notes.append("context_fmha_fp32_acc: the attention of prompts sums in float32 always; nothing is slower.")
        if not config.plugin_config.context_fmha:
            notes.append("context_fmha: prompts attend in flash form all the same; the other one needs more memory.")
            config = config.replace(plugin_config=config.plugin_config.replace(context_fmha=True))
    else:
        notes.append("Packed input and a paged cache on a CPU run the plugins' plain definitions: right, not fast.")
    if not config.plugin_config.remove_input_padding:
        notes.append("remove_input_padding: the tokens of prompts are packed all the same; nothing is slower here.")
        config = config.replace(plugin_config=config.plugin_config.replace(remove_input_padding=True))
    if quantization.kv_cache_quant_algo is not None:
        notes.append(f"The K/V cache holds {quantization.kv_cache_quant_algo.value}, with the checkpoint's scales.")
    return config, notes


def finish_build(
    executor: PagedTorchExecutor, rank: int, build: BuildConfig, output_dir: Path, report: BuildReporter
) -> None:
    """Try the engine; on a GPU also time kernels, compile those it uses and put them beside the engine.

    Raises
    ------
    BuildError
        When its logits are not finite.
    """
    if executor.config.mapping.pp_size > 1:
        with report.phase("verify engine"):
            paged_trial_run(executor, build.resolved_max_seq_len(executor.config))
        return
    session_rows = [1]
    report.log("info", executor.cache_plan().sentence)
    if executor.device.type == "cuda" and build.opt_level > 0:
        counts = _token_counts(build)
        cache_path = output_dir / TIMING_CACHE_NAME
        table = read_cache(cache_path)
        executor.use_choices(table)
        with report.phase("time kernels"):
            began = time.monotonic()
            taken = tune(
                executor.steps().model,
                counts,
                build.opt_level,
                table,
                gemm=build.plugin_config.enabled("gemm_plugin"),
                check=report.check_cancelled,
                log=lambda line: report.log("info", line),
            )
            report.log(
                "info",
                f"{taken} timings in {time.monotonic() - began:.1f} s; {len(table.choices)} products have a choice.",
            )
            write_cache(cache_path, table)
        executor.use_choices(table)
        with report.phase("compile kernels"), tempfile.TemporaryDirectory(prefix="trtbench-kernels-") as folder:
            store = KernelStore(Path(folder))
            forget_compiled()
            executor.use_store(store)
            session_rows = [1] if build.opt_level < 3 else sorted({1, build.max_batch_size})
            _try_out(executor, session_rows)
            _try_pieces(executor.fused_session(), report)
            executor.drop_session()
            store.keep_driver()
            count = store.pack(output_dir / kernels_file_name(rank))
            executor.use_store(KernelStore())
            report.log("info", f"{count} compiled kernels are kept with the engine.")
    else:
        with report.phase("verify engine"):
            _try_out(executor, session_rows)


def _token_counts(build: BuildConfig) -> list[int]:
    largest = build.max_batch_size * build.max_beam_width
    fitting = [count for count in TOKEN_COUNTS if count <= largest]
    above = [count for count in TOKEN_COUNTS if count > largest][:1]
    every = fitting if largest in fitting else [*fitting, *above]
    if build.opt_level >= 4:
        return every
    return [1] if build.opt_level < 3 else sorted({1, every[-1]})


def _try_out(executor: PagedTorchExecutor, rows: list[int]) -> None:
    """Run a short prompt and decode steps as a session does, so that every kernel of them is compiled and right."""
    from ...errors import BuildError

    session = executor.fused_session()
    longest = session.max_tokens
    length = max(1, min(3, longest - 2))
    for count in rows:
        logits = session.start([[0] * length] * count, max(0, min(2, longest - length)))
        if not bool(torch.isfinite(logits).all()):
            raise BuildError(
                "The engine gives logits that are not finite.",
                where="torch",
                remedy="The weights overflow what is computed in: build with compute_dtype float32 or bfloat16.",
            )
        session.greedy().tokens()
        if longest > length:
            session.greedy().tokens()
            session.take(session.forward().argmax(dim=1)).tokens()
    executor.drop_session()


def _try_pieces(session: FusedSession | StagedSession, report: BuildReporter) -> None:
    """Run prompts in two pieces of every count of tokens that has kernels of its own: the second reads the cache."""
    whole = session.chunk_tokens
    try:
        for count in TOKEN_COUNTS:
            if 2 * count >= session.max_tokens:
                break
            session.chunk_tokens = count
            session.start([[0] * (2 * count)], 1)
    except Exception as error:  # a GPU too small for a tile, say: prompts that need none of it run all the same
        report.log(
            "warning", f"Prompts in pieces of {count} tokens could not be tried: {type(error).__name__}: {error}"
        )
    finally:
        session.chunk_tokens = whole
