"""The steps of the path, as data: what each asks, of what it is made, and the request that its choices come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtbench_lab.specs import BenchConfig, BuildConfig, PluginConfig, SamplingConfig, Spec
from trtbench_lab.specs.options import OptionInfo
from trtbench_lab.specs.presets import PLUGIN_PRESETS, QUANT_PRESETS, Preset
from trtbench_lab.specs.requests import (
    BenchSpec,
    BuildSpec,
    CompareSpec,
    ConvertSpec,
    PlanSpec,
    QuantizeSpec,
    RunSpec,
)
from trtbench_lab.storage import digest_of_json

from .choices import described, plain

Settings = Mapping[str, Mapping[str, Any]]
AS_IT_IS = "full_prec"


@dataclass(frozen=True)
class Step:
    """One step of the path.

    Attributes
    ----------
    name, title, what
        For code, for people, and what it does in one sentence.
    spec
        The spec its fields come from, and the fields that are asked.
    own
        Fields that no spec has in this form, as `described` gives them.
    folded
        Fields that few people ever change: the page shows them when it is asked to.
    presets
        Named sets of choices to begin from.
    defaults
        Values to begin with, where they are not the spec's.
    after
        Steps whose outcome this one is made of.
    request
        The verb and request that the settings come to; None where the step only chooses.
    """

    name: str
    title: str
    what: str
    spec: tuple[tuple[type[Spec], tuple[str, ...]], ...] = ()
    own: tuple[dict[str, Any], ...] = ()
    folded: tuple[str, ...] = ()
    presets: tuple[Preset, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    request: Callable[[Settings, Path], tuple[str, Spec] | None] = lambda settings, folder: None

    def fields(self) -> list[dict[str, Any]]:
        """Return the step's fields as a page takes them, defaults filled in."""
        infos = [info for spec, names in self.spec for info in _infos(spec, names)]
        found = [*self.own, *(described(info) for info in infos)]
        return [
            {**one, "default": self.defaults.get(one["name"], one["default"]), "folded": one["name"] in self.folded}
            for one in found
        ]

    def initial(self) -> dict[str, Any]:
        """Return field → value to begin with."""
        return {one["name"]: one["default"] for one in self.fields()}

    def preset_values(self, preset: Preset) -> dict[str, Any]:
        """Return field → value of a preset, the step's own beginnings for all that it does not name."""
        initial = self.initial()
        return {**initial, **{name: plain(value) for name, value in preset.changes.items() if name in initial}}

    def preset_of(self, values: Mapping[str, Any]) -> str:
        """Return the name of the preset that the values are; empty where they are nobody's."""
        return next((one.name for one in reversed(self.presets) if self.preset_values(one) == dict(values)), "")


def _infos(spec: type[Spec], names: tuple[str, ...]) -> list[OptionInfo]:
    by_name = {info.name: info for info in spec.options()}
    return [by_name[name] for name in names]


def _text(name: str, help: str, default: str) -> dict[str, Any]:
    return {
        "name": name, "flag": f"--{name}", "group": "input", "control": "text", "choices": [], "default": default,
        "default_words": default, "help": help, "effect": "", "unit": "", "minimum": None, "maximum": None,
        "whole": False, "since": "0.1",
    }  # fmt: skip


def _source(settings: Settings) -> str:
    return str(settings["model"]["source"])


def _plan(settings: Settings, folder: Path) -> tuple[str, Spec]:
    return "plan", PlanSpec(model=_source(settings))


def _convert(settings: Settings, folder: Path) -> tuple[str, Spec]:
    values = settings["convert"]
    return "convert", ConvertSpec(
        source=_source(settings), output_dir=str(folder / "checkpoint"), dtype=values["dtype"], overwrite=True
    )


def _quantize(settings: Settings, folder: Path) -> tuple[str, Spec] | None:
    if not quantizes(settings):
        return None
    values = {name: value for name, value in settings["quantization"].items() if value is not None}
    output, dtype = str(folder / "quantized"), settings["convert"]["dtype"]
    return "quantize", QuantizeSpec(source=_source(settings), output_dir=output, dtype=dtype, overwrite=True, **values)


def quantizes(settings: Settings) -> bool:
    """Return whether a quantized checkpoint is written: for smaller weights, or a smaller cache."""
    chosen = settings["quantization"]
    return chosen["qformat"] != AS_IT_IS or chosen["kv_cache_dtype"] is not None


def plugin_config(settings: Settings) -> PluginConfig:
    """Return the plugins chosen: a preset's, and over it what was chosen one by one."""
    return PluginConfig(**settings["plugins"])


def _build(settings: Settings, folder: Path) -> tuple[str, Spec]:
    values = {name: value for name, value in settings["build"].items() if value is not None}
    plugins = {name: v for name, v in settings["plugins"].items() if v != getattr(PluginConfig(), name)}
    chosen: dict[str, Any] = {**values, **({"plugin_config": PluginConfig(**plugins)} if plugins else {})}
    config = BuildConfig(**chosen)
    checkpoint = folder / ("quantized" if quantizes(settings) else "checkpoint")
    return "build", BuildSpec(
        checkpoint_dir=str(checkpoint), output_dir=str(folder / "engine"), build_config=config, overwrite=True
    )


