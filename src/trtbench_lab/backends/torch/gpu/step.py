"""One step of the lowered decoder: decode (one token a row) or packed (pieces of prompts, decode rows in front)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ....plugins.matmul.choice import Choice
from ....plugins.matmul.launch import Workspace
from . import attention, ops
from .attention import Heads, PromptRows, Scratch
from .kernel_store import KernelStore
from .lowered import LayerWeights, LoweredModel, Product

Chooser = Callable[[str, Product, int], Choice]
"""Name of a product (``"qkv"``, ``"dense"``, ``"fc"``, ``"proj"``, ``"head"``), itself, tokens → how to compute it."""
Mark = Callable[[str], AbstractContextManager[object]]
"""The main module of a fused step, ``"transformer.layers.0.attention.qkv"`` → what it runs within."""
_UNMARKED = nullcontext()


def _unmarked(name: str) -> AbstractContextManager[object]:
    return _UNMARKED


@dataclass
class PackedStep:
    """The inputs of a packed step, on the device.

    Attributes
    ----------
    input_ids, position_ids, token_rows
        (N,) int32.
    block_tables
        (B, M) int32.
    logit_indices
        (K,) int32 or int64.
    num_decode
        The first tokens are one token each of rows 0, 1, …; the rest are pieces of prompts.
    prompts
        The rows from `num_decode` on; starts count from token `num_decode`. None where there are none.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    token_rows: torch.Tensor
    block_tables: torch.Tensor
    logit_indices: torch.Tensor
    num_decode: int
    prompts: PromptRows | None


