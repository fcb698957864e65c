"""Runs an engine of the paged form with ONNX Runtime: the plugins' functions over pools that are bound in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...network.signature import TensorSpec
from ...specs import ModelConfig
from ..paged_bindings import PagedBindings
from .executor import OnnxRuntimeExecutor


class PagedOnnxRuntimeExecutor(OnnxRuntimeExecutor):
    """See `backends.protocol.Executor`; the tensors are those of the paged form.

    Parameters are those of `OnnxRuntimeExecutor`, for one session.
    """

    def __init__(
        self,
        session: Any,
        io: Sequence[TensorSpec],
        config: ModelConfig,
        *,
        max_positions: int,
        weights_bytes: int,
        network_files: Sequence[Path] = (),
    ):
        super().__init__(
            session,
            io,
            config,
            max_positions=max_positions,
            chunks_row_by_row=False,
            weights_bytes=weights_bytes,
            network_files=network_files,
        )
        self._bindings = PagedBindings(io, self.device, max_positions=max_positions, vocab_size=config.vocab_size)

    def run(self, stream: Any | None = None) -> None:
        """Run once; returns when the outputs are written. `stream` means nothing on a CPU."""
        self._check_open()
        self._bindings.sizes()
        if self.guards_writes:
            self._bindings.guard()
        self._run(0, self._io_bindings[0])

    def memory(self) -> dict[str, int]:
        """Return the bytes of the weights and of the pools now bound."""
        pools = sum(tensor.nbytes for name, tensor in self._bindings.tensors.items() if name.startswith("kv_cache_"))
        return {"weights_bytes": self._weights_bytes, "cache_bytes": pools}
