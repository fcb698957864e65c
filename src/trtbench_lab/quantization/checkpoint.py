"""Quantize a whole model into a checkpoint: from a Hugging Face folder or another checkpoint, a tensor at a time.

A tensor is quantized whole and cut afterwards, so that the ranks of any layout hold parts of one and the same
quantized model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.conversion import config_from_source, rank_tensor
from ..checkpoint.layout import WholeTensor, linear_layers, rank_name, rank_slice, rank_tensors, whole_tensors
from ..checkpoint.matching import match_source
from ..checkpoint.reader import Checkpoint, open_checkpoint
from ..checkpoint.source import TensorSource
from ..checkpoint.writer import CheckpointWriter, checkpoint_writer
from ..errors import QuantizationError
from ..families import family_for_architecture
from ..intake.huggingface import open_hf_folder
from ..progress import ProgressSink, phase
from ..specs import Mapping, ModelConfig, QuantConfig
from .joining import part_of, whole_from_ranks
from .report import LayerError, QuantizeReport
from .weight_only import WeightOnlyScheme, dequantize, quantize, scheme_from_config

ROWS_BYTES = 64 << 20
"""Rows are quantized in blocks of about this many bytes of float32."""

ReadWhole = Callable[[WholeTensor], torch.Tensor]


def quantize_checkpoint(
    source: Path | str | TensorSource | Checkpoint,
    output_dir: Path | str,
    quant_config: QuantConfig,
    *,
    dtype: str = "auto",
    mapping: Mapping | None = None,
    overwrite: bool = False,
    progress: ProgressSink | None = None,
    **options: Any,
) -> QuantizeReport:
    """Write a weight-only quantized checkpoint.

    Parameters
    ----------
    source
        A Hugging Face folder or a checkpoint folder, or either of them opened.
    output_dir
        The new folder.
    quant_config
        W8A16 or W4A16, a scale a channel (group_size None) or a group, or a recipe of such layers. `lm_head` stays as
        it is unless ``exclude_modules=[]``; a tied head then gets a quantized weight of its own, while the embedding
        keeps its type.
    dtype
        Type of everything that is not quantized, the scales included; ``"auto"`` is the source's.
    mapping
        The ranks of the new checkpoint; None takes the source's, one for a Hugging Face folder.
    overwrite
        Replace an existing folder as a whole.
    progress
        Is told of each phase.
    **options
        Further fields of ModelConfig: use_parallel_embedding, embedding_sharding_dim, share_embedding_table.

    Raises
    ------
    QuantizationError
        For another algorithm, groups that do not divide a layer, or a source that is quantized already.
    CheckpointError, IntakeError, StorageError
        As conversion.
    """
    started = time.perf_counter()
    mixed = quant_config.quantized_layers is not None
    if not mixed and scheme_from_config(quant_config) is None:
        raise QuantizationError(
            "No quantization was asked for.",
            where="quant_config.quant_algo",
            remedy="Set quant_algo to W8A16 or W4A16, or use `convert`.",
        )
    opened = open_model(source)
    plain, read, where = whole_reader(opened, dtype, mapping, options)
    config = quantized_config(plain, quant_config)
    schemes = {name: scheme_from_config(config.quantization.of_module(name)) for name, *_ in linear_layers(config)}
    tensors = whole_tensors(config)
    plain_tensors = {tensor.name: tensor for tensor in whole_tensors(config.replace(quantization=QuantConfig()))}
    errors: list[LayerError] = []
    with (
        checkpoint_writer(output_dir, config, source=where, overwrite=overwrite) as writer,
        phase("quantize", progress, total=len(tensors), unit="tensor") as current,
    ):
        scale = torch.empty(0)
        for tensor in tensors:
            module, _, leaf = tensor.name.rpartition(".")
            scheme = schemes.get(module)
            if scheme is not None and leaf == "weight":
                weight = read(plain_tensors[tensor.name])
                content, scale, error = _quantize_whole(weight, scheme, module, config.dtype)
                errors.append(error)
            elif scheme is not None and leaf == scheme.scale_name:
                content = scale
            else:
                content = read(tensor)
            write_whole(writer, tensor, content)
            current.advance(1, tensor.name)
        report = QuantizeReport(
            directory=str(output_dir),
            source=where,
            algo=str(quant_config.quant_algo),
            group_size=quant_config.group_size,
            layers=tuple(errors),
            seconds=0.0,
        )
        report.write(writer.directory)
    return replace(report, seconds=time.perf_counter() - started)


def open_model(source: Path | str | TensorSource | Checkpoint) -> TensorSource | Checkpoint:
    """Open a folder as what it is, a checkpoint or a Hugging Face model; pass on what is open already."""
    if not isinstance(source, (str, Path)):
        return source
    folder = Path(source).expanduser()
    if (folder / "rank0.safetensors").exists():
        return open_checkpoint(folder)
    return open_hf_folder(folder)


def whole_reader(
    source: TensorSource | Checkpoint, dtype: str, mapping: Mapping | None, options: dict[str, Any]
) -> tuple[ModelConfig, ReadWhole, str]:
    """Return the unquantized configuration, a function that reads whole tensors, and the source's name."""
    if isinstance(source, Checkpoint):
        stored = source.config
        if stored.quantization.is_quantized:
            raise QuantizationError(
                f"The checkpoint is quantized already ({stored.quantization.quant_algo}).",
                where=str(source.directory),
                remedy="Quantize the unquantized checkpoint, or the model's own folder.",
            )
        changes = {**options, **({} if mapping is None else {"mapping": mapping})}
        config = stored.replace(**changes, **({} if dtype == "auto" else {"dtype": dtype}))
        origin = source.source_dir or source.directory
        return config, lambda tensor: whole_from_ranks(source, tensor), str(origin.absolute())
    config = config_from_source(source, dtype, mapping, **options)
    matched = match_source(source, config, family_for_architecture(config.architecture))

    def read(tensor: WholeTensor) -> torch.Tensor:
        found = rank_tensor(source, tensor, matched, config, Mapping())
        for part in matched[tensor.name]:
            source.release(part.name)
        return found

    return config, read, str(source.directory.absolute())


