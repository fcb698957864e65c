"""The decoder: every family's network, from the traits of its `ModelConfig`.

Parameter names equal checkpoint tensor names. A rank of a pipeline holds its own layers, numbered from 0, as its
checkpoint file does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import SpecError
from ..plugins.matmul.plugins import GEMM
from ..quantization.linear_kinds import LinearForm, kind_of
from ..specs import Mapping, ModelConfig, PluginConfig
from . import ops
from .attention import Attention, StepContext
from .communicator import Communicator, SingleRank
from .embedding import Embedding
from .linear import Linear
from .mlp import ACTIVATIONS, Mlp
from .norm import NORMS, Norm
from .rotary import inverse_frequencies, rotary_tables
from .signature import kv_heads_per_rank

POSITIONS = ("learned_absolute", "rope_gpt_neox", "rope_gptj")
_PLUGIN_OF = {
    None: "gemm_plugin",
    LinearForm.CHANNELS: "weight_only_quant_matmul_plugin",
    LinearForm.GROUPS: "weight_only_groupwise_quant_matmul_plugin",
    LinearForm.INT8: "smooth_quant_gemm_plugin",
    LinearForm.FP8: "gemm_plugin",
}
"""Form of a linear layer → the option that has it computed by a plugin."""


class DecoderLayer(nn.Module):
    """Norm → attention → add → norm → MLP → add.

    With the norm's plugin, the last sum is left to the norm that follows: the layer takes and gives the two addends.
    """

    def __init__(self, input_layernorm: Norm, attention: nn.Module, post_layernorm: Norm, mlp: Mlp):
        super().__init__()
        self.input_layernorm, self.attention = input_layernorm, attention
        self.post_layernorm, self.mlp = post_layernorm, mlp

    def forward(self, x: Hidden, step: Any, *past: torch.Tensor) -> tuple[Any, ...]:
        """Return the hidden state and the layer's caches, which `past` are; `step` is what `attention` takes."""
        normed, residual = x.normed(self.input_layernorm)
        attended, *present = self.attention(normed, step, *past)
        normed, residual = self.post_layernorm.after_sum(attended, residual)
        added = self.mlp(normed)
        fused = self.post_layernorm.use_plugin
        return (Hidden(residual, added) if fused else Hidden(residual + added)), *present


