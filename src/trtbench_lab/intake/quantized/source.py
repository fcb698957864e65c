"""A folder that another tool quantized, as a source: plain tensors by name, and quantized layers as integers and steps.

To whoever matches names and shapes it looks like the unquantized model: layer ``X`` has ``X.weight`` of (out, in), and
its packed tensors are not listed. Asked for, such a weight is dequantized by the format's definition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...checkpoint.location import TensorLocation
from ...errors import IntakeError
from ..huggingface import HFSource, open_hf_folder
from .awq import read_awq
from .compressed import read_packed, read_plain
from .gptq import read_gptq
from .linear import QuantizedLinear
from .modelopt import read_modelopt
from .scheme import ForeignScheme, Packing, quantization_table, read_scheme

# The tensor by which a quantized layer is known, and everything that belongs to its weight.
_MARK = {
    Packing.GPTQ: "qweight", Packing.AWQ: "qweight", Packing.PACKED: "weight_packed",
    Packing.PLAIN: "weight_scale", Packing.MODELOPT: "weight_scale",
}  # fmt: skip
_PARTS = {
    Packing.GPTQ: ("qweight", "qzeros", "scales", "g_idx"),
    Packing.AWQ: ("qweight", "qzeros", "scales"),
    Packing.PACKED: ("weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"),
    Packing.PLAIN: ("weight", "weight_scale", "input_scale"),
    Packing.MODELOPT: ("weight", "weight_scale", "input_scale", "pre_quant_scale"),
}
_CACHE_SCALE = re.compile(r"\.(?:layers|h)\.(\d+)\..*?[kv]_scale$")


class QuantizedSource:
    """A quantized Hugging Face folder; made by `open_quantized_folder`.

    Attributes
    ----------
    directory, config
        As of every source; `config` without its quantization.
    scheme
        How the tensors are packed.
    layers
        Names of the quantized layers, in the order of the files.
    """

    def __init__(self, plain: HFSource, scheme: ForeignScheme):
        self.directory = plain.directory
        self.config = {name: value for name, value in plain.config.items() if name != "quantization_config"}
        self.scheme = scheme
        self._plain = plain
        mark = f".{_MARK[scheme.packing]}"
        held = plain.names()
        self.layers = tuple(name.removesuffix(mark) for name in held if name.endswith(mark))
        if not self.layers:
            raise IntakeError(
                f"The folder says that it is quantized ({scheme.packing}), and no tensor ends in {mark}.",
                where=str(self.directory), remedy="Configuration and weights do not belong together: fetch both again.",
            )  # fmt: skip
        self._weights = {f"{layer}.weight": layer for layer in self.layers}
        packed = {f"{layer}.{part}" for layer in self.layers for part in _PARTS[scheme.packing]}
        self._cache_scales: dict[int, list[str]] = {}
        for name in held:
            if found := _CACHE_SCALE.search(name):
                self._cache_scales.setdefault(int(found[1]), []).append(name)
        hidden = packed | {name for names in self._cache_scales.values() for name in names}
        self._names = (*(name for name in held if name not in hidden), *self._weights)

    def __repr__(self) -> str:
        return f"QuantizedSource({str(self.directory)!r}, {self.scheme.packing}, {len(self.layers)} quantized layers)"

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_quantized_folder, (self.directory, self._plain.trust_remote_code))

    def names(self) -> tuple[str, ...]:
        """Return the names that the unquantized model has."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the extents of tensor `name`, (out, in) for a quantized weight."""
        if name not in self._weights:
            return self._plain.shape(name)
        layer = self._weights[name]
        match self.scheme.packing:
            case Packing.GPTQ:
                order = f"{layer}.g_idx"
                rows = self._plain.shape(f"{layer}.qweight")[0] * 32 // self.scheme.bits
                width = self._plain.shape(order)[0] if order in set(self._plain.names()) else rows
                return (self._plain.shape(f"{layer}.scales")[1], width)
            case Packing.AWQ:
                return (self._plain.shape(f"{layer}.scales")[1], self._plain.shape(f"{layer}.qweight")[0])
            case Packing.PACKED:
                return tuple(self._plain.tensor(f"{layer}.weight_shape").tolist())
            case Packing.MODELOPT if self._plain.dtype(name) is torch.uint8:
                rows, width = self._plain.shape(name)
                return (2 * rows, width)
            case _:
                return self._plain.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Return the element type of tensor `name`; a quantized weight has that of its scales."""
        if name not in self._weights:
            return self._plain.dtype(name)
        scales = "scales" if self.scheme.packing in (Packing.GPTQ, Packing.AWQ) else "weight_scale"
        return self._plain.dtype(f"{self._weights[name]}.{scales}")

    def tensor(self, name: str) -> torch.Tensor:
        """Return tensor `name`; a quantized weight is dequantized, (out, in) in the type of its scales."""
        return self.linear(self._weights[name]).dense() if name in self._weights else self._plain.tensor(name)

    def linear(self, layer: str, *, with_weight: bool = True) -> QuantizedLinear:
        """Return the quantized layer of this name; without its weight, scales and zero points are read alone."""
        bits = self.scheme.bits
        match self.scheme.packing:
            case Packing.GPTQ:
                less_one = self.scheme.zeros_less_one
                return read_gptq(self._plain, layer, bits=bits, zeros_less_one=less_one, with_weight=with_weight)
            case Packing.AWQ:
                return read_awq(self._plain, layer, with_weight=with_weight)
            case Packing.PACKED:
                return read_packed(self._plain, layer, bits=bits, with_weight=with_weight)
            case Packing.PLAIN:
                return read_plain(self._plain, layer)
            case Packing.MODELOPT:
                return read_modelopt(self._plain, layer)

    def cache_step(self, layer: int) -> torch.Tensor:
        """Return the step (1,) float32 of layer number `layer`'s cache: the larger of keys' and values'."""
        if layer not in self._cache_scales:
            raise IntakeError(
                f"The folder asks for a quantized K/V cache and has no scales for layer {layer}.",
                where=str(self.directory), remedy="Quantize the model again with a cache calibrated, or without.",
            )  # fmt: skip
        steps = [self._plain.tensor(name).float().reshape(-1) for name in self._cache_scales[layer]]
        return torch.cat(steps).amax().reshape(1)

    def location(self, name: str) -> TensorLocation | None:
        """Return the byte range of tensor `name`, or None for a quantized weight."""
        return None if name in self._weights else self._plain.location(name)

    def release(self, name: str) -> None:
        """Give the memory pages of tensor `name` back."""
        if name not in self._weights:
            self._plain.release(name)
            return
        held = set(self._plain.names())
        for part in _PARTS[self.scheme.packing]:
            if f"{self._weights[name]}.{part}" in held:
                self._plain.release(f"{self._weights[name]}.{part}")

    def digest(self) -> str:
        """Return a digest over configuration and weights."""
        return self._plain.digest()


def is_quantized_folder(config: Mapping[str, Any], directory: Path) -> bool:
    """Whether a folder says that another tool has quantized its weights."""
    return quantization_table(config, directory) is not None


def open_quantized_folder(directory: Path | str, trust_remote_code: bool = False) -> QuantizedSource:
    """Open a folder that another tool quantized.

    Raises
    ------
    IntakeError
        As `open_hf_folder`; also for a folder that is not quantized, or by a tool whose format is not read.
    """
    plain = open_hf_folder(directory, trust_remote_code=trust_remote_code, allow_quantized=True)
    table = quantization_table(plain.config, plain.directory)
    if table is None:
        raise IntakeError(
            "Nothing in the folder says that its weights are quantized.", where=str(plain.directory),
            remedy="Open it with open_hf_folder(…).",
        )  # fmt: skip
    return QuantizedSource(plain, read_scheme(table, str(plain.directory)))
