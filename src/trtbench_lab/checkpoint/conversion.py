"""Conversion: a source's tensors stream into the rank files, each read once a rank and never held as a whole."""

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
from .blocks import BlockBuffers, raw_bytes, read_ahead, stored_blocks
from .layout import WholeTensor, check_division, rank_name, rank_slice, rank_tensors
from .matching import SourcePart, match_source
from .reader import rank_file_name
from .source import TensorSource
from .writer import CheckpointWriter, RankStopped, checkpoint_writer, rank_bytes, run_ranks

if TYPE_CHECKING:
    from ..specs import Mapping as RankMapping
    from ..specs import ModelConfig

_AHEAD = 3  # blocks made ready before they are written


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
        Ranks written side by side.
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

    Tensors are read from the mapped source, checked, cast, cut, hashed and written in small blocks: memory
    stays at a few blocks and the pages of one source tensor a worker.

    Parameters
    ----------
    source
        For example what `open_hf_folder` returns.
    output_dir
        The new folder.
    config
        The model, its dtype and its mapping; None takes the source's own for one rank.
    workers
        Ranks written side by side; None for as many as there are cores, 1 for the least memory.
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
    workers = min(world, os.cpu_count() or 1) if workers is None else max(1, min(workers, world))
    with phase("match tensors", progress):
        matched = match_source(source, config, family_for_architecture(config.architecture))
        check_division(config, config.mapping)
    total = sum(rank_bytes(config, rank) for rank in range(world))
    tensors = 0
    with checkpoint_writer(output_dir, config, source=str(source.directory.absolute()), overwrite=overwrite) as writer:
        with phase("write ranks", progress, total=total, unit="B") as current:
            stream = _Stream(source, config, matched, writer, current)
            run_ranks(stream.write_rank, world, workers)
        sizes = tuple((writer.directory / rank_file_name(rank)).stat().st_size for rank in range(world))
        tensors = sum(len(writer.rank(rank).names) for rank in range(world))
    seconds = time.perf_counter() - started
    return ConvertReport(
        directory=str(output_dir), source=str(source.directory), architecture=config.architecture, dtype=config.dtype,
        tp_size=config.mapping.tp_size, pp_size=config.mapping.pp_size, tensors=tensors, bytes_by_rank=sizes,
        seconds=seconds, workers=workers,
    )  # fmt: skip


class _Stream:
    """Writes ranks; one fault stops all of them."""

    def __init__(
        self,
        source: TensorSource,
        config: ModelConfig,
        matched: Mapping[str, tuple[SourcePart, ...]],
        writer: CheckpointWriter,
        current: Phase,
    ):
        self.source, self.config, self.matched, self.writer = source, config, matched, writer
        self._checked: set[tuple[str, int, int]] = set()
        self._phase = current
        self._stopped = threading.Event()

    def write_rank(self, rank: int) -> None:
        """Write one rank: this thread hashes and writes, another makes the blocks ready."""
        file = self.writer.rank(rank)
        mapping = self.config.mapping.with_rank(rank)
        by_name = {rank_name(tensor, self.config, mapping): tensor for tensor in rank_tensors(self.config, mapping)}
        # one block being made, one being written, the others between the two
        blocks = self._blocks([by_name[name] for name in file.names], mapping, BlockBuffers(_AHEAD + 2))
        try:
            with read_ahead(blocks, _AHEAD) as ready:
                for name in file.names:
                    file.write_blocks(name, self._counted(ready, f"rank {rank}: {name}"))
                    # only now: blocks may be views of the mapped source, and writing them touches its pages again
                    for part in self.matched[by_name[name].name]:
                        self.source.release(part.name)
            self.writer.finish_rank(rank)
        except BaseException:
            self._stopped.set()
            raise

    def _blocks(
        self, tensors: list[WholeTensor], mapping: RankMapping, buffers: BlockBuffers
    ) -> Iterator[torch.Tensor | None]:
        """Blocks of one tensor after the other, None after each."""
        for tensor in tensors:
            yield from rank_blocks(
                self.source, tensor, self.matched, self.config, mapping, buffers, checked=self._checked
            )
            yield None

    def _counted(self, ready: Iterator[torch.Tensor | None], message: str) -> Iterator[torch.Tensor]:
        """The blocks up to the next None."""
        for block in ready:
            if block is None:
                return
            if self._stopped.is_set():
                raise RankStopped
            yield block
            self._phase.advance(block.nbytes, message)


def rank_blocks(
    source: TensorSource,
    tensor: WholeTensor,
    matched: Mapping[str, tuple[SourcePart, ...]],
    config: ModelConfig,
    mapping: RankMapping,
    buffers: BlockBuffers,
    *,
    checked: set[tuple[str, int, int]],
) -> Iterator[torch.Tensor]:
    """Yield what a rank holds of a whole tensor, as contiguous blocks of its stored type, top to bottom.

    `checked` collects the parts (source tensor, rows) that have passed as a whole: a table that several ranks hold, or
    that is both embedding and head, is checked once.
    """
    dtype = getattr(torch, tensor.dtype)
    cut = rank_slice(tensor, config, mapping)
    for start, end in cut.rows:
        for piece in matched[tensor.name]:
            low, high = max(start, piece.start), min(end, piece.end)
            if low >= high:
                continue
            key = (piece.name, piece.start, piece.end)
            rows = piece.rows(source)[low - piece.start : high - piece.start]
            if cut.columns is not None:
                rows = rows[:, cut.columns[0] : cut.columns[1]]
            yield from stored_blocks(
                rows, dtype, buffers,
                name=piece.name, where=str(source.directory), error=IntakeError, check=key not in checked,
            )  # fmt: skip
            if cut.columns is None and (low, high) == (piece.start, piece.end):
                checked.add(key)
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
