"""Runs an engine with ONNX Runtime: torch tensors are bound where they lie, and the cache is updated in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import EngineError
from ...network.signature import BATCH, LENGTH, TensorSpec
from ...specs import ModelConfig
from ..bindings import Bindings

MANY_TOKENS = 16
"""New tokens of a run from which on the prompt network is the quicker one."""
_NUMPY_NAMES = {name: name for name in ("int32", "int64", "float32", "float16", "int8")}


class OnnxRuntimeExecutor:
    """See `backends.protocol.Executor`.

    Parameters
    ----------
    session
        A loaded session.
    io, config
        What the engine binds; the model.
    max_positions
        Positions that the engine's tables reach.
    chunks_row_by_row
        Whether several rows that each add several tokens to a begun sequence are run one after the other, because the
        engine's attention kernel takes such tokens for one row only.
    weights_bytes
        Size of the weights, for `memory`.
    prompt_session
        A second network of the same model for runs of `MANY_TOKENS` or more; None leaves all to the first.
    network_files
        The ONNX files of the sessions, in order.
    """

    backend = "onnxruntime"

    def __init__(
        self,
        session: Any,
        io: Sequence[TensorSpec],
        config: ModelConfig,
        *,
        max_positions: int,
        chunks_row_by_row: bool,
        weights_bytes: int,
        prompt_session: Any | None = None,
        network_files: Sequence[Path] = (),
    ):
        import numpy as np

        self.device = torch.device("cpu")
        self.io = tuple(io)
        self.config = config
        self.guards_writes = True
        self.network_files = tuple(network_files)
        self._sessions: list[Any] = [session] if prompt_session is None else [session, prompt_session]
        self._io_bindings = [each.io_binding() for each in self._sessions]
        self._bindings = Bindings(io, self.device, max_positions=max_positions, vocab_size=config.vocab_size)
        self._weights_bytes = weights_bytes
        self._chunks_row_by_row = chunks_row_by_row
        self._types = {spec.name: np.dtype(_NUMPY_NAMES[spec.dtype]).type for spec in io}
        self._bound: dict[str, tuple[int, tuple[int, ...]]] = {}

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        """Bind a CPU tensor to an input or output; see the protocol."""
        self._check_open()
        spec = self._bindings.bind(name, tensor)
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if spec.aliases is not None or self._bound.get(name) == place:
            return
        self._bound[name] = place
        if spec.mode == "output":
            self._bind_output(name, place)
            return
        for binding in self._io_bindings:
            binding.bind_input(name, "cpu", 0, self._types[name], list(place[1]), place[0])
        if output := self._bindings.alias_of(name):
            self._bind_output(output, place)

    def run(self, stream: Any | None = None) -> None:
        """Run once; returns when the outputs are written. `stream` means nothing on a CPU."""
        self._check_open()
        sizes = self._bindings.sizes()
        if self.guards_writes:
            self._bindings.guard()
        several = sizes[BATCH] > 1 and sizes[LENGTH] > 1
        if several and self._chunks_row_by_row and bool(self._bindings.tensors["write_indices"].any()):
            for row in range(sizes[BATCH]):
                which = self._which(sizes[LENGTH])
                self._run(which, self._binding_of_row(which, row))
        else:
            which = self._which(sizes[BATCH] * sizes[LENGTH])
            self._run(which, self._io_bindings[which])

    def synchronize(self) -> None:
        """Nothing to wait for: `run` returns when it is done."""

    def memory(self) -> dict[str, int]:
        """Return the bytes of the weights (pages of the engine's file) and of the caches now bound."""
        cache = sum(tensor.nbytes for name, tensor in self._bindings.tensors.items() if name.startswith("past_"))
        return {"weights_bytes": self._weights_bytes, "cache_bytes": cache}

    def end_profiling(self) -> dict[Path, Path]:
        """Stop recording, where the engine was loaded with a `profile_prefix`; return network file → profile."""
        self._check_open()
        profiles = [Path(session.end_profiling()) for session in self._sessions]
        return dict(zip(self.network_files, profiles, strict=True))

    def close(self) -> None:
        """Free the session and everything bound."""
        self._sessions, self._io_bindings = [], []
        self._bindings.clear()
        self._bound.clear()

    def _which(self, num_tokens: int) -> int:
        """Return the session for a run of so many new tokens."""
        return len(self._sessions) - 1 if num_tokens >= MANY_TOKENS else 0

    def _run(self, which: int, binding: Any) -> None:
        try:
            self._sessions[which].run_with_iobinding(binding)
        except Exception as error:  # see open_session
            raise EngineError(
                "ONNX Runtime failed while running the engine.",
                where=self.backend,
                remedy="Look at the details; a request within the engine's limits should never come here.",
                details=f"{type(error).__name__}: {error}",
            ) from error

    def _binding_of_row(self, which: int, row: int) -> Any:
        """Bind one row of everything: rows lie one after the other, so each is a tensor of its own."""
        binding = self._sessions[which].io_binding()
        for name, tensor in self._bindings.tensors.items():
            part = tensor[row : row + 1]
            shape, place = list(part.shape), part.data_ptr()
            if self._bindings.specs[name].mode == "output":
                binding.bind_output(name, "cpu", 0, self._types[name], shape, place)
                continue
            binding.bind_input(name, "cpu", 0, self._types[name], shape, place)
            if output := self._bindings.alias_of(name):
                binding.bind_output(output, "cpu", 0, self._types[output], shape, place)
        return binding

    def _bind_output(self, name: str, place: tuple[int, tuple[int, ...]]) -> None:
        for binding in self._io_bindings:
            binding.bind_output(name, "cpu", 0, self._types[name], list(place[1]), place[0])

    def _check_open(self) -> None:
        if not self._sessions:
            raise EngineError(
                "The engine is closed.", where=self.backend, remedy="Load it again with Engine.executor()."
            )
