"""The content key of an engine: equal inputs give equal keys, and nothing that cannot change the engine is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..storage import digest_of_json
from .config import FORMAT_VERSION

if TYPE_CHECKING:
    from ..backends.protocol import Builder
    from ..specs import BuildConfig, ModelConfig

# How a build is run, not what it makes.
NOT_CONTENT = ("backend", "log_level", "parallel_build", "timeout_s", "timing_cache", "use_cache", "workers")


def content_key(
    checkpoint_digest: str,
    model_config: ModelConfig,
    build_config: BuildConfig,
    builder: Builder,
    *,
    refitted: str | None = None,
) -> str:
    """Return ``"xxh3_128:<hex>"`` of weights, model, resolved options, backend, versions and kind of machine.

    `refitted` is the key of the engine whose plans are taken: an engine of the same inputs that was built from nothing
    may have other kernels.
    """
    from .._version import __version__

    options = {name: value for name, value in build_config.to_dict().items() if name not in NOT_CONTENT}
    model = model_config.replace(mapping=model_config.mapping.with_rank(0)).to_dict()
    return digest_of_json(
        {
            "format_version": FORMAT_VERSION,
            "version": __version__,
            "backend": builder.backend,
            "backend_version": builder.version(),
            "machine_key": builder.machine_key(),
            "checkpoint": checkpoint_digest,
            "pretrained_config": model,
            "build_config": options,
            **({} if refitted is None else {"refitted": refitted}),
        }
    )
