"""Runs the decoder's PyTorch modules eagerly over bound tensors, on a CPU or a CUDA device."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from ...errors import EngineError
from ...network.decoder import Decoder
from ...network.signature import signature
from ...specs import ModelConfig
from ..bindings import Bindings


class TorchExecutor:
    """See `backends.protocol.Executor`.

    Parameters
    ----------
    decoder
        With its weights on `device`.
    config
        The model as its checkpoint has it, with this rank's mapping.
    device, dtype
        Where it runs, and the type of the computation.
    weights_bytes
        Size of the weights, for `memory`.
    """

    backend = "torch"

    def __init__(self, decoder: Decoder, config: ModelConfig, device: torch.device, dtype: str, *, weights_bytes: int):
        self.device = device
        self.config = config
        self.io = signature(config, config.mapping, dtype)
        self.guards_writes = True
        self._decoder: Decoder | None = decoder.eval()
        self._bindings = Bindings(self.io, device, max_positions=decoder.max_positions, vocab_size=config.vocab_size)
        self._caches = [spec.name for spec in self.io if spec.name.startswith("past_")]
        self._first = next(spec.name for spec in self.io)
        self._output = next(spec.name for spec in self.io if spec.mode == "output")
        self._weights_bytes = weights_bytes

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        """Bind a tensor on the engine's device; see the protocol."""
        self._open_decoder()
        self._bindings.bind(name, tensor)

    def run(self, stream: Any | None = None) -> None:
        """Run once over what is bound; on CUDA the work is queued on `stream` (a `torch.cuda.Stream`)."""
        decoder = self._open_decoder()
        self._bindings.sizes()
        if self.guards_writes:
            self._bindings.guard()
        tensors = self._bindings.tensors
        on_stream = nullcontext() if stream is None or self.device.type == "cpu" else torch.cuda.stream(stream)
        try:
            with torch.inference_mode(), on_stream:
                result, _ = decoder(
                    tensors[self._first],
                    tensors["write_indices"],
                    tensors.get("logit_indices"),
                    [tensors[name] for name in self._caches],
                )
                tensors[self._output].copy_(result)
        except torch.OutOfMemoryError as error:
            raise EngineError(
                "The device ran out of memory.",
                where=str(self.device),
                remedy="Use a smaller batch or a shorter prompt, or prefill in chunks.",
                details=str(error),
            ) from error
        except RuntimeError as error:
            raise EngineError(
                "PyTorch failed while running the engine.",
                where=str(self.device),
                remedy="Look at the details; a request within the engine's limits should never come here.",
                details=f"{type(error).__name__}: {error}",
            ) from error

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def memory(self) -> dict[str, int]:
        """Return the bytes of the weights and of the caches now bound, and on CUDA what the allocator holds."""
        cache = sum(tensor.nbytes for name, tensor in self._bindings.tensors.items() if name.startswith("past_"))
        found = {"weights_bytes": self._weights_bytes, "cache_bytes": cache}
        if self.device.type == "cuda":
            found["allocated_bytes"] = torch.cuda.memory_allocated(self.device)
            found["peak_allocated_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return found

    def modules(self) -> Decoder:
        """Return the decoder that runs, for whoever looks into its modules."""
        return self._open_decoder()

    def close(self) -> None:
        """Free the weights and everything bound."""
        self._decoder = None
        self._bindings.clear()

    def _open_decoder(self) -> Decoder:
        if self._decoder is None:
            raise EngineError(
                "The engine is closed.", where=self.backend, remedy="Load it again with Engine.executor()."
            )
        return self._decoder
