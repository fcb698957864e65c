"""Which layouts of ranks a model allows."""

from __future__ import annotations

from collections.abc import Iterator

from ..conflicts import Conflict, rule
from ..mapping import Mapping
from ..model import ModelConfig
from .nearest import nearest


@rule(Mapping)
def world_is_product(mapping: Mapping) -> Iterator[Conflict]:
    product = mapping.tp_size * mapping.pp_size
    if mapping.world_size != product:
        yield Conflict(
            ("Mapping.world_size", "Mapping.tp_size", "Mapping.pp_size"),
            f"tp_size {mapping.tp_size} × pp_size {mapping.pp_size} makes {product} ranks, world_size says "
            f"{mapping.world_size}.",
            f"Set world_size to {product}.",
            {"Mapping.world_size": product},
        )


@rule(Mapping)
def rank_is_in_world(mapping: Mapping) -> Iterator[Conflict]:
    if mapping.rank >= mapping.world_size:
        yield Conflict(
            ("Mapping.rank", "Mapping.world_size"),
            f"Rank {mapping.rank} is outside a world of {mapping.world_size}.",
            f"Ranks run from 0 to {mapping.world_size - 1}.",
            {"Mapping.rank": mapping.world_size - 1},
        )


@rule(ModelConfig)
def heads_fill_hidden_size(model: ModelConfig) -> Iterator[Conflict]:
    if not model.given("head_size") and model.hidden_size % model.num_attention_heads:
        yield Conflict(
            ("ModelConfig.hidden_size", "ModelConfig.num_attention_heads"),
            f"hidden_size {model.hidden_size} cannot be divided by {model.num_attention_heads} heads.",
            "Give head_size, or change the number of heads.",
            _heads_fix(model),
        )


def _heads_fix(model: ModelConfig) -> dict[str, int] | None:
    heads = nearest(model.num_attention_heads, lambda number: model.hidden_size % number == 0, model.hidden_size)
    return None if heads is None else {"ModelConfig.num_attention_heads": heads}


@rule(ModelConfig)
def query_heads_share_evenly(model: ModelConfig) -> Iterator[Conflict]:
    heads, kv_heads = model.num_attention_heads, model.kv_heads
    if heads % kv_heads:
        best = nearest(kv_heads, lambda number: heads % number == 0, heads)
        yield Conflict(
            ("ModelConfig.num_attention_heads", "ModelConfig.num_key_value_heads"),
            f"{heads} query heads cannot share {kv_heads} key/value heads evenly.",
            f"Set num_key_value_heads to {best}.",
            {"ModelConfig.num_key_value_heads": best},
        )


def _tp_fits(model: ModelConfig, tp_size: int) -> bool:
    kv_heads = model.kv_heads
    return (
        model.num_attention_heads % tp_size == 0
        and (kv_heads % tp_size == 0 or tp_size % kv_heads == 0)
        and model.mlp_width % tp_size == 0
        and not (model.use_parallel_embedding and model.embedding_sharding_dim == 1 and model.hidden_size % tp_size)
    )


@rule(ModelConfig, Mapping)
def heads_divide_by_tp(model: ModelConfig, mapping: Mapping) -> Iterator[Conflict]:
    tp_size = mapping.tp_size
    best = nearest(tp_size, lambda number: _tp_fits(model, number), model.num_attention_heads) or 1
    # Changing tp_size alone would break the world; the fix carries both.
    fix = {"Mapping.tp_size": best, "Mapping.world_size": best * mapping.pp_size}
    remedy = f"The nearest tp_size that fits this model is {best}."
    heads, kv_heads = model.num_attention_heads, model.kv_heads
    if heads % tp_size:
        yield Conflict(
            ("Mapping.tp_size", "ModelConfig.num_attention_heads"),
            f"{heads} heads cannot be divided over tp_size {tp_size}.",
            remedy,
            fix,
        )
    if kv_heads % tp_size and tp_size % kv_heads:
        yield Conflict(
            ("Mapping.tp_size", "ModelConfig.num_key_value_heads"),
            f"{kv_heads} key/value heads can be neither divided over tp_size {tp_size} nor repeated evenly on its "
            "ranks.",
            remedy,
            fix,
        )
    if model.mlp_width % tp_size:
        yield Conflict(
            ("Mapping.tp_size", "ModelConfig.intermediate_size"),
            f"intermediate_size {model.mlp_width} cannot be divided over tp_size {tp_size}.",
            remedy,
            fix,
        )
    if model.use_parallel_embedding and model.embedding_sharding_dim == 1 and model.hidden_size % tp_size:
        yield Conflict(
            ("ModelConfig.embedding_sharding_dim", "Mapping.tp_size"),
            f"hidden_size {model.hidden_size} of the embedding table cannot be divided over tp_size {tp_size}.",
            "Divide the table along the vocabulary: embedding_sharding_dim 0.",
            {"ModelConfig.embedding_sharding_dim": 0},
            (fix,),
        )


@rule(ModelConfig, Mapping)
def layers_divide_by_pp(model: ModelConfig, mapping: Mapping) -> Iterator[Conflict]:
    layers, pp_size = model.num_hidden_layers, mapping.pp_size
    if layers % pp_size:
        best = nearest(pp_size, lambda number: layers % number == 0, layers)
        yield Conflict(
            ("Mapping.pp_size", "ModelConfig.num_hidden_layers"),
            f"{layers} layers cannot be divided into {pp_size} equal pipeline stages.",
            f"The nearest pp_size that divides them is {best}.",
            {"Mapping.pp_size": best, "Mapping.world_size": (best or 1) * mapping.tp_size},
        )


@rule(ModelConfig, Mapping)
def embedding_sharing(model: ModelConfig, mapping: Mapping) -> Iterator[Conflict]:
    if not model.share_embedding_table:
        return
    off = {"ModelConfig.share_embedding_table": False}
    if not model.tie_word_embeddings:
        yield Conflict(
            ("ModelConfig.share_embedding_table", "ModelConfig.tie_word_embeddings"),
            "The embedding table cannot be shared with lm_head: the source model keeps two different matrices.",
            "Leave share_embedding_table off.",
            off,
        )
    elif mapping.world_size > 1 and not (model.use_parallel_embedding and model.embedding_sharding_dim == 0):
        yield Conflict(
            (
                "ModelConfig.share_embedding_table",
                "ModelConfig.use_parallel_embedding",
                "ModelConfig.embedding_sharding_dim",
            ),
            f"On {mapping.world_size} ranks the embedding table can be shared with lm_head only where both are "
            "divided along the vocabulary.",
            "Use use_parallel_embedding with embedding_sharding_dim 0, or leave share_embedding_table off.",
            {"ModelConfig.use_parallel_embedding": True, "ModelConfig.embedding_sharding_dim": 0},
            (off,),
        )
