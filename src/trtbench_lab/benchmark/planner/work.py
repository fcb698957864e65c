"""What a decode step and a prompt read and compute on one rank, counted from shapes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ...checkpoint.layout import expected_tensors, linear_layers, nbytes
from ...specs import Mapping, ModelConfig
from ...specs.quant import QuantAlgo

CACHE_BYTES = {None: 0, QuantAlgo.FP8: 1, QuantAlgo.INT8: 1}
LINEAR_SUFFIXES = (
    "weight", "bias", "per_channel_scale", "weights_scaling_factor", "activation_scaling_factor",
    "prequant_scaling_factor", "zero", "input_order", "act_scale", "smoother",
)  # fmt: skip
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class LinearGroup:
    """The linear layers of one rank that share a quantization.

    Attributes
    ----------
    algo
        Their quantization; None for none.
    bytes
        Of their tensors, scales and biases included.
    parameters
        Elements of their weights: a row costs twice as many operations.
    count
        Matrix products: a gated MLP's two input products are one.
    is_head
        Whether it is lm_head, of which the prompt phase needs the last rows alone.
    """

    algo: QuantAlgo | None
    bytes: int
    parameters: int
    count: int
    is_head: bool


@dataclass(frozen=True)
class RankWork:
    """One rank's weights and extents.

    Attributes
    ----------
    groups
        Its linear layers.
    weights_bytes
        All tensors as they lie in memory.
    other_read_bytes
        Norms: read by every step, and small.
    layers
        Decoder layers it holds.
    kv_heads, query_heads
        Heads it holds.
    cache_item_bytes
        Of one element of the K/V cache.
    head_size
        Width of one head.
    """

    groups: tuple[LinearGroup, ...]
    weights_bytes: int
    other_read_bytes: int
    layers: int
    kv_heads: int
    query_heads: int
    cache_item_bytes: int
    head_size: int

    @property
    def read_bytes(self) -> int:
        """Bytes of weights that a decode step reads."""
        return sum(group.bytes for group in self.groups) + self.other_read_bytes

    @property
    def cache_bytes_a_token(self) -> int:
        """Bytes of cache that one token of one sequence takes over this rank's layers."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.cache_item_bytes

    def flops(self, rows: int, *, last_rows: int | None = None) -> float:
        """Return the operations of the linear layers for `rows` tokens; the head computes `last_rows` of them."""
        head_rows = rows if last_rows is None else last_rows
        return sum(2.0 * group.parameters * (head_rows if group.is_head else rows) for group in self.groups)


def cache_item_bytes(config: ModelConfig, compute_dtype: str) -> int:
    """Return the bytes of one element of the cache."""
    return CACHE_BYTES[config.quantization.kv_cache_quant_algo] or ITEM_BYTES[compute_dtype]


def rank_work(config: ModelConfig, mapping: Mapping, compute_dtype: str) -> RankWork:
    """Return what one rank holds, computed in `compute_dtype` where it is not quantized."""
    tensors = expected_tensors(config, mapping)

    def size(name: str) -> int:
        shape, dtype = tensors[name]
        return nbytes(shape, compute_dtype if dtype == config.dtype else dtype)

    first = mapping.pp_layers(config.num_hidden_layers)[0]
    groups: dict[tuple[QuantAlgo | None, bool], list[int]] = {}
    counted = 0
    own_layers = set(mapping.pp_layers(config.num_hidden_layers))
    for module, _, _, layer in linear_layers(config):
        if layer is not None and layer not in own_layers:
            continue
        own = module if layer is None else module.replace(f".layers.{layer}.", f".layers.{layer - first}.", 1)
        names = [name for suffix in LINEAR_SUFFIXES if (name := f"{own}.{suffix}") in tensors]
        if not names:
            continue
        held = sum(size(name) for name in names)
        counted += held
        algo = config.quantization.of_module(module).quant_algo
        packed = 2 if algo is not None and algo.weight_bits == 4 else 1  # two 4-bit weights a byte
        entry = groups.setdefault((algo, layer is None), [0, 0, 0])
        entry[0] += held
        entry[1] += prod(tensors[f"{own}.weight"][0]) * packed
        entry[2] += 0 if module.endswith("mlp.gate") else 1
    everything = sum(size(name) for name in tensors)
    tables = sum(size(name) for name in tensors if name.endswith("_embedding.weight"))
    if config.share_embedding_table and mapping.is_last_pp_rank:
        table = "transformer.vocab_embedding.weight"
        entry = groups.setdefault((None, True), [0, 0, 0])
        entry[0] += size(table)
        entry[1] += config.vocab_size * config.hidden_size // mapping.tp_size
        entry[2] += 1
    return RankWork(
        groups=tuple(
            LinearGroup(algo, entry[0], entry[1], entry[2], is_head) for (algo, is_head), entry in groups.items()
        ),
        weights_bytes=everything,
        other_read_bytes=everything - tables - counted,
        layers=len(mapping.pp_layers(config.num_hidden_layers)),
        kv_heads=max(1, config.kv_heads // mapping.tp_size),
        query_heads=max(1, config.num_attention_heads // mapping.tp_size),
        cache_item_bytes=cache_item_bytes(config, compute_dtype),
        head_size=config.head_width,
    )


def attention_flops(work: RankWork, batch_size: int, tokens: int) -> float:
    """Return the operations of a prompt's attention: both products, over the pairs that a token sees."""
    pairs = tokens * (tokens + 1) / 2
    return 4.0 * work.layers * work.query_heads * work.head_size * pairs * batch_size
