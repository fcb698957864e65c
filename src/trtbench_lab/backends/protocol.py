"""What every backend offers: a `Builder` that makes one engine a rank, and an `Executor` that binds tensors and runs.

The tensors of a decoder engine, by name (B batch, T new tokens a row, K wanted logits a row, S cache capacity,
Hkv K/V heads of this rank, D head size, V vocabulary)::

    input_ids          int64    (B, T)          token ids, rows padded on the right
    write_indices      int64    (B,)            tokens of the row already in the cache: where new K/V are written
    logit_indices      int64    (B, K)          positions within T whose logits are wanted
    past_key_i         cache    (B, Hkv, S, D)  one pair a layer; S is chosen by the caller, a call at a time
    past_value_i       cache    (B, Hkv, S, D)
    logits             float32  (B, K, V)       output
    present_key_i      cache    (B, Hkv, S, D)  output, the same memory as past_key_i
    present_value_i    cache    (B, Hkv, S, D)  output, the same memory as past_value_i

Pipeline stages after the first take ``hidden_states_input`` (B, T, hidden) in place of ``input_ids``; stages before
the last give ``hidden_states_output`` in place of ``logits`` and take no ``logit_indices``.

Key j is visible to query i of row b iff ``j <= write_indices[b] + i`` (and, with a sliding window w,
``j > write_indices[b] + i - w``). K/V written by the padding of a short row lie past that row's length: never
visible, and overwritten by the row's next tokens. Slots that were never written must hold finite numbers, as
`torch.zeros` gives: a hidden key has weight 0, and 0 · NaN is NaN.

The paged form (``plugin_config.paged_kv_cache`` with ``gpt_attention_plugin``) packs the tokens of all rows and finds
their keys and values through block tables, so that no row pays for another's length (N new tokens in all, B rows,
M blocks a row at most, P blocks in the pool, bs tokens_per_block)::

    input_ids          int32    (N,)            a row's tokens stand together, in order
    position_ids       int32    (N,)            position of each token in its sequence: the cache slot it goes to
    token_rows         int32    (N,)            row of each token; -1 for padding, which writes nothing
    query_starts       int32    (B + 1,)        first token of each row in the packed order; the last entry is the end
    kv_lengths         int32    (B,)            tokens of the row after this run, the new ones included; 0 = empty row
    block_tables       int32    (B, M)          blocks of the row, in order; entries beyond kv_lengths are not read
    logit_indices      int32    (K,)            packed indices of the tokens whose logits are wanted
    kv_cache_i         cache    (P, 2, Hkv, bs, D)  the pool of a layer: keys at 0, values at 1
    logits             float32  (K, V)          output
    kv_cache_out_i     cache    (P, 2, Hkv, bs, D)  output, the same memory as kv_cache_i

Slot p of row r is offset ``p % bs`` of block ``block_tables[r, p // bs]``. Key j is visible to the token at position p
of the same row iff ``j <= p`` (and ``j > p - w``). Pipeline stages pass (N, hidden). A pool of int8 or float8_e4m3fn
holds ``x / kv_scale``, with the layer's scale of the checkpoint. Slots that no visible key lies in may hold anything,
NaN too. Padding tokens give finite numbers that nobody reads. Block 0 is nobody's: block managers never give it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..network.signature import TensorSpec

if TYPE_CHECKING:
    import torch

    from ..specs import BuildConfig, ModelConfig


__all__ = [
    "Availability",
    "BuildReporter",
    "Builder",
    "EngineDescription",
    "Executor",
    "QuietReporter",
    "Resolution",
    "TensorSpec",
    "engine_file_name",
]


@dataclass(frozen=True)
class Availability:
    """Whether a backend can be used here, and if not the sentence that says why."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class Resolution:
    """A build configuration whose ``auto`` values are settled for one backend.

    Attributes
    ----------
    build_config
        The configuration with every ``auto`` replaced by what will be done.
    notes
        One sentence for each choice made and for each option that this backend does not honour.
    """

    build_config: BuildConfig
    notes: list[str] = field(default_factory=list)