class Steps:
    """Runs steps of one lowered model over pools that the caller owns.

    Parameters
    ----------
    model
        Weights on the device.
    choose
        Says how each product is computed.
    store
        Where compiled kernels are kept; None leaves that to Triton.
    multi_block_mode
        Whether the keys of a row are split over programs: ``"auto"``, ``"enable"`` or ``"disable"``.

    Attributes
    ----------
    mark
        What each fused step runs within, by the name of its main module: profilers put their marks here.
    """

    def __init__(
        self,
        model: LoweredModel,
        choose: Chooser,
        store: KernelStore | None = None,
        *,
        multi_block_mode: str = "auto",
    ) -> None:
        self.model, self.choose, self.multi_block_mode = model, choose, multi_block_mode
        self.store = store or KernelStore()
        self.heads = Heads.of(model.config)
        self.workspace = Workspace(model.device)
        self.mark: Mark = _unmarked

    def scratch(self, rows: int, max_tokens: int) -> Scratch:
        """Return the decode kernel's memory for `rows` rows of up to `max_tokens` tokens."""
        device = self.model.device
        processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
        tiles = attention.decode_tiles(rows, self.heads, max_tokens, processors, self.multi_block_mode)
        return attention.decode_scratch(rows, self.heads, tiles, device)

    def decode(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        tables: torch.Tensor,
        pools: Sequence[torch.Tensor],
        scratch: Scratch,
        logits: torch.Tensor | None = None,
        workspace: Workspace | None = None,
        *,
        early: bool = False,
    ) -> torch.Tensor:
        """One new token a row → logits (B, V) float32, in `logits` where that is given.

        Parameters
        ----------
        ids, positions
            (B,) int32; position −1 marks an empty row, whose logits mean nothing.
        tables
            (B, M) int32.
        pools
            One (P, 2, Hkv, block, D) a layer.
        workspace
            Memory of split products; a graph must keep its own, since it stays at the addresses it was captured with.
        early
            See `attention.decode`.
        """
        model = self.model
        work = workspace or self.workspace
        x = self._embedded(ids, positions)
        for number, (layer, pool) in enumerate(zip(model.layers, pools, strict=True)):
            with self._at(number, "attention.qkv"):
                qkv = self._product("qkv", x, layer.qkv, work, norm=layer.input_norm)
            with self._at(number, "attention"):
                context = attention.decode(
                    qkv,
                    pool,
                    model.cos,
                    model.sin,
                    positions,
                    tables,
                    self.heads,
                    scratch,
                    kv_scale=layer.kv_scale,
                    early=early,
                )
            x = self._rest_of_layer(x, context, number, work)
        return self._logits(x, work, logits)

    def packed(self, step: PackedStep, pools: Sequence[torch.Tensor], scratch: Scratch | None) -> torch.Tensor:
        """Pieces of prompts, with decode rows in front → logits (K, V) float32 of the wanted tokens."""
        model, work = self.model, self.workspace
        x = self._embedded(step.input_ids, step.position_ids)
        wanted = step.logit_indices.long()
        last = len(model.layers) - 1
        for number, (layer, pool) in enumerate(zip(model.layers, pools, strict=True)):
            with self._at(number, "attention.qkv"):
                qkv = self._product("qkv", x, layer.qkv, work, norm=layer.input_norm)
            with self._at(number, "attention"):
                context = self._attend(qkv, pool, step, scratch, layer)
            if number == last:  # nothing after the last attention is wanted of the other tokens
                context, x = context[wanted], x[wanted]
            x = self._rest_of_layer(x, context, number, work)
        return self._logits(x, work)

    def _attend(
        self, qkv: torch.Tensor, pool: torch.Tensor, step: PackedStep, scratch: Scratch | None, layer: LayerWeights
    ) -> torch.Tensor:
        model, split, pieces = self.model, step.num_decode, []
        if split:
            assert scratch is not None, "decode rows need scratch memory"  # noqa: S101
            pieces.append(
                attention.decode(
                    qkv[:split],
                    pool,
                    model.cos,
                    model.sin,
                    step.position_ids[:split],
                    step.block_tables[:split],
                    self.heads,
                    scratch,
                    kv_scale=layer.kv_scale,
                )
            )
        if step.prompts is not None:
            pieces.append(
                attention.prompt(
                    qkv[split:],
                    pool,
                    model.cos,
                    model.sin,
                    step.position_ids[split:],
                    step.token_rows[split:],
                    step.block_tables,
                    step.prompts,
                    self.heads,
                    kv_scale=layer.kv_scale,
                )
            )
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _rest_of_layer(self, x: torch.Tensor, context: torch.Tensor, number: int, work: Workspace) -> torch.Tensor:
        layer = self.model.layers[number]
        with self._at(number, "attention.dense"):
            x = self._added("dense", context, layer.dense, work, x)
        then: dict[str, object] = {"act": self.model.activation, "reader": layer.proj.inputs}
        with self._at(number, "mlp.fc"):
            wide = self._product("fc", x, layer.fc, work, norm=layer.post_norm, **then)
        with self._at(number, "mlp.proj"):
            return self._added("proj", wide, layer.proj, work, x)

    def _at(self, number: int, part: str) -> AbstractContextManager[object]:
        return self.mark(f"transformer.layers.{number}.{part}")

    def _embedded(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with self.mark("transformer.vocab_embedding"):
            return self._embed(ids, positions)

    def _embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        model = self.model
        if model.split_embedding is None:
            return ops.embed(ids, positions, model.embedding, model.position_embedding)
        x = model.split_embedding.vocab_embedding(ids.long())
        if model.position_embedding is None:
            return x  # type: ignore[no-any-return]
        return x + model.split_embedding.position_embedding(positions.clamp_min(0).long())  # type: ignore[no-any-return]

    def _added(
        self, name: str, x: torch.Tensor, product: Product, work: Workspace, residual: torch.Tensor
    ) -> torch.Tensor:
        """Return ``residual`` + the product, which is a sum over the ranks where there are several."""
        ranks = self.model.ranks
        if ranks is None:
            return self._product(name, x, product, work, residual=residual)
        return ranks.reduce_add(self._product(name, x, product, work), residual)

    def _logits(self, x: torch.Tensor, work: Workspace, out: torch.Tensor | None = None) -> torch.Tensor:
        with self.mark("lm_head"):
            return self._head(x, work, out)

    def _head(self, x: torch.Tensor, work: Workspace, out: torch.Tensor | None) -> torch.Tensor:
        model = self.model
        head, norm = model.head, model.final_norm
        if model.ranks is not None:
            part = torch.empty(x.shape[0], head.weights.out_features, device=x.device)
            self._product("head", x, head, work, norm=norm, out=part)
            whole = model.ranks.all_gather(part, -1)  # (K, V); every rank has the same bits
            return whole if out is None else out.copy_(whole)
        out = torch.empty(x.shape[0], model.vocab_size, device=x.device) if out is None else out
        return self._product("head", x, head, work, norm=norm, out=out)

    def _product(
        self, name: str, x: torch.Tensor, product: Product, work: Workspace, **keywords: object
    ) -> torch.Tensor:
        choice = self.choose(name, product, x.shape[0])
        if product.partner is None:
            return ops.linear(x, product, choice, work, **keywords)  # type: ignore[arg-type]
        act, norm = keywords["act"], keywords["norm"]
        y = ops.linear(x, product, choice, work, act=act, norm=norm)  # type: ignore[arg-type]
        choice = self.choose(name, product.partner, x.shape[0])
        return y.mul_(ops.linear(x, product.partner, choice, work, norm=norm))  # type: ignore[arg-type]


def library_only(name: str, product: Product, tokens: int) -> Choice:
    """A chooser that leaves every product to the library."""
    return Choice("library")
