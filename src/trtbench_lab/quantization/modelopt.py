"""NVIDIA ModelOpt as the quantizer of a layer, where it is installed (the extra `modelopt`): FP8, AWQ and W4A8.

ModelOpt gets one linear layer at a time, so a model streams through memory as it does without it. What it finds is told
in this project's checkpoint:

==========================  ==========================================================================================
``activation_scaling_…``    amax of the inputs / 448; its calibrator sees every feature's largest value of the whole
                            text, so this is the step that the whole text gives
``weights_scaling_factor``  FP8: amax of the weight / 448. AWQ, W4A8: amax of a group / 7, where this project's own
                            rounding uses all sixteen levels, amax / 8
``prequant_scaling_…``      what its search over ``max|x|^a / max|w|^(1−a)`` chose, on the sample of the calibration
                            text that this project's own search uses too
==========================  ==========================================================================================
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import warnings
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any

import torch

from ..errors import QuantizationError
from ..specs import QuantAlgo, QuantConfig
from .fp8 import fp8_inputs_step, fp8_step, rounded_to_fp8
from .inputs import LayerInputs
from .weight_only import WeightOnlyScheme, pack_int4

MODELOPT_ALGOS = (QuantAlgo.FP8, QuantAlgo.W4A16_AWQ, QuantAlgo.W4A8_AWQ)
_PRESETS = {
    QuantAlgo.FP8: "FP8_DEFAULT_CFG",
    QuantAlgo.W4A16_AWQ: "INT4_AWQ_CFG",
    QuantAlgo.W4A8_AWQ: "W4A8_AWQ_BETA_CFG",
}
_LARGEST_INT4 = 7


def quantizer_for(asked: str, algo: QuantAlgo | None) -> str:
    """Return who quantizes layers by `algo`: ``"modelopt"`` or ``"ours"``.

    Parameters
    ----------
    asked
        ``"auto"`` takes ModelOpt for what it does where it is installed; ``"ours"`` and ``"modelopt"`` ask for one.
    algo
        Of the layer.

    Raises
    ------
    QuantizationError
        When ModelOpt is asked for and does not do this, or is not installed.
    """
    able = algo in MODELOPT_ALGOS
    if asked == "ours" or (asked == "auto" and not able):
        return "ours"
    if not able:
        raise QuantizationError(
            f"ModelOpt does FP8, W4A16_AWQ and W4A8_AWQ here, and {algo or 'no algorithm'} was asked for.",
            where="quantizer",
            remedy="Leave quantizer at auto, or choose fp8, int4_awq or w4a8_awq.",
        )
    if modelopt_version() is not None:
        return "modelopt"
    if asked == "modelopt":
        raise QuantizationError(
            "ModelOpt is not installed.",
            where="quantizer",
            remedy="pip install 'trtbench-lab[modelopt]', or leave quantizer at auto: this project's own FP8, AWQ and "
            "W4A8 need no package.",
        )
    return "ours"


def modelopt_version() -> str | None:
    """Return the version of the ModelOpt that is installed; None without one."""
    if importlib.util.find_spec("modelopt") is None:
        return None
    try:
        return metadata.version("nvidia-modelopt")
    except metadata.PackageNotFoundError:
        return None


def modelopt_layer(
    weight: torch.Tensor, inputs: LayerInputs, quant: QuantConfig, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return the tensors of a layer as `layer.quantized_layer` does, with the scales that ModelOpt finds.

    Parameters
    ----------
    weight
        (out, in).
    inputs
        Statistics of the layer's inputs.
    quant
        FP8, W4A16_AWQ or W4A8_AWQ, and its groups.
    dtype
        Type of the checkpoint.

    Raises
    ------
    QuantizationError
        When ModelOpt cannot be imported or fails on the layer, and for groups that do not divide it.
    """
    algo = quant.quant_algo
    assert algo in MODELOPT_ALGOS  # noqa: S101 - `quantizer_for` says so first
    scheme = None if algo is QuantAlgo.FP8 else WeightOnlyScheme(algo.weight_bits, quant.group_size)
    if scheme is not None:
        scheme.check_fits(inputs.name, *weight.shape)
    # The hooks of calibration leave inference mode on, whose tensors ModelOpt's modules cannot keep.
    with torch.inference_mode(False), torch.no_grad():
        weight = weight.float().clone()
        batches = [inputs.sample.clone()]
        if scheme is None:
            batches.append(inputs.largest.clone()[None])  # one token that has every feature's largest value
        linear = _calibrated(weight, batches, algo, scheme, inputs.name)
        if scheme is None:
            return _fp8_tensors(linear, weight)
        before = linear.input_quantizer.pre_quant_scale.flatten().to(dtype)  # (in,)
        quantizer = linear.weight_quantizer if algo is QuantAlgo.W4A16_AWQ else linear.weight_quantizer[0]
        steps = (quantizer.amax.float() / _LARGEST_INT4).reshape(weight.shape[0], -1)
        steps = torch.where(steps > 0, steps, 1.0).to(dtype).clamp_min(torch.finfo(dtype).smallest_normal)
        scaled = (weight / before.float()).view(*steps.shape, -1)  # (out, groups, group)
        integers = torch.round(scaled / steps.float()[..., None]).clamp_(-_LARGEST_INT4 - 1, _LARGEST_INT4)
        tensors = {
            "weight": pack_int4(integers.to(torch.int8).view(weight.shape)),
            "weights_scaling_factor": steps,
            "prequant_scaling_factor": before,
        }
        if algo is QuantAlgo.W4A8_AWQ:
            # ModelOpt's rule, amax of the scaled inputs / 448, over the whole text instead of the sample.
            tensors["activation_scaling_factor"] = fp8_inputs_step(inputs, before)
        return tensors