class BuildReporter(Protocol):
    """Where a builder tells what it is doing; calls come from the building thread."""

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """Return a context manager: the body is the phase `name` of the build."""

    def log(self, level: str, message: str) -> None:
        """Add a line to the build's log; `level` is one of debug, info, warning, error."""

    def check_cancelled(self) -> None:
        """Raise `BuildCancelled` when the owner wants the build to stop."""


class QuietReporter:
    """A reporter that keeps the log in memory and shows nothing."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.lines: list[tuple[str, str]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.phases.append(name)
        yield

    def log(self, level: str, message: str) -> None:
        self.lines.append((level, message))

    def check_cancelled(self) -> None:
        """Never cancelled."""


class EngineDescription(Protocol):
    """The part of an engine folder's config.json that a backend needs to load one rank."""

    @property
    def pretrained_config(self) -> ModelConfig: ...

    @property
    def build_config(self) -> BuildConfig: ...


@runtime_checkable
class Executor(Protocol):
    """One loaded engine of one rank: bind named tensors, run, read the outputs.

    Attributes
    ----------
    backend
        Name of the backend that made it.
    device
        Where bound tensors must live.
    io
        Every input and output; see the module's table.
    config
        The model, with this rank's mapping.
    guards_writes
        True (the default) makes `run` read ``write_indices`` and refuse a write past the cache's end. A caller that
        keeps the lengths itself may turn it off; on a GPU that saves a synchronisation a step.
    """

    backend: str
    device: torch.device
    io: tuple[TensorSpec, ...]
    config: ModelConfig
    guards_writes: bool

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        """Use `tensor` for `name` in the runs to come, without a copy; it must stay alive until unbound or replaced.

        Binding a cache input binds the output that aliases it. Every input, and ``logits``, must be bound to run.
        The same tensors may stay bound for many runs, changed in place in between.

        Raises
        ------
        EngineError
            For a name the engine does not have.
        RequestError
            For a wrong dtype, device, rank or fixed size, or memory that is not contiguous.
        """

    def run(self, stream: Any | None = None) -> None:
        """Run once over what is bound; on a GPU the work is queued on `stream` (None: the current one).

        Raises
        ------
        RequestError
            When something is unbound, sizes disagree, or new tokens would be written past the cache's capacity.
        EngineError
            When the backend itself fails.
        """

    def synchronize(self) -> None:
        """Wait until all queued runs are done."""

    def memory(self) -> dict[str, int]:
        """Return what the engine holds, in bytes: ``weights_bytes`` and what else the backend knows."""

    def close(self) -> None:
        """Let go of the engine and of everything bound; later calls raise `EngineError`."""


@runtime_checkable
class Builder(Protocol):
    """Makes and loads the engines of one backend."""

    backend: str

    def version(self) -> str:
        """Return the versions that an engine's validity depends on, for example ``"onnxruntime 1.31.1"``."""

    def available(self) -> Availability:
        """Say whether this backend can be used on this machine."""

    def machine_key(self) -> str:
        """Name the kind of machine an engine built here is good for, for example ``"x86_64 avx512"``."""

    def resolve(self, model_config: ModelConfig, build_config: BuildConfig) -> Resolution:
        """Settle every ``auto`` and say, in `notes`, what was chosen or cannot be honoured and why.

        Raises
        ------
        BuildError
            When the model or an option cannot be built at all by this backend.
        """

    def build(
        self, checkpoint_dir: Path, rank: int, build_config: BuildConfig, output_dir: Path, report: BuildReporter
    ) -> None:
        """Write ``rank{R}.engine`` and its side files into the existing folder `output_dir`.

        `build_config` is the resolved one. The folder is the caller's staging folder: nothing here is atomic.
        """

    def load(
        self, engine_dir: Path, rank: int, engine_config: EngineDescription, *, device: str | None = None
    ) -> Executor:
        """Load one rank; `device` None takes the backend's default. The folder was verified by the caller."""


def engine_file_name(rank: int) -> str:
    """Return the name of a rank's engine file in an engine folder."""
    return f"rank{rank}.engine"
