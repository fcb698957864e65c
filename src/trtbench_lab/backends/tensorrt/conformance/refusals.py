"""Which verdicts stand against a build or a load: features that failed here are not relied on, others go on."""

from __future__ import annotations

from collections.abc import Iterator

from ....errors import BuildError
from ....quantization.linear_kinds import LinearForm, kinds_in
from ....specs import BuildConfig, ModelConfig
from ..bindings_check import import_fault, tensorrt_version
from ..gpu import current_gpu
from ..plan_layout import PADDED
from ..resolution import form_of
from .features import attention_name
from .outcome import Outcome
from .verdicts import Machine, Verdicts, read_verdicts


def current_machine() -> Machine:
    """Return what verdicts of this process's GPU are kept under."""
    gpu = current_gpu()
    return Machine(gpu.name, gpu.compute_capability, gpu.driver, tensorrt_version())


def known_verdicts() -> Verdicts:
    """Return what is known of this machine; where TensorRT is not, nothing is."""
    if import_fault() is not None:
        return Verdicts(Machine("none", 0, "unknown", "none"))
    return read_verdicts(current_machine())


def features_used(model: ModelConfig, options: BuildConfig) -> Iterator[tuple[str, str]]:
    """Return each feature that a resolved build relies on, with what to do where it fails."""
    padded = form_of(options) == PADDED
    dtype = options.compute_dtype
    kind, other = ("native_attention", "plugin_attention") if padded else ("plugin_attention", "native_attention")
    instead = f"--gpt_attention_plugin {dtype}" if padded else "--gpt_attention_plugin disable"
    name = attention_name(kind, dtype, model.head_width, sharing_of(model))
    yield name, f"Build with {instead} ({other}), another compute_dtype, or use the torch backend."
    if dtype == "float32":
        yield "float32", "Build with compute_dtype float16 or bfloat16, or use the torch backend."
    if padded:
        other_form = "two" if options.phase_engines == "one" else "one"
        yield (
            "dual_profile" if options.phase_engines == "one" else "two_engines",
            f"Build with --phase_engines {other_form}.",
        )
        if options.capacity_buckets:
            yield "capacity_buckets", "Build without capacity_buckets."
    for flag, feature in (
        (options.refit, "refit"),
        (options.strip_plan, "strip_plan"),
        (options.weight_streaming, "weight_streaming"),
        (options.enable_debug_output, "debug_tensors"),
    ):
        if flag:
            yield feature, f"Build without {'enable_debug_output' if feature == 'debug_tensors' else feature}."
    for feature in products_used(model, options):
        yield feature, "Build from a checkpoint with another quantization, or use the torch backend."
    stored = model.quantization.kv_cache_quant_algo
    if stored is not None and not padded:
        yield f"plugin_cache/{stored.value.lower()}", "Quantize without kv_cache_quant_algo."
    if model.mapping.tp_size > 1:
        yield "collectives", "Convert with tp_size 1, or use the torch backend."


def products_used(model: ModelConfig, options: BuildConfig) -> list[str]:
    """Return the features that quantized layers rely on, each once; weights that plugins multiply rely on none.

    A recipe may differ from layer to layer, and AWQ's and GPTQ's weights go the way of plain INT4 ones.
    """
    found: list[str] = []
    for kind in kinds_in(model):
        grouped = kind.form is LinearForm.GROUPS
        switch = f"weight_only_{'groupwise_' if grouped else ''}quant_matmul_plugin"
        if kind.scheme is not None and not _by_plugin(options, switch):
            found.append(f"weight_only_int{kind.scheme.bits}")
        if kind.form is LinearForm.INT8:
            plugin, token = _by_plugin(options, "smooth_quant_gemm_plugin"), kind.algo.has_token_scales
            found += [] if plugin else ["int8_matmul"]
            if plugin is token:  # as they were tried
                found.append(f"smooth_quant_model/{'token' if token else 'static'}")
        if kind.rounds_inputs_to_fp8:
            found.append("fp8_matmul")
        if kind.form is LinearForm.FP8 and not kind.algo.has_token_scales:
            found.append("fp8_model")
    return list(dict.fromkeys(found))


def _by_plugin(options: BuildConfig, switch: str) -> bool:
    return getattr(options.plugin_config, switch) not in ("auto", "disable")


def sharing_of(model: ModelConfig) -> str:
    """Return ``"mha"``, ``"gqa"`` or ``"mqa"``."""
    if model.kv_heads == model.num_attention_heads:
        return "mha"
    return "mqa" if model.kv_heads == 1 else "gqa"


def refuse_failed(model: ModelConfig, options: BuildConfig, verdicts: Verdicts | None = None) -> list[str]:
    """Refuse a resolved build that relies on a feature which failed on this machine.

    Parameters
    ----------
    model, options
        The model and the resolved build configuration.
    verdicts
        Of this machine; None reads them.

    Returns
    -------
    Sentences for the build's notes: what failed here and is not used.

    Raises
    ------
    BuildError
        That says what failed, how and what to do instead.
    """
    verdicts = verdicts if verdicts is not None else known_verdicts()
    for feature, remedy in features_used(model, options):
        failure = verdicts.failure(feature)
        if failure is not None:
            raise BuildError(
                f"The conformance test {feature!r} {_sentence(failure)}",
                where="tensorrt backend",
                remedy=f"{remedy} After a change of driver or TensorRT, try again: trtbench doctor --conformance.",
            )
    graphs = verdicts.failure("cuda_graphs")
    return [] if graphs is None else ["CUDA graphs are not used: their conformance test failed on this machine."]


def graphs_failed(verdicts: Verdicts | None = None) -> bool:
    """Whether decode steps must not be captured on this machine."""
    verdicts = verdicts if verdicts is not None else known_verdicts()
    return verdicts.failure("cuda_graphs") is not None


def _sentence(failure: Outcome) -> str:
    verb = {"failed": "failed", "crashed": "crashed", "timed out": "timed out"}[failure.status]
    return f"{verb} on this machine: {failure.reason}"