def _run(settings: Settings, folder: Path) -> tuple[str, Spec]:
    values = settings["run"]
    sampling = SamplingConfig(
        max_new_tokens=values["max_new_tokens"], temperature=values["temperature"], top_k=values["top_k"]
    )
    return "run", RunSpec(engine_dir=str(folder / "engine"), input_text=(values["prompt"],), sampling=sampling)


def _compare(settings: Settings, folder: Path) -> tuple[str, Spec]:
    values = settings["compare"]
    return "compare", CompareSpec(
        engine_dir=str(folder / "engine"),
        input_text=(settings["run"]["prompt"],),
        hf_model_dir=_source(settings),
        sampling=SamplingConfig(max_new_tokens=settings["run"]["max_new_tokens"]),
        num_runs=values["num_runs"],
    )


def _bench(settings: Settings, folder: Path) -> tuple[str, Spec]:
    values = settings["benchmark"]
    config = BenchConfig(
        batch_size=values["batch_size"], input_output_len=values["input_output_len"],
        num_runs=values["num_runs"], duration_s=values["duration_s"],
    )  # fmt: skip
    return "bench", BenchSpec(
        engine_dir=str(folder / "engine"), bench=config, test_hf=values["test_hf"], hf_model_dir=_source(settings)
    )


_PLUGINS = (
    "gpt_attention_plugin", "gemm_plugin", "rmsnorm_plugin", "layernorm_plugin", "swiglu_plugin",
    "context_fmha", "remove_input_padding", "paged_kv_cache", "tokens_per_block", "use_inflight_batching",
)  # fmt: skip
_MORE_PLUGINS = tuple(name for name in PluginConfig.field_names() if name not in _PLUGINS)
_PROMPT = "Born in north-east France, Soyer trained as a"

STEPS: tuple[Step, ...] = (
    Step(
        "model", "Model", "Say which model, and see what it will need before anything is fetched or built.",
        own=(_text("source", "Folder of a model, its id on the hub, or demo:gpt2 or demo:llama.", "demo:gpt2"),),
        request=_plan,
    ),
    Step(
        "convert", "Convert", "Write the model as a TensorRT-LLM checkpoint.",
        spec=((ConvertSpec, ("dtype",)),), defaults={"dtype": "auto"}, after=("model",), request=_convert,
    ),
    Step(
        "plugins", "Plugins", "Choose what the engine computes with plugins, and how attention and cache are laid out.",
        spec=((PluginConfig, (*_PLUGINS, *_MORE_PLUGINS)),), folded=_MORE_PLUGINS, presets=PLUGIN_PRESETS,
        after=("model",),
    ),
    Step(
        "quantization", "Quantization", "Keep the weights as they are, or write a checkpoint with smaller ones.",
        spec=((QuantizeSpec, ("qformat", "group_size", "quantize_lm_head", "kv_cache_dtype")),), presets=QUANT_PRESETS,
        defaults={"qformat": AS_IT_IS}, after=("convert",), request=_quantize,
    ),
    Step(
        "build", "Build", "Build the engine from the checkpoint, in a process of its own.",
        spec=((BuildConfig, ("backend", "max_batch_size", "max_input_len", "max_seq_len", "opt_level")),),
        after=("plugins", "quantization"), request=_build,
    ),
    Step(
        "run", "Run", "Let the engine write.",
        own=(_text("prompt", "What the engine goes on from.", _PROMPT),),
        spec=((SamplingConfig, ("max_new_tokens", "temperature", "top_k")),),
        defaults={"max_new_tokens": 32}, after=("build",), request=_run,
    ),
    Step(
        "compare", "Compare", "Give engine and Hugging Face the same tokens and find the first place where they part.",
        spec=((CompareSpec, ("num_runs",)),), after=("build", "run"), request=_compare,
    ),
    Step(
        "benchmark", "Benchmark", "Measure engine and Hugging Face by one clock.",
        own=(
            _text("batch_size", "Batch sizes, separated by semicolons.", "1"),
            _text("input_output_len", "Pairs of prompt and output length, separated by semicolons.", "60,20"),
        ),
        spec=((BenchConfig, ("num_runs", "duration_s")), (BenchSpec, ("test_hf",))),
        defaults={"num_runs": 3, "duration_s": 0.0, "test_hf": True}, after=("build",), request=_bench,
    ),
)  # fmt: skip
BY_NAME = {step.name: step for step in STEPS}


def key_of(name: str, settings: Settings, folder: Path) -> str:
    """Return the content key of a step: what it asks and all that it is made of; equal keys, equal outcomes."""
    step = BY_NAME[name]
    asked = step.request(settings, folder)
    content = dict(settings[name]) if asked is None else {"verb": asked[0], "request": plain_request(asked[1])}
    return digest_of_json(
        {"step": name, "content": content, "after": [key_of(one, settings, folder) for one in step.after]}
    )


def plain_request(spec: Spec) -> dict[str, Any]:
    """Return a request as JSON-ready data."""
    return {name: plain(value) for name, value in spec.to_dict().items()}


def with_all_before(name: str) -> list[str]:
    """Return a step and all steps that it is made of, in the order of the path."""
    wanted = {name}
    for step in reversed(STEPS):
        if step.name in wanted:
            wanted.update(step.after)
    return [step.name for step in STEPS if step.name in wanted]


__all__ = ["BY_NAME", "STEPS", "Step", "key_of", "plugin_config", "quantizes", "with_all_before"]