def _fp8_tensors(linear: Any, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    step = fp8_step(linear.weight_quantizer.amax)
    return {
        "weight": rounded_to_fp8(weight / step),
        "weights_scaling_factor": step,
        "activation_scaling_factor": fp8_step(linear.input_quantizer.amax),
    }


class _OneLinear(torch.nn.Module):
    """What ModelOpt is given: a module with one linear layer, under a name that none of its patterns leaves out."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.linear.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def _calibrated(
    weight: torch.Tensor, batches: list[torch.Tensor], algo: QuantAlgo, scheme: WeightOnlyScheme | None, name: str
) -> Any:
    """Return ModelOpt's module with its scales found on `batches` of inputs (tokens, in)."""
    quantization = _modelopt(name)
    recipe = copy.deepcopy(getattr(quantization, _PRESETS[algo]))
    if scheme is not None:
        _set_groups(recipe, scheme.group_size or weight.shape[1])

    def run(module: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for batch in batches:
            module(batch)

    module = _OneLinear(weight)
    # It reports each step on the screen, for every layer.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            quantization.quantize(module, recipe, run)
        except Exception as error:
            raise QuantizationError(
                f"ModelOpt failed on this layer: {error}", where=name, remedy="Use quantizer ours."
            ) from error
    return module.linear


def _set_groups(recipe: dict[str, Any], group_size: int) -> None:
    """Write the group size into every table of a recipe that has groups along the inputs."""
    entries = recipe["quant_cfg"]
    for entry in entries if isinstance(entries, list) else entries.values():
        tables = entry.get("cfg", entry) if isinstance(entry, dict) else entry
        for table in tables if isinstance(tables, list) else [tables]:
            if isinstance(table, dict) and table.get("block_sizes"):
                table["block_sizes"][-1] = group_size


@cache
def _imported() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import modelopt.torch.quantization as quantization
    return quantization


def _modelopt(name: str) -> Any:
    try:
        return _imported()
    except Exception as error:  # a package of another time fails to import with more than ImportError
        raise QuantizationError(
            f"ModelOpt is installed and cannot be imported: {error}",
            where=name,
            remedy="pip install -U 'trtbench-lab[modelopt]', or use quantizer ours.",
        ) from error
