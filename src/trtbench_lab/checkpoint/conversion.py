"""Conversion: a source's tensors stream into the rank files, one by one and never the model as a whole."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CheckpointError, IntakeError
from ..families import family_for_architecture, family_for_hf
from ..progress import Phase, ProgressSink, phase
from .blocks import BlockBuffers, check_in_order, raw_bytes, stored_blocks, touch
from .layout import WholeTensor, check_division, nbytes, rank_name, rank_slice, rank_tensors, whole_tensors
from .matching import SourcePart, match_source
from .reader import rank_file_name
from .source import TensorSource
from .writer import CheckpointWriter, Stopped, checkpoint_writer, rank_bytes, run_all

if TYPE_CHECKING:
    from ..specs import Mapping as RankMapping
    from ..specs import ModelConfig

# Threads by default: with two, the pages in hand are at most two source tensors.
_WORKERS = 2


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did.

    Attributes
    ----------
    directory
        The checkpoint.
    source
        The folder that the weights came from.
    architecture, dtype, tp_size, pp_size
        The checkpoint's own.
    tensors
        Tensors written, over all ranks.
    bytes_by_rank
        Size of each rank's file.
    seconds
        Wall time.
    workers
        Threads.
    """

    directory: str
    source: str
    architecture: str
    dtype: str
    tp_size: int
    pp_size: int
    tensors: int
    bytes_by_rank: tuple[int, ...]
    seconds: float
    workers: int

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self.bytes_by_rank)

    @property
    def written_bytes(self) -> int:
        """Bytes of all rank files."""
        return sum(self.bytes_by_rank)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "bytes_by_rank": list(self.bytes_by_rank), "written_bytes": self.written_bytes}

    def __repr__(self) -> str:
        rate = self.written_bytes / 1e6 / self.seconds if self.seconds else float("nan")
        return (
            f"{self.source} → {self.directory}\n"
            f"{self.architecture}, {self.dtype}, tp {self.tp_size} × pp {self.pp_size}: {self.tensors:,} tensors, "
            f"{self.written_bytes:,} bytes in {self.seconds:.2f} s ({rate:,.0f} MB/s, {self.workers} at a time)"
        )


def config_from_source(
    source: TensorSource, dtype: str = "auto", mapping: RankMapping | None = None, **options: Any
) -> ModelConfig:
    """Return the ModelConfig of a source.

    Parameters
    ----------
    source
        For example what `open_hf_folder` returns.
    dtype
        Element type of the checkpoint; ``"auto"`` is what config.json says, else what the weights are.
    mapping
        The ranks; None for one.
    **options
        Further fields of ModelConfig: quantization, use_parallel_embedding, embedding_sharding_dim,
        share_embedding_table.

    Raises
    ------
    IntakeError
        Unknown family, or a configuration that the decoder cannot follow.
    SpecError
        Values that do not fit.
    """
    where = str(source.directory / "config.json")
    family = family_for_hf(source.config, where=where)
    if dtype == "auto" and not any(source.config.get(key) for key in ("dtype", "torch_dtype")):
        names = source.names()
        dtype = str(source.dtype(names[0])).removeprefix("torch.") if names else "float32"
    return family.config_from_hf(source.config, dtype, mapping, where=where, **options)


def convert(
    source: TensorSource,
    output_dir: Path | str,
    *,
    config: ModelConfig | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: ProgressSink | None = None,
) -> ConvertReport:
    """Convert a source into a checkpoint folder.

    Tensor by tensor, the mapped source is read, checked, cast, cut, hashed and written to all ranks in blocks of 1.5
    MB: memory stays at a few blocks and the pages of one source tensor a worker.

    Parameters
    ----------
    source
        For example what `open_hf_folder` returns.
    output_dir
        The new folder.
    config
        The model, its dtype and its mapping; None takes the source's own for one rank.
    workers
        Tensors in hand at the same time, each on a thread of its own; None for two, 1 for the least memory.
    overwrite
        Replace an existing folder as a whole.
    progress
        Is told of each phase.

    Raises
    ------
    IntakeError
        Missing, extra or misshapen tensors, NaN or infinity among the weights, values that overflow the new type.
    CheckpointError
        The model cannot be divided as the mapping asks.
    StorageError
        The folder exists, another process writes it, or the disk is full or fails. Nothing is left behind then.
    """
    started = time.perf_counter()
    config = config or config_from_source(source)
    if config.quantization.quant_algo is not None:
        raise CheckpointError(
            "Conversion does not quantize.",
            where="quantization.quant_algo",
            remedy="Convert without quantization first, then quantize the checkpoint (verb `quantize`).",
        )
    world = config.mapping.world_size
    workers = min(_WORKERS, os.cpu_count() or 1) if workers is None else max(1, workers)
    with phase("match tensors", progress):
        matched = match_source(source, config, family_for_architecture(config.architecture))
        check_division(config, config.mapping)
    total = sum(rank_bytes(config, rank) for rank in range(world))
    tensors = 0
    with checkpoint_writer(output_dir, config, source=str(source.directory.absolute()), overwrite=overwrite) as writer:
        with phase("write ranks", progress, total=total, unit="B") as current:
            stream = _Stream(source, config, matched, writer, current)
            run_all(stream.write, _by_source(config, matched), workers)
        sizes = tuple((writer.directory / rank_file_name(rank)).stat().st_size for rank in range(world))
        tensors = sum(len(writer.rank(rank).names) for rank in range(world))
    seconds = time.perf_counter() - started
    return ConvertReport(
        directory=str(output_dir), source=str(source.directory), architecture=config.architecture, dtype=config.dtype,
        tp_size=config.mapping.tp_size, pp_size=config.mapping.pp_size, tensors=tensors, bytes_by_rank=sizes,
        seconds=seconds, workers=workers,
    )  # fmt: skip


