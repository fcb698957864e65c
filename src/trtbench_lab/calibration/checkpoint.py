"""Quantize a model with calibration into a checkpoint: one layer in memory at a time, written when it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.layout import WholeTensor, linear_layers, whole_tensors
from ..checkpoint.quantized_layout import KV_SCALE, SMOOTHED_HERE
from ..checkpoint.reader import Checkpoint
from ..checkpoint.source import TensorSource
from ..checkpoint.writer import CheckpointWriter, checkpoint_writer
from ..errors import QuantizationError
from ..progress import ProgressSink, phase
from ..quantization.checkpoint import open_model, quantize_checkpoint, quantized_config, whole_reader, write_whole
from ..quantization.given_scales import quantize_with_scales
from ..quantization.kv_cache import cache_step
from ..quantization.layer import layer_error, quantized_layer, unclipped_channels
from ..quantization.modelopt import modelopt_layer, modelopt_version, quantizer_for
from ..quantization.reference import needs_calibration
from ..quantization.report import LayerError, QuantizeReport
from ..quantization.smoothquant import smoothing_factors
from ..specs import Mapping, ModelConfig, QuantAlgo, QuantConfig
from .layers import CalibratedLayer, calibrated_layers
from .tokens import CalibrationTokens

# Layers that read the output of the same norm.
_BEHIND_NORM = {"input_layernorm": ("attention.qkv",), "post_layernorm": ("mlp.fc", "mlp.gate")}


def quantize_model(
    source: Path | str | TensorSource | Checkpoint,
    output_dir: Path | str,
    quant_config: QuantConfig,
    tokens: CalibrationTokens | None = None,
    *,
    dtype: str = "auto",
    mapping: Mapping | None = None,
    act_order: bool = False,
    quantizer: str = "auto",
    fp8_scales: Path | str | None = None,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    progress: ProgressSink | None = None,
    **options: Any,
) -> QuantizeReport:
    """Write a quantized checkpoint by any algorithm.

    Weight-only quantization needs no `tokens` and streams tensor by tensor; everything else runs them through the
    model once, layer by layer in float32: in memory are one layer, its statistics and the tokens' hidden states.

    Parameters
    ----------
    source
        A Hugging Face folder or an unquantized checkpoint folder, or either of them opened.
    output_dir
        The new folder.
    quant_config
        Algorithm, groups, excluded modules, K/V cache.
    tokens
        The calibration text.
    dtype
        Type of everything that is not quantized; ``"auto"`` is the source's.
    mapping
        The ranks of the new checkpoint; None takes the source's.
    act_order
        GPTQ: round the columns of the largest inputs first.
    quantizer
        ``"auto"`` lets ModelOpt do FP8, AWQ and W4A8 where it is installed; ``"ours"`` and ``"modelopt"`` ask for one.
    fp8_scales
        FP8: an ``.npz`` file of scales that TensorRT-LLM's quantize.py wrote; nothing is calibrated then.
    overwrite
        Replace an existing folder as a whole.
    device
        Where the layers run and are quantized.
    progress
        Is told of each phase.
    **options
        use_parallel_embedding, embedding_sharding_dim, share_embedding_table.

    Raises
    ------
    QuantizationError
        No calibration text where one is needed, inputs that are not finite, a source that is quantized already;
        ModelOpt asked for where it is not installed, or for what it does not do.
    CheckpointError, IntakeError, StorageError
        As conversion.
    """
    if fp8_scales is not None:
        return quantize_with_scales(
            source, output_dir, quant_config, fp8_scales,
            dtype=dtype, mapping=mapping, overwrite=overwrite, progress=progress, **options,
        )  # fmt: skip
    if quantizer == "modelopt" and quant_config.quantized_layers is None:
        quantizer_for(quantizer, quant_config.quant_algo)  # refused before anything is read
    # A mixed recipe that looks at weights alone still gets errors of outputs where there is text.
    if not needs_calibration(quant_config) and (tokens is None or quant_config.quantized_layers is None):
        return quantize_checkpoint(
            source, output_dir, quant_config,
            dtype=dtype, mapping=mapping, overwrite=overwrite, progress=progress, **options,
        )  # fmt: skip
    if tokens is None:
        raise QuantizationError(
            f"{quant_config.quant_algo or 'A quantized K/V cache'} needs text to calibrate on.",
            where="tokens",
            remedy="Give calibration tokens (calibration_tokens(texts, tokenizer)), or quantize weights only.",
        )
    started = time.perf_counter()
    plain, read, where = whole_reader(open_model(source), dtype, mapping, options)
    _check_tokens(tokens, plain)
    config = quantized_config(plain, quant_config)
    algo = quant_config.quant_algo
    with_head = algo is not None and not quant_config.excludes("lm_head")
    by_layer: dict[int | None, list[WholeTensor]] = {}
    for tensor in whole_tensors(config):
        by_layer.setdefault(tensor.layer, []).append(tensor)
    kinds = {quant_config.of_module(name).quant_algo for name, *_ in linear_layers(config)}
    by_modelopt = {kind for kind in kinds if quantizer_for(quantizer if kind else "ours", kind) == "modelopt"}
    layers = calibrated_layers(
        plain, read, tokens.token_ids, with_gram=QuantAlgo.W4A16_GPTQ in kinds, with_head=with_head, device=device
    )
    errors: list[LayerError] = []
    steps: dict[int, float] = {}
    outside = {tensor.name: tensor for tensor in by_layer.pop(None)}
    with (
        checkpoint_writer(output_dir, config, source=where, overwrite=overwrite) as writer,
        phase("calibrate and quantize", progress, total=plain.num_hidden_layers, unit="layer") as current,
    ):
        for layer in layers:
            made = _Layer(layer, config, act_order, by_modelopt)
            made.quantize()
            errors += made.errors
            held = by_layer[layer.number] if layer.number is not None else []
            if layer.number is None:
                held = [outside.pop(name) for name in list(outside) if name.startswith("lm_head.")]
            else:
                if quant_config.kv_cache_quant_algo is not None:
                    largest = max(layer.key_largest, layer.value_largest)
                    steps[layer.number] = cache_step(largest, quant_config.kv_cache_quant_algo)
                    made.tensors[f"transformer.layers.{layer.number}.{KV_SCALE}"] = torch.tensor([steps[layer.number]])
                current.advance(1, f"layer {layer.number}")
            _write_all(writer, held, made.tensors)
        for tensor in outside.values():
            write_whole(writer, tensor, read(tensor))
        report = QuantizeReport(
            directory=str(output_dir),
            source=where,
            algo=str(algo or "none"),
            group_size=quant_config.group_size,
            layers=tuple(errors),
            seconds=0.0,
            calibration=tokens.to_dict(),
            kv_cache=steps,
            quantizer=f"modelopt {modelopt_version()}" if by_modelopt else "ours",
        )
        report.write(writer.directory)
    return replace(report, seconds=time.perf_counter() - started)


@dataclass
class _Layer:
    """One layer on its way into the checkpoint."""

    layer: CalibratedLayer
    config: ModelConfig
    act_order: bool
    by_modelopt: set[QuantAlgo | None]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    errors: list[LayerError] = field(default_factory=list)

    def quantize(self) -> None:
        """Fill `tensors` with everything that the checkpoint keeps of the layer, and `errors`."""
        recipe = self.config.quantization
        dtype = getattr(torch, self.config.dtype)
        self.tensors = {name: weight.to(dtype) for name, weight in self.layer.weights.items()}
        folded = self._fold_norms()
        for module, inputs in self.layer.inputs.items():
            quant = recipe.of_module(module)
            algo = quant.quant_algo
            if algo is None:
                continue
            weight = self.layer.weights[f"{module}.weight"]
            factors = folded.get(module)
            smoother = None
            if algo.is_smoothquant and module.endswith(SMOOTHED_HERE):
                smoother = factors = smoothing_factors(inputs, [weight], quant.smoothquant_val)
            if algo in self.by_modelopt:
                made = modelopt_layer(weight, inputs, quant, dtype)
            else:
                made = quantized_layer(
                    weight, inputs, quant, dtype, factors=factors, act_order=self.act_order,
                    clip_from=unclipped_channels(self.config, module),
                )  # fmt: skip
            if smoother is not None:
                made["smoother"] = smoother
            self.errors.append(
                layer_error(module, weight, made, inputs, algo, dtype, folded=factors if smoother is None else None)
            )
            self.tensors.update({f"{module}.{suffix}": tensor for suffix, tensor in made.items()})

    def _fold_norms(self) -> dict[str, torch.Tensor]:
        """Divide each norm by the factors of the layers behind it; return the factors by module."""
        recipe = self.config.quantization
        found: dict[str, torch.Tensor] = {}
        for norm, behind in _BEHIND_NORM.items():
            modules = [name for name in self.layer.inputs if name.endswith(behind)]
            kinds = [recipe.of_module(module) for module in modules]
            # A layer of another kind reads the same norm: then nothing is moved.
            if not kinds or not all(kind.quant_algo is not None and kind.quant_algo.is_smoothquant for kind in kinds):
                continue
            quant = kinds[0]
            weights = [self.layer.weights[f"{module}.weight"] for module in modules]
            factors = smoothing_factors(self.layer.inputs[modules[0]], weights, quant.smoothquant_val)
            prefix = f"transformer.layers.{self.layer.number}.{norm}"
            for kind in ("weight", "bias"):
                name = f"{prefix}.{kind}"
                if name in self.tensors:
                    folded = self.layer.weights[name] / factors
                    self.tensors[name] = folded.to(self.tensors[name].dtype)
            found.update(dict.fromkeys(modules, factors))
        return found


def _write_all(writer: CheckpointWriter, held: list[WholeTensor], tensors: MappingOf[str, torch.Tensor]) -> None:
    for tensor in held:
        write_whole(writer, tensor, tensors[tensor.name].to(getattr(torch, tensor.dtype)).cpu())


def _check_tokens(tokens: CalibrationTokens, config: ModelConfig) -> None:
    length = tokens.token_ids.shape[1]
    if length > config.max_position_embeddings and not config.uses_rope:
        raise QuantizationError(
            f"Rows of {length} calibration tokens are longer than the model's {config.max_position_embeddings}.",
            where="tokens",
            remedy="Use a smaller calib_max_seq_length.",
        )
    largest, smallest = int(tokens.token_ids.max()), int(tokens.token_ids.min())
    if smallest < 0 or largest >= config.vocab_size:
        raise QuantizationError(
            f"The calibration tokens run from {smallest} to {largest}; the vocabulary has {config.vocab_size} entries.",
            where="tokens",
            remedy="Use the model's own tokenizer.",
        )
