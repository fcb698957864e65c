"""Write an FP8 checkpoint with scales that another tool found on its own text: nothing is calibrated here."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.layout import linear_layers, whole_tensors
from ..checkpoint.quantized_layout import KV_SCALE
from ..checkpoint.reader import Checkpoint
from ..checkpoint.source import TensorSource
from ..checkpoint.writer import checkpoint_writer
from ..errors import QuantizationError
from ..intake.quantized.fp8_scales import FP8Scales, open_fp8_scales
from ..progress import ProgressSink, phase
from ..specs import Mapping, QuantAlgo, QuantConfig
from .checkpoint import open_model, quantized_config, whole_reader, write_whole
from .fp8 import LARGEST, rounded_to_fp8
from .report import LayerError, QuantizeReport


def quantize_with_scales(
    source: Path | str | TensorSource | Checkpoint,
    output_dir: Path | str,
    quant_config: QuantConfig,
    scales: FP8Scales | Path | str,
    *,
    dtype: str = "auto",
    mapping: Mapping | None = None,
    overwrite: bool = False,
    progress: ProgressSink | None = None,
    **options: Any,
) -> QuantizeReport:
    """Write an FP8 checkpoint: weights are those of `source` over the file's steps, rounded to E4M3.

    Parameters
    ----------
    source
        A Hugging Face folder or an unquantized checkpoint, or either of them opened.
    quant_config
        FP8, with or without an FP8 K/V cache.
    scales
        The file, or what `open_fp8_scales` returns.
    output_dir, dtype, mapping, overwrite, progress, **options
        As in `calibration.quantize_model`.

    Raises
    ------
    QuantizationError
        For another algorithm, or a file that speaks of another number of layers.
    IntakeError
        When the file lacks a layer.
    """
    started = time.perf_counter()
    if quant_config.quant_algo is not QuantAlgo.FP8 or quant_config.kv_cache_quant_algo is QuantAlgo.INT8:
        raise QuantizationError(
            "A file of FP8 scales makes FP8 layers, and an FP8 K/V cache where one is wanted.",
            where="fp8_scales",
            remedy="Use qformat fp8, and kv_cache_dtype fp8 or none.",
        )
    found = scales if isinstance(scales, FP8Scales) else open_fp8_scales(scales)
    plain, read, where = whole_reader(open_model(source), dtype, mapping, options)
    config = quantized_config(plain, quant_config)
    if found.num_layers != config.num_hidden_layers:
        raise QuantizationError(
            f"The file has scales of {found.num_layers} layers, and the model has {config.num_hidden_layers}.",
            where=str(found.path),
            remedy="Give the scales of this model.",
        )
    modules = [name for name, *_ in linear_layers(config) if config.quantization.of_module(name).quant_algo is not None]
    steps = {module: found.steps(module) for module in modules}  # all are there before anything is written
    weights = {tensor.name: tensor for tensor in whole_tensors(plain.replace(quantization=QuantConfig()))}
    caches: dict[int, float] = {}
    errors: list[LayerError] = []
    tensors = whole_tensors(config)
    with (
        checkpoint_writer(output_dir, config, source=where, overwrite=overwrite) as writer,
        phase("quantize", progress, total=len(tensors), unit="tensor") as current,
    ):
        for tensor in tensors:
            module, _, suffix = tensor.name.rpartition(".")
            if module in steps and suffix == "weight":
                weight = read(weights[tensor.name])
                content = rounded_to_fp8(weight.float() / steps[module][0])
                errors.append(_error(module, weight, content, steps[module][0]))
            elif module in steps and suffix.endswith("scaling_factor"):
                content = torch.tensor([steps[module][suffix.startswith("activation")]])
            elif tensor.name.endswith(KV_SCALE) and tensor.layer is not None:
                caches[tensor.layer] = found.cache_step(tensor.layer)
                content = torch.tensor([caches[tensor.layer]])
            else:
                content = read(tensor)
            write_whole(writer, tensor, content)
            current.advance(1, tensor.name)
        report = QuantizeReport(
            directory=str(output_dir), source=where, algo=str(quant_config.quant_algo), group_size=None,
            layers=tuple(errors), seconds=0.0, kv_cache=caches, quantizer=str(found.path),
        )  # fmt: skip
        report.write(writer.directory)
    return replace(report, seconds=time.perf_counter() - started)


def _error(module: str, weight: torch.Tensor, rounded: torch.Tensor, step: float) -> LayerError:
    wide = weight.float()
    change = rounded.float() * step - wide
    size = wide.square().sum(dtype=torch.float64)
    return LayerError(
        module=module, out_features=weight.shape[0], in_features=weight.shape[1],
        relative_rms_error=float((change.square().sum(dtype=torch.float64) / size).sqrt()) if size else 0.0,
        max_abs_error=float(change.abs().max()),
        clipped_share=float((wide.abs() > step * LARGEST * (1 + 2**-4)).float().mean()),
        bytes_before=weight.nbytes, bytes_after=rounded.nbytes + 8, weight_largest=float(wide.abs().max()),
    )  # fmt: skip
