"""What each backend honours of the plugins and quantizations, as the backends themselves say when they are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trtbench_lab.errors import TrtbenchError
from trtbench_lab.specs import BuildConfig, ModelConfig, PluginConfig
from trtbench_lab.specs import Mapping as RankMapping
from trtbench_lab.specs.requests import QuantizeSpec
from trtbench_lab.specs.requests.formats import KV_CACHE_ALGOS, QFORMAT_ALGOS

_OF_RANKS = ("nccl_plugin", "use_custom_all_reduce")  # asked about with two ranks: with one they do nothing anywhere


def every_backend(ask: Callable[[str, ModelConfig], dict[str, str]], model: ModelConfig | None) -> dict[str, Any]:
    """Return backend → what `ask` says of it; without a model the demo model is asked about."""
    from trtbench_lab.backends.registry import BACKENDS

    asked = model or _demo_config()
    return {name: ask(name, asked) for name in BACKENDS}


def plugin_support(name: str, model: ModelConfig) -> dict[str, str]:
    """Return field of `PluginConfig` → reason why a backend does not honour it, empty where it does."""
    from trtbench_lab.backends.registry import backend

    builder, told = backend(name), {}
    for info in PluginConfig.options():
        on: Any = True if info.default in (True, False) else "auto"
        # A size is no feature, and what "auto" comes to follows from the weights, not from the backend alone.
        if info.name == "tokens_per_block" or info.meta.group == "quantization":
            continue
        of_ranks = info.name in _OF_RANKS
        over = model.replace(mapping=RankMapping(tp_size=2)) if of_ranks else model
        paged = {"gpt_attention_plugin": "float16"} if info.meta.group in ("attention", "cache") else {}
        chosen: dict[str, Any] = {**paged, info.name: "float16" if info.name == "gpt_attention_plugin" else on}
        try:
            done = builder.resolve(over, BuildConfig(plugin_config=PluginConfig(**chosen)))
        except TrtbenchError as error:
            told[info.name] = (
                f"Of use with several ranks only; asked about two: {error.what}" if of_ranks else error.what
            )
            continue
        honoured = getattr(done.build_config.plugin_config, info.name) not in (False, "disable")
        reason = next((note for note in done.notes if info.name in note), f"{name} leaves it off on this machine.")
        told[info.name] = "" if honoured else reason
    return told


def quantization_support(name: str, model: ModelConfig, source: str) -> dict[str, str]:
    """Return format, and type of the cache, → reason why a backend does not build it, empty where it does."""
    from trtbench_lab.backends.registry import backend

    builder, told = backend(name), {}
    for word in QFORMAT_ALGOS:
        quant = QuantizeSpec(source=source, qformat=word).quant_config
        told[word] = _refusal(builder, model.replace(quantization=quant))
    for word in KV_CACHE_ALGOS:
        quant = QuantizeSpec(source=source, qformat="full_prec", kv_cache_dtype=word).quant_config
        told[f"kv_cache_dtype={word}"] = _refusal(builder, model.replace(quantization=quant))
    return told


def _refusal(builder: Any, model: ModelConfig) -> str:
    """Return why a backend cannot build a model; empty where it can."""
    try:
        builder.resolve(model, BuildConfig())
    except TrtbenchError as error:
        return str(error.what)
    return ""


def _demo_config() -> ModelConfig:
    """Return the configuration of the demo model, for questions that need some model."""
    from trtbench_lab.benchmark.planner.sources import config_from_files
    from trtbench_lab.demo import demo_model_dir

    return config_from_files(demo_model_dir("gpt2"))[0]