class _Stream:
    """Writes tensor by tensor, each to all ranks that hold a part of it; one fault stops all threads."""

    def __init__(
        self,
        source: TensorSource,
        config: ModelConfig,
        matched: Mapping[str, tuple[SourcePart, ...]],
        writer: CheckpointWriter,
        current: Phase,
    ):
        self.source, self.config, self.matched, self.writer = source, config, matched, writer
        self.holders: dict[str, list[RankMapping]] = {}
        for rank in range(config.mapping.world_size):
            mapping = config.mapping.with_rank(rank)
            for tensor in rank_tensors(config, mapping):
                self.holders.setdefault(tensor.name, []).append(mapping)
        self._checked: set[str] = set()
        self._phase = current
        self._stopped = threading.Event()
        self._local = threading.local()

    def write(self, tensors: list[WholeTensor]) -> None:
        """Write tensors that share their source to every rank that holds a part, then give the source's pages back."""
        try:
            for tensor in tensors:
                for mapping in self.holders[tensor.name]:
                    self._write_part(tensor, mapping)
        except BaseException:
            self._stopped.set()
            raise
        for part in {part.name for tensor in tensors for part in self.matched[tensor.name]}:
            self.source.release(part)

    def _write_part(self, tensor: WholeTensor, mapping: RankMapping) -> None:
        buffers = self._local.__dict__.setdefault("buffers", BlockBuffers())
        name = rank_name(tensor, self.config, mapping)
        blocks = rank_blocks(self.source, tensor, self.matched, self.config, mapping, buffers, checked=self._checked)
        self.writer.rank(mapping.rank).write_blocks(name, self._counted(blocks, f"rank {mapping.rank}: {name}"))

    def _counted(self, blocks: Iterator[torch.Tensor], message: str) -> Iterator[torch.Tensor]:
        for block in blocks:
            if self._stopped.is_set():
                raise Stopped
            yield block
            self._phase.advance(block.nbytes, message)


def _by_source(config: ModelConfig, matched: Mapping[str, tuple[SourcePart, ...]]) -> list[list[WholeTensor]]:
    """Return the tensors in groups that are made from the same source tensors (a tied table and its head).

    The largest group comes first, so that the threads end together.
    """
    groups: dict[frozenset[str], list[WholeTensor]] = {}
    for tensor in whole_tensors(config):
        groups.setdefault(frozenset(part.name for part in matched[tensor.name]), []).append(tensor)
    return sorted(groups.values(), key=lambda group: -sum(nbytes(tensor.shape, tensor.dtype) for tensor in group))


def rank_blocks(
    source: TensorSource,
    tensor: WholeTensor,
    matched: Mapping[str, tuple[SourcePart, ...]],
    config: ModelConfig,
    mapping: RankMapping,
    buffers: BlockBuffers,
    *,
    checked: set[str],
) -> Iterator[torch.Tensor]:
    """Yield what a rank holds of a whole tensor, as contiguous blocks of its stored type, top to bottom.

    `checked` collects the source tensors that have passed as a whole: a table that several ranks hold, or that is
    both embedding and head, is checked once.
    """
    dtype = getattr(torch, tensor.dtype)
    cut = rank_slice(tensor, config, mapping)
    for start, end in cut.rows:
        for piece in matched[tensor.name]:
            low, high = max(start, piece.start), min(end, piece.end)
            if low >= high:
                continue
            given = source.tensor(piece.name)
            faults: dict[str, Any] = {"name": piece.name, "where": str(source.directory), "error": IntakeError}
            if piece.part.transform is not None and given.is_contiguous():
                if piece.name in checked:
                    touch(given)
                else:
                    check_in_order(given, **faults)
                    checked.add(piece.name)
            rows = piece.rows_of(given)[low - piece.start : high - piece.start]
            if cut.columns is not None:
                rows = rows[:, cut.columns[0] : cut.columns[1]]
            check = piece.name not in checked or torch.finfo(dtype).max < torch.finfo(given.dtype).max
            yield from stored_blocks(rows, dtype, buffers, check=check, **faults)
            if rows.shape == given.shape and piece.part.transform is None:
                checked.add(piece.name)
    if cut.padding:
        yield torch.zeros(cut.padding, *cut.shape[1:], dtype=dtype)


def rank_tensor(
    source: TensorSource,
    tensor: WholeTensor,
    matched: Mapping[str, tuple[SourcePart, ...]],
    config: ModelConfig,
    mapping: RankMapping,
) -> torch.Tensor:
    """Return what a rank holds of a whole tensor, in memory of its own."""
    whole = torch.empty(rank_slice(tensor, config, mapping).shape, dtype=getattr(torch, tensor.dtype))
    room, offset = raw_bytes(whole), 0
    for block in rank_blocks(source, tensor, matched, config, mapping, BlockBuffers(), checked=set()):
        data = raw_bytes(block)
        room[offset : offset + len(data)] = data
        offset += len(data)
    return whole
