"""The weights of one rank, in memory: read from a source, quantized where asked, each tensor in its stored type."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoint.blocks import BlockBuffers, raw_bytes, stored_blocks
from ..checkpoint.conversion import rank_tensor
from ..checkpoint.layout import rank_name, rank_slice, rank_tensors, whole_tensors
from ..checkpoint.matching import match_source
from ..checkpoint.source import MemorySource, TensorSource
from ..errors import CheckpointError, IntakeError
from ..families import Family
from ..specs import Mapping, ModelConfig, QuantConfig

if TYPE_CHECKING:
    from ..quantization import WeightOnlyScheme


def open_source(hf_model_or_dir: Any, trust_remote_code: bool) -> TensorSource:
    """Return the source of a folder or of a model of ``transformers``; a source is returned as it is."""
    if isinstance(hf_model_or_dir, str | Path):
        from ..intake.huggingface import open_hf_folder

        return open_hf_folder(hf_model_or_dir, trust_remote_code=trust_remote_code)
    if hasattr(hf_model_or_dir, "state_dict") and hasattr(hf_model_or_dir, "config"):
        tensors = {name: tensor.detach().cpu() for name, tensor in hf_model_or_dir.state_dict().items()}
        return MemorySource(hf_model_or_dir.config.to_dict(), tensors)
    if hasattr(hf_model_or_dir, "names") and hasattr(hf_model_or_dir, "tensor"):
        return hf_model_or_dir
    raise IntakeError(
        f"A model is read from a folder or from a model of transformers, not from {type(hf_model_or_dir).__name__}.",
        where="hf_model_or_dir",
        remedy="Give the path of a local Hugging Face folder.",
    )


def rank_weights(source: TensorSource, config: ModelConfig, family: Family) -> dict[str, torch.Tensor]:
    """Return one rank's tensors; quantized ones are quantized whole and cut afterwards, as in a whole checkpoint."""
    from ..quantization.weight_only import scheme_from_config

    scheme = scheme_from_config(config.quantization)
    held = rank_tensors(config, config.mapping)
    matched = match_source(source, config, family)
    if scheme is None:
        return {
            rank_name(tensor, config, config.mapping): rank_tensor(source, tensor, matched, config, config.mapping)
            for tensor in held
        }
    from ..quantization.joining import part_of

    plain = config.replace(quantization=QuantConfig())
    unquantized = {tensor.name: tensor for tensor in whole_tensors(plain)}
    weights: dict[str, torch.Tensor] = {}
    scales = torch.empty(0)
    for tensor in held:
        if tensor.dtype == "int8":
            whole = rank_tensor(source, unquantized[tensor.name], matched, plain, Mapping())
            content, scales = _quantized(whole, scheme, tensor.name)
            content = part_of(content, rank_slice(tensor, config, config.mapping))
        elif tensor.name.endswith(scheme.scale_name):  # follows the weight it belongs to
            content = part_of(scales, rank_slice(tensor, config, config.mapping))
        else:
            content = rank_tensor(source, unquantized[tensor.name], matched, plain, config.mapping)
        weights[rank_name(tensor, config, config.mapping)] = content.contiguous()
    return weights


def _quantized(
    weight: torch.Tensor, scheme: WeightOnlyScheme, name: str, rows: int = 4096
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize in blocks of rows, which are independent of each other: the float copies stay small."""
    from ..quantization.weight_only import quantize

    blocks = [quantize(block, scheme, name=name) for block in weight.split(rows)]
    return torch.cat([packed for packed, _ in blocks]), torch.cat([scales for _, scales in blocks])


def stored(name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """Return a tensor in its stored type, checked."""
    target = getattr(torch, dtype)
    if tuple(tensor.shape) != shape or tensor.is_floating_point() != target.is_floating_point:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"The tensor is {kind} {tuple(tensor.shape)} and must be {dtype} {shape}.",
            where=name,
            remedy="The weights belong to another configuration.",
        )
    stored = torch.empty(shape, dtype=target)
    room, offset = raw_bytes(stored), 0
    for block in stored_blocks(tensor.detach().cpu(), target, BlockBuffers(), name=name, where="weights"):
        data = raw_bytes(block)
        room[offset : offset + len(data)] = data
        offset += len(data)
    return stored
