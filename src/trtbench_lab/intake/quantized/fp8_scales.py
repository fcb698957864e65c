"""FP8 scales in an ``.npz`` file, as TensorRT-LLM's ``quantize.py`` wrote them up to 0.7 (``{model}_tp1_rank0.npz``).

The file holds a step for weights and one for inputs of each linear layer of layer N, under names that begin
``_np:layers:N:``::

    attention:qkv:{q,k,v}:{weights,activation}_scaling_factor     one layer here: the largest of the three counts
    attention:qkv:{weights,activation}_scaling_factor             models whose query, key and value are one layer
    attention:dense:…  mlp:fc:…  mlp:gate:…  mlp:proj:…           mlp:gate where the MLP is gated

A number is one element of any shape. The weights themselves, which some of these files hold too, are not read: they
come from the model. The K/V cache was not calibrated then: its step is 1, unless the file has
``attention:kv_cache_scaling_factor``.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from ...errors import IntakeError

_REMEDY = "Give the .npz file of FP8 scales that TensorRT-LLM's quantize.py wrote for this model."


class FP8Scales:
    """The numbers of one file; made by `open_fp8_scales`.

    Attributes
    ----------
    path
        The file.
    num_layers
        Layers that it speaks of.
    """

    def __init__(self, path: Path, values: dict[str, float]):
        self.path = path
        self._values = values
        numbers = {int(name.split(":")[2]) for name in values}
        self.num_layers = max(numbers) + 1

    def __repr__(self) -> str:
        return f"FP8Scales({str(self.path)!r}, {self.num_layers} layers)"

    def steps(self, module: str) -> tuple[float, float]:
        """Return the step of weights and of inputs of a linear layer such as ``transformer.layers.0.mlp.fc``.

        Raises
        ------
        IntakeError
            When the file has none, or one that is no positive number.
        """
        return self._of(module, "weights_scaling_factor"), self._of(module, "activation_scaling_factor")

    def cache_step(self, layer: int) -> float:
        """Return the step of a layer's FP8 cache, 1 where the file has none."""
        name = f"_np:layers:{layer}:attention:kv_cache_scaling_factor"
        return self._positive(name) if name in self._values else 1.0

    def _of(self, module: str, kind: str) -> float:
        path = module.removeprefix("transformer.").replace(".", ":")
        parts = [f"_np:{path}:{part}:{kind}" for part in "qkv"] if module.endswith("attention.qkv") else []
        if parts and any(part in self._values for part in parts):
            return max(self._positive(part) for part in parts)
        return self._positive(f"_np:{path}:{kind}")

    def _positive(self, name: str) -> float:
        if name not in self._values:
            raise IntakeError(f"The file has no {name}.", where=str(self.path), remedy=_REMEDY)
        value = self._values[name]
        if not (math.isfinite(value) and value > 0):
            raise IntakeError(
                f"{name} is {value}, and a scale is a positive number.", where=str(self.path), remedy=_REMEDY
            )
        return value


def open_fp8_scales(path: Path | str) -> FP8Scales:
    """Read the scales of a file; nothing in it is executed, and arrays of weights in it are not loaded.

    Raises
    ------
    IntakeError
        No such file, not an ``.npz``, or one without scales.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise IntakeError("There is no such file.", where=str(path), remedy=_REMEDY)
    values: dict[str, float] = {}
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise ValueError("it is one array, not an archive")
        with opened as held:
            for name in held.files:
                words = name.split(":")
                is_layer = len(words) > 3 and words[:2] == ["_np", "layers"] and words[2].isdigit()
                if not is_layer or not words[-1].endswith("_scaling_factor"):
                    continue
                array = held[name]
                if array.size == 1 and array.dtype.kind == "f":
                    values[name] = float(array.reshape(()))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise IntakeError(f"The file cannot be read as .npz: {error}", where=str(path), remedy=_REMEDY) from error
    if not values:
        raise IntakeError("The file has no scaling factors of layers.", where=str(path), remedy=_REMEDY)
    return FP8Scales(path, values)
