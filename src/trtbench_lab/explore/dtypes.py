"""Element types by one name, whoever spells them: ONNX, TensorRT's inspector, torch's profiler."""

from __future__ import annotations

import re

_BITS = {
    "float64": 64, "float32": 32, "tfloat32": 32, "float16": 16, "bfloat16": 16, "float8_e4m3fn": 8, "float8_e8m0": 8,
    "float4_e2m1": 4, "int64": 64, "int32": 32, "int16": 16, "int8": 8, "uint8": 8, "int4": 4, "uint4": 4, "bool": 8,
}  # fmt: skip
_NAMES = {
    "float": "float32", "fp32": "float32", "double": "float64", "half": "float16", "fp16": "float16",
    "bf16": "bfloat16", "c10::half": "float16", "c10::bfloat16": "bfloat16", "c10::float8_e4m3fn": "float8_e4m3fn",
    "fp8": "float8_e4m3fn", "float8e4m3fn": "float8_e4m3fn", "e8m0": "float8_e8m0", "fp4": "float4_e2m1",
    "int": "int32", "long int": "int64", "long": "int64", "short": "int16", "signed char": "int8", "char": "int8",
    "unsigned char": "uint8", "tf32": "tfloat32",
}  # fmt: skip
_WORDS = re.compile(
    r"\b(bfloat16|float32|float16|float|half|int64|int32|int8|uint8|int4|bool|(?:bf|fp)\d+|e8m0)\b", re.I
)
FLOATS = ("float64", "float32", "tfloat32", "float16", "bfloat16", "float8_e4m3fn", "float4_e2m1")


def dtype_name(text: object) -> str | None:
    """Return the common name of an element type; a word inside a longer text (``"Row major linear FP16 format"``) will
    do, and None comes back for what names no type."""
    if not isinstance(text, str) or not text.strip():
        return None
    word = text.strip().casefold()
    word = _NAMES.get(word, word)
    if word in _BITS:
        return word
    found = _WORDS.search(text)
    if found is None:
        return None
    word = found.group(1).casefold()
    return _NAMES.get(word, word)


def dtype_bits(dtype: str | None) -> int | None:
    """Return the bits of one element, or None for an unknown type."""
    return _BITS.get(dtype or "")


def is_float(dtype: str | None) -> bool:
    """Whether a type holds real numbers."""
    return dtype in FLOATS
