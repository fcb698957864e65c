"""Reading what a folder says about its own quantization: which tool wrote it, and how its tensors are packed.

The four formats say it in these places:

==================  ==================================================================================================
GPTQ                ``quantization_config`` of config.json, or AutoGPTQ's older ``quantize_config.json``
AutoAWQ             ``quantization_config``
compressed-tensors  ``quantization_config`` with ``config_groups``
ModelOpt            ``quantization_config``, or ``hf_quant_config.json``
==================  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ...errors import IntakeError
from ...specs import QuantAlgo
from ..model_config import read_json_object

READABLE = "GPTQ, AutoAWQ (gemm), compressed-tensors (INT4, INT8, FP8) and ModelOpt (FP8, INT4 AWQ, W4A8 AWQ)"
_OTHER_FILES = {"quantize_config.json": "gptq", "hf_quant_config.json": "modelopt"}


class Packing(StrEnum):
    """How a layer's weight lies in the file."""

    GPTQ = "gptq"
    AWQ = "awq"
    PACKED = "compressed-tensors, packed"
    PLAIN = "compressed-tensors, plain"
    MODELOPT = "modelopt"


class Activations(StrEnum):
    """What happens to a layer's inputs."""

    PLAIN = "plain"
    STATIC = "static"
    DYNAMIC = "dynamic"


@dataclass(frozen=True)
class ForeignScheme:
    """The quantization of a folder that another tool wrote.

    Attributes
    ----------
    packing
        How weights lie in the file.
    bits
        Of a weight.
    is_float
        Whether a weight is FP8 (E4M3) rather than an integer.
    activations
        Whether inputs are quantized, and with which steps.
    zeros_less_one
        GPTQ: zero points are stored less 1.
    kv_cache
        Type of the cache for which the folder holds scales; None without.
    """

    packing: Packing
    bits: int
    is_float: bool = False
    activations: Activations = Activations.PLAIN
    zeros_less_one: bool = False
    kv_cache: QuantAlgo | None = None


def quantization_table(config: Mapping[str, Any], directory: Path) -> dict[str, Any] | None:
    """Return what a folder says about its quantization, with ``quant_method`` filled in; None when it says nothing."""
    table = config.get("quantization_config")
    if table:
        return dict(table) if isinstance(table, Mapping) else {"quant_method": str(table)}
    for name, method in _OTHER_FILES.items():
        if (directory / name).is_file():
            found = read_json_object(directory / name, what="quantization's description")
            return {"quant_method": method, **found.get("quantization", found)}
    return None


def read_scheme(table: Mapping[str, Any], where: str) -> ForeignScheme:
    """Return the scheme of a table.

    Parameters
    ----------
    table
        What `quantization_table` returns.
    where
        The folder, for messages.

    Raises
    ------
    IntakeError
        For a tool, a packing or a type that is not read; the message lists what is.
    """
    method = str(table.get("quant_method", "unknown")).lower()
    readers = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed, "modelopt": _modelopt}
    if method not in readers:
        raise _refused(f"weights quantized by {method!r}", where)
    return readers[method](table, where)


def _gptq(table: Mapping[str, Any], where: str) -> ForeignScheme:
    if table.get("dynamic"):
        raise _refused("GPTQ models whose layers differ in bits or groups (`dynamic`)", where)
    form = table.get("checkpoint_format") or "gptq"
    if form not in ("gptq", "gptq_v2"):
        raise _refused(f"the GPTQ packing {form!r}", where)
    return ForeignScheme(Packing.GPTQ, _bits(table, "bits", where), zeros_less_one=form == "gptq")


def _awq(table: Mapping[str, Any], where: str) -> ForeignScheme:
    version = str(table.get("version", "gemm")).lower()
    bits = _bits(table, "bits", where)
    if version != "gemm" or bits != 4:
        raise _refused(f"AutoAWQ weights of {bits} bits packed for {version!r}", where)
    return ForeignScheme(Packing.AWQ, bits)


def _compressed(table: Mapping[str, Any], where: str) -> ForeignScheme:
    if (table.get("sparsity_config") or {}).get("format", "dense") != "dense":
        raise _refused("sparse weights of compressed-tensors", where)
    groups = [group for group in (table.get("config_groups") or {}).values() if group.get("weights")]
    kinds = {(str(group["weights"]), str(group.get("input_activations"))) for group in groups}
    if len(kinds) != 1:
        raise _refused(f"compressed-tensors with {len(kinds)} different kinds of layers", where)
    weights, inputs = groups[0]["weights"], groups[0].get("input_activations")
    form = groups[0].get("format") or table.get("format")
    bits, is_float = _bits(weights, "num_bits", where), weights.get("type") == "float"
    if weights.get("strategy") not in ("tensor", "channel", "group"):
        raise _refused(f"compressed-tensors weights with scales by {weights.get('strategy')!r}", where)
    if form == "pack-quantized" and not is_float and not inputs:
        return ForeignScheme(Packing.PACKED, bits, kv_cache=_cache(table.get("kv_cache_scheme"), where))
    if form not in ("int-quantized", "float-quantized", "naive-quantized") or bits != 8:
        raise _refused(f"compressed-tensors of {bits} bits as {form!r}", where)
    if inputs and not inputs.get("symmetric", True):
        raise _refused("inputs with zero points", where)
    return ForeignScheme(
        Packing.PLAIN, 8, is_float, _activations(inputs), kv_cache=_cache(table.get("kv_cache_scheme"), where)
    )


def _modelopt(table: Mapping[str, Any], where: str) -> ForeignScheme:
    algo = str(table.get("quant_algo")).upper()
    kinds = {
        "FP8": (8, True, Activations.STATIC),
        "FP8_PER_CHANNEL_PER_TOKEN": (8, True, Activations.DYNAMIC),
        "INT4_AWQ": (4, False, Activations.PLAIN),
        "W4A16_AWQ": (4, False, Activations.PLAIN),
        "W4A8_AWQ": (4, False, Activations.STATIC),
    }
    if algo not in kinds:
        raise _refused(f"ModelOpt's {algo}", where)
    bits, is_float, activations = kinds[algo]
    named = table.get("kv_cache_quant_algo")
    cache = QuantAlgo(named) if named in ("FP8", "INT8") else _cache(table.get("kv_cache_scheme"), where)
    return ForeignScheme(Packing.MODELOPT, bits, is_float, activations, kv_cache=cache)


def _activations(inputs: Mapping[str, Any] | None) -> Activations:
    if not inputs:
        return Activations.PLAIN
    return Activations.DYNAMIC if inputs.get("dynamic") else Activations.STATIC


def _cache(scheme: Mapping[str, Any] | None, where: str) -> QuantAlgo | None:
    if not scheme:
        return None
    if scheme.get("num_bits") != 8 or scheme.get("dynamic"):
        raise _refused("a K/V cache that is not of 8 bits with fixed scales", where)
    return QuantAlgo.FP8 if scheme.get("type") == "float" else QuantAlgo.INT8


def _bits(table: Mapping[str, Any], name: str, where: str) -> int:
    bits = table.get(name)
    if not isinstance(bits, int) or not 2 <= bits <= 8:
        raise IntakeError(
            f"{name} is {bits!r}, not a number of bits from 2 to 8.", where=where, remedy="Fetch the model again."
        )
    return bits


def _refused(what: str, where: str) -> IntakeError:
    return IntakeError(
        f"The folder holds {what}, which are not read.",
        where=where,
        remedy=f"Use the unquantized model and `quantize`. Of quantized folders these are read: {READABLE}.",
    )
