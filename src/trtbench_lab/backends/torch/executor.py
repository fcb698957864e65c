"""Runs the decoder's PyTorch modules eagerly over bound tensors, on a CPU or a CUDA device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

import torch

from ...errors import EngineError
from ...network.decoder import Decoder
from ...network.signature import TensorSpec, signature
from ...ranks import RankCommunicator
from ...specs import ModelConfig
from ..bindings import Bindings
from .pipeline import run_padded

AnyDecoder = TypeVar("AnyDecoder", bound=Decoder)


class DecoderExecutor(ABC, Generic[AnyDecoder]):
    """What executors over the decoder's modules have in common: see `backends.protocol.Executor`.

    Parameters
    ----------
    decoder
        With its weights on `device`.
    config
        The model as its checkpoint has it, with this rank's mapping.
    device
        Where it runs.
    io, bindings
        What the engine binds, and what holds it.
    weights_bytes
        Size of the weights, for `memory`.
    """

    backend = "torch"
    _smaller = "Use a smaller batch or a shorter prompt, or prefill in chunks."
    """What to do when the device runs out of memory."""

    def __init__(
        self,
        decoder: AnyDecoder,
        config: ModelConfig,
        device: torch.device,
        io: tuple[TensorSpec, ...],
        bindings: Bindings,
        *,
        weights_bytes: int,
    ):
        self.device = device
        self.config = config
        self.io = io
        self.guards_writes = True
        self._decoder: AnyDecoder | None = decoder.eval()
        self._bindings = bindings
        self._output = next(spec.name for spec in io if spec.mode == "output")
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
        on_stream = nullcontext() if stream is None or self.device.type == "cpu" else torch.cuda.stream(stream)
        try:
            with torch.inference_mode(), on_stream:
                tensors = self._bindings.tensors
                tensors[self._output].copy_(self._forward(decoder, tensors))
        except torch.OutOfMemoryError as error:
            raise EngineError(
                "The device ran out of memory.", where=str(self.device), remedy=self._smaller, details=str(error)
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
        found = {"weights_bytes": self._weights_bytes, "cache_bytes": self._cache_bytes()}
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

    @abstractmethod
    def _forward(self, decoder: AnyDecoder, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the decoder over the bound tensors and return its result."""

    @abstractmethod
    def _cache_bytes(self) -> int:
        """Bytes of the caches now bound."""

    def _open_decoder(self) -> AnyDecoder:
        if self._decoder is None:
            raise EngineError(
                "The engine is closed.", where=self.backend, remedy="Load it again with Engine.executor()."
            )
        return self._decoder


class TorchExecutor(DecoderExecutor[Decoder]):
    """The padded form.

    Parameters
    ----------
    decoder, config, device, weights_bytes
        See `DecoderExecutor`.
    dtype
        Type of the computation.
    ranks
        Passes hidden states between pipeline stages, which then take ids and have logits each; None where the caller
        passes them.
    """

    def __init__(
        self,
        decoder: Decoder,
        config: ModelConfig,
        device: torch.device,
        dtype: str,
        *,
        weights_bytes: int,
        ranks: RankCommunicator | None = None,
    ):
        self._ranks = ranks if ranks is not None and config.mapping.pp_size > 1 else None
        io = signature(config, config.mapping, dtype, joined=self._ranks is not None)
        bindings = Bindings(io, device, max_positions=decoder.max_positions, vocab_size=config.vocab_size)
        super().__init__(decoder, config, device, io, bindings, weights_bytes=weights_bytes)
        self._caches = [spec.name for spec in io if spec.name.startswith("past_")]
        self._first = next(spec.name for spec in io)

    def _forward(self, decoder: Decoder, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        if self._ranks is not None:
            return run_padded(self._ranks, decoder, tensors, [tensors[name] for name in self._caches])
        result, _ = decoder(
            tensors[self._first],
            tensors["write_indices"],
            tensors.get("logit_indices"),
            [tensors[name] for name in self._caches],
        )
        return result

    def _cache_bytes(self) -> int:
        return sum(tensor.nbytes for name, tensor in self._bindings.tensors.items() if name.startswith("past_"))
