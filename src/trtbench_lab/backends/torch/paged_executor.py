"""Runs the decoder over packed tokens and a paged cache, on a CPU or a CUDA device, and offers fused sessions."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from ...errors import EngineError
from ...network.decoder import Decoder
from ...network.loading import assign_tensors
from ...network.paged import PagedDecoder
from ...network.signature import paged_signature
from ...specs import BuildConfig, ModelConfig
from ..paged_bindings import PagedBindings
from .executor import TorchExecutor
from .gpu.kernel_store import KernelStore
from .gpu.lowered import LoweredModel, lower
from .gpu.memory_plan import CachePlan, plan_cache
from .gpu.session import FusedSession
from .gpu.step import Steps
from .gpu.tuning import ChoiceTable

_INDICES = ("position_ids", "token_rows", "query_starts", "kv_lengths", "block_tables")


class PagedTorchExecutor:
    """See `backends.protocol.Executor`; the tensors are those of the paged form.

    Parameters
    ----------
    decoder
        With its weights on `device`.
    config
        The model as its checkpoint has it.
    build_config
        The engine's resolved options.
    device, dtype
        Where it runs, and the type of the computation.
    weights_bytes
        Size of the weights, for `memory`.
    table
        Which kernel computes each product.
    store
        Kernels that were compiled with the engine.
    """

    backend = "torch"

    def __init__(
        self,
        decoder: PagedDecoder,
        config: ModelConfig,
        build_config: BuildConfig,
        device: torch.device,
        dtype: str,
        *,
        weights_bytes: int,
        table: ChoiceTable,
        store: KernelStore,
    ):
        self.device, self.config, self.build_config = device, config, build_config
        form = decoder.form
        self.io = paged_signature(
            config, config.mapping, dtype, tokens_per_block=form.tokens_per_block, cache_dtype=form.cache_dtype
        )
        self.guards_writes = True
        self._decoder: PagedDecoder | None = decoder.eval()
        self._bindings = PagedBindings(
            self.io, device, max_positions=decoder.max_positions, vocab_size=config.vocab_size
        )
        self._pools = [spec.name for spec in self.io if spec.name.startswith("kv_cache_") and spec.mode == "input"]
        self._output = next(spec.name for spec in self.io if spec.mode == "output")
        self._weights_bytes = weights_bytes
        self._table, self._store = table, store
        self._lowered: LoweredModel | None = None
        self._session: FusedSession | None = None

    # ---- the protocol -----------------------------------------------------------------------------------------

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        """Bind a tensor on the engine's device; see the protocol."""
        self._open_decoder()
        self._bindings.bind(name, tensor)

    def run(self, stream: Any | None = None) -> None:
        """Run once over what is bound; on CUDA the work is queued on `stream` (a `torch.cuda.Stream`)."""
        decoder = self._open_decoder()
        self._bindings.sizes()
        tensors = self._bindings.tensors
        if self.guards_writes:
            self._bindings.guard()
        on_stream = nullcontext() if stream is None or self.device.type == "cpu" else torch.cuda.stream(stream)
        try:
            with torch.inference_mode(), on_stream:
                result, _ = decoder(
                    tensors["input_ids"],
                    *(tensors[name] for name in _INDICES),
                    tensors["logit_indices"],
                    [tensors[name] for name in self._pools],
                )
                tensors[self._output].copy_(result)
        except torch.OutOfMemoryError as error:
            raise EngineError(
                "The device ran out of memory.",
                where=str(self.device),
                remedy="Use a smaller batch, shorter pieces of prompts (max_num_tokens), or a smaller kv_cache_memory.",
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
        """Return the bytes of the weights and of the pools now bound, and on CUDA what the allocator holds."""
        bound = {t.data_ptr(): t.nbytes for n, t in self._bindings.tensors.items() if n.startswith("kv_cache_")}
        found = {"weights_bytes": self._weights_bytes, "cache_bytes": sum(bound.values())}
        if self.device.type == "cuda":
            found["allocated_bytes"] = torch.cuda.memory_allocated(self.device)
            found["peak_allocated_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return found

    def modules(self) -> Decoder:
        """Return the decoder that runs, for whoever looks into its modules."""
        return self._open_decoder()

    def close(self) -> None:
        """Free the weights, the pool, the graphs and everything bound."""
        if self._session is not None:
            self._session.close()
        self._decoder = self._lowered = self._session = None
        self._bindings.clear()

    # ---- the fast way ------------------------------------------------------------------------------------------

    def steps(self) -> Steps:
        """Return the lowered decoder, which shares this executor's weights."""
        decoder = self._open_decoder()
        if self._lowered is None:
            self._lowered = lower(decoder)
        mode = self.build_config.plugin_config.multi_block_mode
        return Steps(self._lowered, self._table.choose, self._store, multi_block_mode=mode)

    def use_choices(self, table: ChoiceTable) -> None:
        """Compute products as `table` says from now on."""
        self._table = table
        self.drop_session()

    def use_store(self, store: KernelStore) -> None:
        """Look for compiled kernels in `store`, and keep new ones there, from now on."""
        self._store = store
        self.drop_session()

    def drop_session(self) -> None:
        """Free the session's pool and graphs; the next use makes them anew."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def cache_plan(self) -> CachePlan:
        """Settle the pool for the memory that is free now; nothing is allocated."""
        plugins = self.build_config.plugin_config
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
            free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        else:
            free = 1 << 62
        return plan_cache(self.config, self.build_config, free, contiguous=not plugins.paged_kv_cache)

    def fused_session(self) -> FusedSession:
        """Return the session for static batches, one an executor; its pool is allocated with the first request."""
        if self._session is None:
            build = self.build_config
            self._session = FusedSession(
                self.steps(),
                self.cache_plan(),
                max_rows=build.max_batch_size,
                max_tokens=build.resolved_max_seq_len(self.config),
                max_num_tokens=build.max_num_tokens,
            )
        return self._session

    def padded(self) -> TorchExecutor:
        """Return an executor of the padded form over the same weights, for what the fused session does not offer."""
        decoder = self._open_decoder()
        config = self.config
        if config.quantization.kv_cache_quant_algo is not None:
            config = config.replace(quantization=config.quantization.replace(kv_cache_quant_algo=None))
        with torch.device("meta"):
            plain = Decoder(config, config.mapping, max_positions=decoder.max_positions)
        wanted = {name for name, _ in [*plain.named_parameters(), *plain.named_buffers()]}
        held = [*decoder.named_parameters(), *decoder.named_buffers()]
        assign_tensors(plain, {name: tensor.data for name, tensor in held if name in wanted})
        dtype = next(spec.dtype for spec in self.io if spec.name == "logits")
        dtype = self.build_config.compute_dtype if self.build_config.compute_dtype != "auto" else dtype
        return TorchExecutor(plain, config, self.device, dtype, weights_bytes=self._weights_bytes)

    def _open_decoder(self) -> PagedDecoder:
        if self._decoder is None:
            raise EngineError(
                "The engine is closed.", where=self.backend, remedy="Load it again with Engine.executor()."
            )
        return self._decoder
