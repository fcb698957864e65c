"""Which engines only imitate the arithmetic that their quantization names: they say so wherever they are shown."""

from __future__ import annotations

from ..specs import QuantConfig

FP8_EMULATED = "FP8 emulated"


def emulation_of(backend: str, quant: QuantConfig) -> str | None:
    """Return the words for an engine of `backend` whose products are an emulation, None where they are what they say.

    ONNX Runtime's CPU kernels multiply no FP8: numbers are rounded to it and multiplied in float32.
    """
    return FP8_EMULATED if backend == "onnxruntime" and quant.rounds_inputs_to_fp8 else None


def quantization_words(backend: str, quant: QuantConfig) -> str:
    """Return the algorithm of an engine's linear layers, and that it is emulated where it is."""
    algo = "none" if quant.quant_algo is None else quant.quant_algo.value
    emulation = emulation_of(backend, quant)
    return algo if emulation is None else f"{algo} ({emulation})"
