"""Write the checkpoint of a model that another tool quantized: layer by layer, nothing rounded again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.conversion import ConvertReport, config_from_source, rank_tensor
from ..checkpoint.layout import WholeTensor, check_division, whole_tensors
from ..checkpoint.matching import SourcePart, match_source
from ..checkpoint.quantized_layout import KV_SCALE
from ..checkpoint.reader import rank_file_name
from ..checkpoint.writer import checkpoint_writer
from ..families import family_for_architecture
from ..intake.quantized.source import QuantizedSource, open_quantized_folder
from ..progress import ProgressSink, phase
from ..specs import Mapping as RankMapping
from ..specs import ModelConfig, QuantConfig
from .checkpoint import quantized_config, write_whole
from .foreign import Found, linear_family, module_tensors, survey


@dataclass(frozen=True, repr=False)
class RepackReport(ConvertReport):
    """What was written of a quantized folder.

    Attributes
    ----------
    config
        The checkpoint's configuration.
    notes
        What a person should know: a type chosen because the scales need it, steps that could not be kept.
    """

    config: ModelConfig
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RepackPlan:
    """What a quantized folder becomes, before anything is written.

    Attributes
    ----------
    config
        The checkpoint's configuration.
    notes
        What a person should know.
    matched
        Whole tensor of the unquantized model → its parts in the source.
    """

    config: ModelConfig
    notes: tuple[str, ...]
    matched: Mapping[str, tuple[SourcePart, ...]]


def plan_repack(
    source: QuantizedSource, *, dtype: str = "auto", mapping: RankMapping | None = None, **options: Any
) -> RepackPlan:
    """Return what `repack` would write; reads scales and zero points. Parameters and errors are those of `repack`."""
    plain = config_from_source(source, dtype, mapping, **options)
    family = linear_family(family_for_architecture(plain.architecture), source)
    matched = match_source(source, plain, family)
    found = survey(source, plain, matched)
    plain, notes = _with_dtype(plain, dtype, found)
    config = quantized_config(plain, found.quant)
    check_division(config, config.mapping)
    return RepackPlan(config, notes, matched)


def repack(
    source: Path | str | QuantizedSource,
    output_dir: Path | str,
    *,
    dtype: str = "auto",
    mapping: RankMapping | None = None,
    overwrite: bool = False,
    progress: ProgressSink | None = None,
    **options: Any,
) -> RepackReport:
    """Convert a folder that GPTQ's tools, AutoAWQ, llm-compressor or ModelOpt quantized into a checkpoint.

    Dequantized, the checkpoint's weights equal those of the source's own definition bit for bit. In memory are the
    tensors of one layer.

    Parameters
    ----------
    source
        The folder, or what `open_quantized_folder` returns.
    output_dir
        The new folder.
    dtype
        Type of everything that is not quantized, and of the scales of weight-only layers; ``"auto"`` is the model's,
        or that of its scales where the model's cannot hold them exactly.
    mapping
        The ranks; None for one.
    overwrite
        Replace an existing folder as a whole.
    progress
        Is told of each phase.
    **options
        use_parallel_embedding, embedding_sharding_dim, share_embedding_table.

    Raises
    ------
    IntakeError
        A format that is not read, tensors that are missing or do not fit.
    QuantizationError
        What a checkpoint cannot hold exactly: groups of other sizes, fused layers quantized in part, a type that
        changes the scales.
    CheckpointError, StorageError
        As conversion.
    """
    started = time.perf_counter()
    opened = source if isinstance(source, QuantizedSource) else open_quantized_folder(source)
    with phase("match tensors", progress):
        plan = plan_repack(opened, dtype=dtype, mapping=mapping, **options)
    config, matched = plan.config, plan.matched
    plain = config.replace(quantization=QuantConfig())
    tensors = whole_tensors(config)
    by_module: dict[str, list[WholeTensor]] = {}
    for tensor in tensors:
        by_module.setdefault(tensor.name.rpartition(".")[0], []).append(tensor)
    packed = set(opened.layers)
    with (
        checkpoint_writer(output_dir, config, source=str(opened.directory.absolute()), overwrite=overwrite) as writer,
        phase("repack", progress, total=len(tensors), unit="tensor") as current,
    ):
        for module, held in by_module.items():
            parts = matched.get(f"{module}.weight", ())
            made: dict[str, torch.Tensor] = {}
            if parts and parts[0].name.removesuffix(".weight") in packed:
                layers = [(opened.linear(part.name.removesuffix(".weight")), part) for part in parts]
                made = module_tensors(module, layers, config.quantization, getattr(torch, config.dtype))
            for tensor in held:
                suffix = tensor.name.rpartition(".")[2]
                if suffix in made:
                    content = made[suffix]
                elif tensor.name.endswith(KV_SCALE) and tensor.layer is not None:
                    content = opened.cache_step(tensor.layer)
                else:
                    content = rank_tensor(opened, tensor, matched, plain, RankMapping())
                write_whole(writer, tensor, content)
                current.advance(1, tensor.name)
            for part in parts:
                opened.release(part.name)
        ranks = range(config.mapping.world_size)
        sizes = tuple((writer.directory / rank_file_name(rank)).stat().st_size for rank in ranks)
        count = sum(len(writer.rank(rank).names) for rank in ranks)
    return RepackReport(
        directory=str(output_dir), source=str(opened.directory), architecture=config.architecture, dtype=config.dtype,
        tp_size=config.mapping.tp_size, pp_size=config.mapping.pp_size, tensors=count, bytes_by_rank=sizes,
        seconds=time.perf_counter() - started, workers=1, config=config, notes=plan.notes,
    )  # fmt: skip


def _with_dtype(config: ModelConfig, asked: str, found: Found) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return the configuration in a type that holds the scales, where nobody asked for another."""
    wanted, own = found.scale_dtype, getattr(torch, config.dtype)
    if asked != "auto" or wanted is None or torch.promote_types(own, wanted) is own:
        return config, found.notes
    name = str(wanted).removeprefix("torch.")
    note = f"The checkpoint is {name}, not {config.dtype}: the source's scales are {name}, and stay exact only so."
    return config.replace(dtype=name), (*found.notes, note)