@dataclass(frozen=True)
class Hidden:
    """A hidden state, possibly as a sum that nobody has computed yet.

    Attributes
    ----------
    residual
        (B, T, hidden).
    added
        The other addend, or None.
    """

    residual: torch.Tensor
    added: torch.Tensor | None = None

    def normed(self, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the state's norm, and the state."""
        if self.added is None:
            return norm(self.residual), self.residual
        return norm.after_sum(self.added, self.residual)

    def summed(self) -> torch.Tensor:
        """Return the state."""
        return self.residual if self.added is None else self.residual + self.added

    def at(self, indices: torch.Tensor) -> Hidden:
        """Return the state of some tokens, see `ops.select_tokens`."""
        added = None if self.added is None else ops.select_tokens(self.added, indices)
        return Hidden(ops.select_tokens(self.residual, indices), added)


class Decoder(nn.Module):
    """One rank's part of a decoder-only model.

    Parameters
    ----------
    config
        The model.
    mapping
        The rank; None takes the configuration's own.
    max_positions
        Positions that an engine can reach, which sizes the rotary tables; None takes the model's own limit.
    communicator
        Collectives of the tensor-parallel group; None is right for one rank.
    num_layers
        Make only the rank's first layers; export does so and repeats them. None makes all.
    plugin_config
        Which parts are computed with plugins; None uses none.

    Raises
    ------
    SpecError
        For a trait that the network does not have.
    """

    paged = False

    def __init__(
        self,
        config: ModelConfig,
        mapping: Mapping | None = None,
        *,
        max_positions: int | None = None,
        communicator: Communicator | None = None,
        num_layers: int | None = None,
        plugin_config: PluginConfig | None = None,
    ):
        super().__init__()
        check_supported(config, paged=self.paged)
        self.config, self.plugin_config = config, plugin_config
        self.mapping = mapping or config.mapping
        self.communicator: Communicator = communicator or SingleRank()
        self.max_positions = max_positions or config.max_position_embeddings
        self.learned_positions = config.position_embedding_type == "learned_absolute"

        self.transformer = nn.Module()
        if self.mapping.is_first_pp_rank:
            self.transformer.vocab_embedding = self._embedding(config.vocab_size)
            if self.learned_positions:
                self.transformer.position_embedding = self._embedding(config.max_position_embeddings)
        layers = self.mapping.pp_layers(config.num_hidden_layers)[:num_layers]
        self.transformer.layers = nn.ModuleList([self._layer(number) for number in layers])
        if self.mapping.is_last_pp_rank:
            self.transformer.ln_f = self._norm()
            if not config.share_embedding_table:
                rows = config.padded_vocab_size(self.mapping.tp_size) // self.mapping.tp_size
                self.lm_head = self._linear("lm_head", config.hidden_size, rows, bias=False)
        for name, table in self.rotary_tables().items():
            self.register_buffer(name, table.to(torch.get_default_device()), persistent=False)

    def rotary_tables(self) -> dict[str, torch.Tensor]:
        """Return the tables that are computed rather than read: none, or ``rotary_cos`` and ``rotary_sin``, float32."""
        config = self.config
        if not config.uses_rope:
            return {}
        cos, sin = rotary_tables(config.rotary_dim, config.rotary_base, config.rotary_scaling, self.max_positions)
        return {"rotary_cos": cos, "rotary_sin": sin}

    def forward(
        self,
        tokens: torch.Tensor,
        write_indices: torch.Tensor,
        logit_indices: torch.Tensor | None,
        caches: list[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Run T new tokens a row.

        Parameters
        ----------
        tokens
            (B, T) int64 token ids; on later pipeline stages (B, T, hidden) hidden states.
        write_indices
            (B,) int64: tokens of each row already in the cache.
        logit_indices
            (B, K) int64 positions within T whose logits are wanted; None on stages before the last.
        caches
            past_key_0, past_value_0, past_key_1, … each (B, Hkv, S, D), changed in place when run eagerly.

        Returns
        -------
        logits (B, K, V) float32, or hidden states (B, T, hidden) before the last stage; and the caches.
        """
        positions = ops.token_positions(tokens, write_indices)  # (B, T)
        mask = ops.visible_keys(positions, caches[0], self.config.sliding_window)  # (B, 1, T, S)
        # Padding at a row's end may lie beyond the tables; it takes the last position, and nobody reads its result.
        positions = positions.clamp_max(self.max_positions - 1)
        x = tokens
        if self.mapping.is_first_pp_rank:
            x = self.transformer.vocab_embedding(tokens)  # (B, T, hidden)
            if self.learned_positions:
                x = x + self.transformer.position_embedding(positions)
        cos = sin = None
        if self.config.uses_rope:
            cos, sin = F.embedding(positions, self.rotary_cos), F.embedding(positions, self.rotary_sin)  # (B, T, R)
        step = StepContext(write_indices, mask, cos, sin)
        presents = []
        hidden = Hidden(x)
        for number, layer in enumerate(self.transformer.layers):
            hidden, key, value = layer(hidden, step, caches[2 * number], caches[2 * number + 1])
            presents += [key, value]
        if not self.mapping.is_last_pp_rank or logit_indices is None:
            return hidden.summed(), presents
        return self._logits(hidden.at(logit_indices)), presents

    def _logits(self, hidden: Hidden) -> torch.Tensor:
        x, _ = hidden.normed(self.transformer.ln_f)  # (B, K, hidden)
        if self.config.share_embedding_table:
            weight = self.transformer.vocab_embedding.weight
            logits = GEMM(x, weight) if self._uses("gemm_plugin") else ops.linear(x, weight, None)
        else:
            logits = self.lm_head(x)
        logits = self.communicator.all_gather(logits, -1)
        if logits.shape[-1] != self.config.vocab_size:
            logits = logits[..., : self.config.vocab_size]
        return logits if logits.dtype == torch.float32 else logits.float()

    def _layer(self, number: int) -> DecoderLayer:
        config, tp = self.config, self.mapping.tp_size
        name = f"transformer.layers.{number}"
        num_heads, num_kv_heads = config.num_attention_heads // tp, kv_heads_per_rank(config, self.mapping)
        width, mlp_width = config.head_width, config.mlp_width // tp
        qkv_width, dense = (num_heads + 2 * num_kv_heads) * width, num_heads * width
        attention = self._attention(
            self._linear(f"{name}.attention.qkv", config.hidden_size, qkv_width, config.qkv_bias),
            self._linear(f"{name}.attention.dense", dense, config.hidden_size, config.dense_bias, by_input=True),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_size=width,
            interleaved=config.position_embedding_type == "rope_gptj",
        )
        fc = self._linear(f"{name}.mlp.fc", config.hidden_size, mlp_width, config.mlp_bias)
        proj = self._linear(f"{name}.mlp.proj", mlp_width, config.hidden_size, config.mlp_bias, by_input=True)
        gate = None
        if config.gated_mlp:
            gate = self._linear(f"{name}.mlp.gate", config.hidden_size, mlp_width, config.mlp_bias)
        mlp = Mlp(fc, proj, gate, config.hidden_act, use_plugin=self._uses("swiglu_plugin"))
        return DecoderLayer(self._norm(), attention, self._norm(), mlp)

    def _attention(self, qkv: Linear, dense: Linear, **traits: Any) -> nn.Module:
        return Attention(qkv, dense, **traits)

    def _linear(self, name: str, in_features: int, out_features: int, bias: bool, *, by_input: bool = False) -> Linear:
        reduce = self.communicator if by_input and self.mapping.tp_size > 1 else None
        kind = kind_of(self.config, name)
        use_plugin = self._uses(_PLUGIN_OF[None if kind is None else kind.form])
        return Linear(in_features, out_features, bias=bias, kind=kind, reduce=reduce, use_plugin=use_plugin)

    def _uses(self, plugin: str) -> bool:
        return self.plugin_config is not None and self.plugin_config.enabled(plugin)

    def _norm(self) -> Norm:
        kind = self.config.norm_type
        use_plugin = self._uses(f"{kind}_plugin")
        return NORMS[kind](self.config.hidden_size, self.config.norm_epsilon, use_plugin=use_plugin)

    def _embedding(self, num_rows: int) -> Embedding:
        config, tp = self.config, self.mapping.tp_size
        if not config.use_parallel_embedding or tp == 1:
            return Embedding(num_rows, config.hidden_size)
        if config.embedding_sharding_dim == 1:
            return Embedding(num_rows, config.hidden_size // tp, communicator=self.communicator, split_dim=1)
        rows = -(-num_rows // tp)
        first_row = self.mapping.tp_rank * rows
        return Embedding(
            rows,
            config.hidden_size,
            communicator=self.communicator,
            split_dim=0,
            first_row=first_row,
            use_plugin=self._uses("lookup_plugin"),
        )


def check_supported(config: ModelConfig, *, paged: bool = False) -> None:
    """Raise `SpecError` for the first trait of `config` that the network, in this form, does not have."""
    if config.position_embedding_type not in POSITIONS:
        raise SpecError(
            f"Positions of type {config.position_embedding_type!r} are not supported.",
            where="position_embedding_type",
            remedy=f"Supported: {', '.join(POSITIONS)}.",
        )
    if config.uses_rope:
        inverse_frequencies(config.rotary_dim, config.rotary_base, config.rotary_scaling)
    if config.hidden_act not in ACTIVATIONS:
        raise SpecError(
            f"The activation {config.hidden_act!r} is not supported.",
            where="hidden_act",
            remedy=f"Supported: {', '.join(ACTIVATIONS)}.",
        )
    if config.quantization.kv_cache_quant_algo is not None and not paged:
        raise SpecError(
            f"A K/V cache of type {config.quantization.kv_cache_quant_algo} is read by the attention plugin only.",
            where="quantization.kv_cache_quant_algo",
            remedy="Build with gpt_attention_plugin and paged_kv_cache, or leave the cache's algorithm out.",
        )
