"""What is said of quantized layers of an onnxruntime engine: which kernels, what is rounded, what is only emulated."""

from __future__ import annotations

from ...quantization.linear_kinds import LinearForm, LinearKind, kinds_in
from ...specs import BuildConfig, ModelConfig
from ..emulation import FP8_EMULATED


def quantization_notes(config: ModelConfig, build_config: BuildConfig) -> list[str]:
    """Return a sentence for each way in which quantized layers are computed."""
    kinds = kinds_in(config)
    notes = []
    dequantized = [kind for kind in kinds if kind.scheme is not None and not kind.rounds_inputs_to_fp8]
    if dequantized:
        notes.append(_weight_only(config, dequantized, build_config))
    if any(kind.form is LinearForm.INT8 for kind in kinds):
        notes.append("SmoothQuant layers multiply integers (MatMulIntegerToFloat), summed in int32.")
    if any(kind.form is LinearForm.FP8 for kind in kinds):
        notes.append(
            f"{FP8_EMULATED}: inputs and weights are rounded to E4M3 and multiplied in float32, with float32's speed "
            "and memory; ONNX Runtime's CPU kernels multiply no FP8."
        )
    if any(kind.scheme is not None and kind.rounds_inputs_to_fp8 for kind in kinds):
        notes.append(
            f"{FP8_EMULATED}: inputs of W4A8 layers are rounded to E4M3 and multiplied by INT4 weights in float32, "
            "no faster than W4A16."
        )
    return notes


def _weight_only(config: ModelConfig, kinds: list[LinearKind], build_config: BuildConfig) -> str:
    from .builder import bits_held_twice, fast

    bits = {kind.algo.weight_bits for kind in kinds}
    if not fast(build_config):
        if bits == {4}:
            return "Weight-only layers keep float32 activations at opt_level 0 and 1; opt_level 2 or more is faster."
        return (
            "Weight-only layers are exact at opt_level 0 and 1, with dense float32 weights in the engine: ONNX Runtime "
            "has no fast exact product for 8-bit ones. opt_level 2 or more keeps them packed."
        )
    twice = bits_held_twice(config, build_config)
    by_token = 8 not in twice and all(kind.algo.weight_bits == 8 and kind.form is LinearForm.CHANNELS for kind in kinds)
    note = (
        "Weight-only layers round activations to 8 bits, one scale a "
        f"{'token' if by_token else 'block of a token'}, and multiply integers; "
        "opt_level 0 or 1 keeps float32 activations and is slower."
    )
    if 4 in twice:
        note += (
            " For prompts the engine holds the 4-bit weights a second time, one a byte; opt_level 2 leaves that out."
        )
    if 8 in twice:
        note += " For prompts it holds the 8-bit weights a second time; opt_level 3 leaves that out."
    return note
