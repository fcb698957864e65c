"""Runs the decoder over packed tokens and a paged cache, on a CPU or a CUDA device, and offers fused sessions."""

from __future__ import annotations

import torch

from ...network.decoder import Decoder
from ...network.loading import assign_tensors
from ...network.paged import PagedDecoder
from ...network.signature import paged_signature
from ...ranks import RankCommunicator
from ...specs import BuildConfig, ModelConfig
from ..paged_bindings import PagedBindings
from .executor import DecoderExecutor, TorchExecutor
from .gpu.kernel_store import KernelStore
from .gpu.lowered import LoweredModel, lower
from .gpu.memory_plan import CachePlan, plan_cache
from .gpu.session import FusedSession
from .gpu.step import Steps
from .gpu.tuning import ChoiceTable
from .pipeline import run_paged
from .staged_session import StagedSession

_INDICES = ("position_ids", "token_rows", "query_starts", "kv_lengths", "block_tables")


class PagedTorchExecutor(DecoderExecutor[PagedDecoder]):
    """The paged form, and sessions of fused steps over it.

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
    ranks
        The other ranks, for an engine of several.
    """

    _smaller = "Use a smaller batch, shorter pieces of prompts (max_num_tokens), or a smaller kv_cache_memory."

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
        ranks: RankCommunicator | None = None,
    ):
        form = decoder.form
        self._ranks = ranks
        self._staged = ranks if ranks is not None and config.mapping.pp_size > 1 else None
        io = paged_signature(
            config,
            config.mapping,
            dtype,
            tokens_per_block=form.tokens_per_block,
            cache_dtype=form.cache_dtype,
            joined=self._staged is not None,
        )
        bindings = PagedBindings(io, device, max_positions=decoder.max_positions, vocab_size=config.vocab_size)
        super().__init__(decoder, config, device, io, bindings, weights_bytes=weights_bytes)
        self.build_config = build_config
        self._pools = [spec.name for spec in io if spec.name.startswith("kv_cache_") and spec.mode == "input"]
        self._table, self._store = table, store
        self._lowered: LoweredModel | None = None
        self._session: FusedSession | StagedSession | None = None

    def close(self) -> None:
        """Free the weights, the pool, the graphs and everything bound."""
        self.drop_session()
        self._lowered = None
        super().close()

    def _forward(self, decoder: PagedDecoder, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        if self._staged is not None:
            return run_paged(self._staged, decoder, tensors, [tensors[name] for name in self._pools])
        result, _ = decoder(
            tensors["input_ids"],
            *(tensors[name] for name in _INDICES),
            tensors["logit_indices"],
            [tensors[name] for name in self._pools],
        )
        return result

    def _cache_bytes(self) -> int:
        # An output is bound to its input's memory: it counts once.
        bound = {t.data_ptr(): t.nbytes for n, t in self._bindings.tensors.items() if n.startswith("kv_cache_")}
        return sum(bound.values())

    # ---- the fast way ------------------------------------------------------------------------------------------

    def steps(self) -> Steps:
        """Return the lowered decoder, which shares this executor's weights."""
        decoder = self._open_decoder()
        if self._lowered is None:
            self._lowered = lower(decoder)
        plugins = self.build_config.plugin_config
        choose = self._table.choose if plugins.enabled("gemm_plugin") else self._table.choose_without_gemm
        return Steps(self._lowered, choose, self._store, multi_block_mode=plugins.multi_block_mode)

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

    @property
    def generates_from_pages(self) -> bool:
        """Whether static batches are for `fused_session`.

        Stages of a pipeline go quicker over the padded form, whose cache is never rounded: theirs is for rounded keys.
        """
        return self._staged is None or self.config.quantization.kv_cache_quant_algo is not None

    def fused_session(self) -> FusedSession | StagedSession:
        """Return the session for static batches, one an executor; its pool is allocated with the first request."""
        build = self.build_config
        if self._session is None and self._staged is not None:
            self._session = StagedSession(
                self,
                self._staged,
                self.cache_plan(),
                max_rows=build.max_batch_size,
                max_tokens=build.resolved_max_seq_len(self.config),
                max_num_tokens=build.max_num_tokens,
            )
        if self._session is None:
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
            plain = Decoder(
                config, config.mapping, max_positions=decoder.max_positions, communicator=decoder.communicator
            )
        wanted = {name for name, _ in [*plain.named_parameters(), *plain.named_buffers()]}
        held = [*decoder.named_parameters(), *decoder.named_buffers()]
        assign_tensors(plain, {name: tensor.data for name, tensor in held if name in wanted})
        dtype = next(spec.dtype for spec in self.io if spec.name == "logits")
        dtype = self.build_config.compute_dtype if self.build_config.compute_dtype != "auto" else dtype
        return TorchExecutor(plain, config, self.device, dtype, weights_bytes=self._weights_bytes, ranks=self._ranks)
