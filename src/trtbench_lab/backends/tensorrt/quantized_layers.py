"""How TensorRT computes quantized layers: pairs of Q and DQ in its own kernels, or plugins where it has none."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import BuildError
from ...plugins.weight_only_matmul import block_size
from ...quantization.linear_kinds import LinearForm, LinearKind, kinds_in
from ...specs import ModelConfig
from .gpu import Gpu

NATIVE_INT4_BLOCKS = (64, 128)
FP8_CAPABILITY = 89
"""Compute capability of the oldest GPUs that multiply FP8."""


@dataclass(frozen=True)
class PluginNeed:
    """Plugins that quantized layers of a model call for.

    Attributes
    ----------
    switches
        The options that turn them on.
    why
        The reason, as the end of a sentence.
    remedy
        What else would do, as the beginning of one.
    otherwise
        What happens without them; None where nothing else does.
    """

    switches: tuple[str, ...]
    why: str
    remedy: str = ""
    otherwise: str | None = None


def check_quantization(model: ModelConfig, gpu: Gpu) -> None:
    """Raise `BuildError` for quantized layers that a GPU has no arithmetic for.

    `QuantizationError` for layers that no network of this version has.
    """
    rounds = any(kind.rounds_inputs_to_fp8 for kind in kinds_in(model))
    if rounds and 0 < gpu.compute_capability < FP8_CAPABILITY:
        raise BuildError(
            f"FP8 layers need compute capability {FP8_CAPABILITY / 10} or later; {gpu.name} has "
            f"{gpu.compute_capability / 10}.",
            where="quantization.quant_algo",
            remedy="Quantize with int8_sq, or with int4_awq.",
        )


def plugins_needed(model: ModelConfig) -> list[PluginNeed]:
    """Return the plugins that the model's quantized layers call for, each once."""
    found = []
    for kind in kinds_in(model):
        need = _need(model, kind)
        if need is not None and need not in found:
            found.append(need)
    return found


def _need(model: ModelConfig, kind: LinearKind) -> PluginNeed | None:
    if kind.form is LinearForm.INT8 and kind.algo.has_token_scales:
        return PluginNeed(
            ("smooth_quant_gemm_plugin", "quantize_per_token_plugin"),
            "TensorRT's own INT8 layers have one scale for all tokens, and this checkpoint one a token",
            otherwise=(
                "SmoothQuant's scales a token stand outside of TensorRT's INT8 layers, whose own is 1: inputs are "
                "divided by them, and products multiplied."
            ),
        )
    held = _not_in_blocks(model, kind)
    if held is None:
        return None
    grouped = kind.form is LinearForm.GROUPS
    return PluginNeed(
        (f"weight_only_{'groupwise_' if grouped else ''}quant_matmul_plugin",),
        f"TensorRT multiplies INT4 weights in blocks of 64 or 128, and these have {held}",
        remedy="Quantize with group_size 128 or 64,",
    )


def _not_in_blocks(model: ModelConfig, kind: LinearKind) -> str | None:
    """Return what keeps INT4 weights from TensorRT's own layers, None where nothing does."""
    scheme = kind.scheme
    if scheme is None or scheme.bits != 4:
        return None
    if scheme.group_size is not None:
        return None if scheme.group_size in NATIVE_INT4_BLOCKS else f"groups of {scheme.group_size}"
    tp = model.mapping.tp_size
    widths = (model.hidden_size, model.num_attention_heads * model.head_width // tp, model.mlp_width // tp)
    odd = [width for width in widths if block_size(scheme, width) not in NATIVE_INT4_BLOCKS]
    return f"rows of {odd[0]} elements" if odd else None