def quantized_config(plain: ModelConfig, quant_config: QuantConfig) -> ModelConfig:
    """Return the new configuration; a quantized head cannot share the embedding's memory."""
    config = plain.replace(quantization=quant_config)
    if config.share_embedding_table and not quant_config.excludes("lm_head"):
        config = config.replace(share_embedding_table=False)
    return config


def _quantize_whole(
    weight: torch.Tensor, scheme: WeightOnlyScheme, module: str, scale_dtype: str
) -> tuple[torch.Tensor, torch.Tensor, LayerError]:
    """Quantize a weight in blocks of rows, which are independent of each other."""
    out_features, in_features = weight.shape
    rows = max(1, ROWS_BYTES // (4 * in_features))
    packed = torch.empty(scheme.packed_shape(out_features, in_features), dtype=torch.int8)
    scales = torch.empty(scheme.scale_shape(out_features, in_features), dtype=getattr(torch, scale_dtype))
    squared = reference = largest = clipped = 0.0
    for start in range(0, out_features, rows):
        block = weight[start : start + rows]
        end = start + block.shape[0]
        packed[start:end], scales[start:end] = quantize(
            block, scheme, scale_dtype=scales.dtype, name=f"{module}.weight"
        )
        restored = dequantize(packed[start:end], scales[start:end], scheme, dtype=torch.float32)
        difference = restored - block.float()
        squared += float(difference.square().sum(dtype=torch.float64))
        reference += float(block.float().square().sum(dtype=torch.float64))
        largest = max(largest, float(difference.abs().max()))
        clipped += _clipped(block, scales[start:end], scheme)
    error = LayerError(
        module=module,
        out_features=out_features,
        in_features=in_features,
        relative_rms_error=(squared / reference) ** 0.5 if reference else 0.0,
        max_abs_error=largest,
        clipped_share=clipped / weight.numel(),
        bytes_before=weight.nbytes,
        bytes_after=packed.nbytes + scales.nbytes,
        weight_largest=float(weight.abs().max()),
    )
    return packed, scales, error


def _clipped(block: torch.Tensor, scales: torch.Tensor, scheme: WeightOnlyScheme) -> int:
    """Count the weights that lie above the largest level by more than half a step."""
    grouped = block.float().view(block.shape[0], -1, scheme.group_size or block.shape[1])
    largest_level = (1 << (scheme.bits - 1)) - 0.5
    return int((grouped > scales.float().view(block.shape[0], -1, 1) * largest_level).sum())


def write_whole(writer: CheckpointWriter, tensor: WholeTensor, content: torch.Tensor) -> None:
    """Write a whole tensor's part to every rank that holds one."""
    config = writer.config
    for rank in range(config.mapping.world_size):
        mapping = config.mapping.with_rank(rank)
        if any(held.name == tensor.name for held in rank_tensors(config, mapping)):
            part = part_of(content, rank_slice(tensor, config, mapping))
            writer.rank(rank).write(rank_name(tensor, config, mapping), part)
