"""Sliding attention windows as configurations spell them; the decoder has one window for all layers or none."""

from __future__ import annotations

from ..errors import IntakeError
from .hf_config import HfConfig


def uniform_window(hf: HfConfig, window: int | None) -> int | None:
    """Return the window of every layer, None for full attention.

    `layer_types` (transformers 5), where present, says for each layer whether the window holds.

    Raises
    ------
    IntakeError
        When some layers have the window and others do not.
    """
    types = hf.get("layer_types", default=None)
    if types is None:
        return window
    if not isinstance(types, list) or not all(isinstance(kind, str) for kind in types):
        raise hf.unfit("layer_types", types, "a list of names")
    kinds = set(types)
    if kinds == {"full_attention"}:
        return None
    if kinds == {"sliding_attention"} and window is not None:
        return window
    raise IntakeError(
        f"Layers with different kinds of attention ({', '.join(sorted(kinds))}) are not supported.",
        where=hf.where,
        remedy="Use a model whose layers all attend alike (for Qwen2: use_sliding_window = false).",
    )
