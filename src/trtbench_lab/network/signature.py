"""The named inputs and outputs of a decoder engine, derived from its configuration: data only, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..specs import Mapping, ModelConfig

BATCH, LENGTH, LOGITS, CAPACITY = "batch", "length", "num_logits", "capacity"


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output of an engine.

    Attributes
    ----------
    name
        The name to bind.
    mode
        ``"input"`` or ``"output"``.
    dtype
        Torch's name of the element type, for example ``"float32"`` or ``"int64"``.
    shape
        Sizes; a string names a dynamic dimension, and equal names must be equal sizes in one run.
    aliases
        For an output that shares its memory with an input: that input's name. It needs no binding of its own.
    """

    name: str
    mode: str
    dtype: str
    shape: tuple[int | str, ...]
    aliases: str | None = None


def kv_heads_per_rank(config: ModelConfig, mapping: Mapping) -> int:
    """Return the K/V heads one rank holds: split over tp, or replicated where there are fewer heads than ranks."""
    return max(1, config.kv_heads // mapping.tp_size)


def signature(
    config: ModelConfig, mapping: Mapping, compute_dtype: str, *, capacity: int | str = CAPACITY
) -> tuple[TensorSpec, ...]:
    """Return every input and output of one rank's engine, inputs first.

    Parameters
    ----------
    config, mapping
        The model and the rank.
    compute_dtype
        Element type of the cache and of hidden states between pipeline stages.
    capacity
        Tokens a cache row holds: a name where each call chooses it, a number where the engine fixes it.
    """
    num_layers = len(mapping.pp_layers(config.num_hidden_layers))
    cache = (BATCH, kv_heads_per_rank(config, mapping), capacity, config.head_width)
    hidden = (BATCH, LENGTH, config.hidden_size)

    inputs = [
        TensorSpec("input_ids", "input", "int64", (BATCH, LENGTH))
        if mapping.is_first_pp_rank
        else TensorSpec("hidden_states_input", "input", compute_dtype, hidden),
        TensorSpec("write_indices", "input", "int64", (BATCH,)),
    ]
    if mapping.is_last_pp_rank:
        inputs.append(TensorSpec("logit_indices", "input", "int64", (BATCH, LOGITS)))
        outputs = [TensorSpec("logits", "output", "float32", (BATCH, LOGITS, config.vocab_size))]
    else:
        outputs = [TensorSpec("hidden_states_output", "output", compute_dtype, hidden)]
    for layer in range(num_layers):
        for kind in ("key", "value"):
            past = f"past_{kind}_{layer}"
            inputs.append(TensorSpec(past, "input", compute_dtype, cache))
            outputs.append(TensorSpec(f"present_{kind}_{layer}", "output", compute_dtype, cache, aliases=past))
    return (*inputs, *outputs)
