"""A share of an engine's weights on the GPU, the others streamed from the host: where it is possible, else why not."""

from __future__ import annotations

from typing import Any

from ..errors import RequestError
from .config import EngineConfig

_FIELD = "gpu_weights_percent"


def streaming_options(config: EngineConfig, share: float | None, where: str) -> dict[str, Any]:
    """Return what a backend's `load` takes to keep `share` of the weights on the GPU.

    Parameters
    ----------
    config
        Of the engine.
    share
        From 0 (stream all that can be) to 1; 1 and None keep all of them there, as every engine does by itself.
    where
        The engine folder.

    Raises
    ------
    RequestError
        When the engine's weights cannot stream.
    """
    if share is None or share == 1:
        return {}
    if not 0 <= share <= 1:
        raise RequestError(
            f"{share} is no share of the weights.", where=_FIELD, remedy="Give 0 (stream all) to 1 (stream none)."
        )
    if config.backend != "tensorrt":
        raise RequestError(
            f"{where} is an engine of the {config.backend} backend, which keeps all weights where it computes; only "
            "the tensorrt backend streams weights from the host.",
            where=_FIELD,
            remedy="Leave gpu_weights_percent out. A smaller engine comes from quantized weights or more ranks.",
        )
    if not config.build_config.weight_streaming:
        raise RequestError(
            f"{where} was not built for weight streaming.",
            where=_FIELD,
            remedy="Build it with --weight_streaming, or leave gpu_weights_percent out.",
        )
    if config.pretrained_config.mapping.world_size > 1:
        raise RequestError(
            f"{where} has several ranks, which are loaded together and keep their weights on their GPUs.",
            where=_FIELD,
            remedy="Leave gpu_weights_percent out, or load ranks by Engine.executor with weight_streaming_budget.",
        )
    return {"weight_streaming_budget": f"{100 * share:g}%"}
