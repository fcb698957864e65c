"""Everything a build needs to know, settled before it starts, so that a mistake in the request is seen at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BuildError, SpecError
from .refit import RefitSource, refit_source
from .transfer import refuse_replacing

if TYPE_CHECKING:
    from ..backends.protocol import Builder
    from ..specs import BuildConfig, ModelConfig

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """One build, settled.

    Attributes
    ----------
    builder
        Who builds.
    builder_path
        Import path of its class (``"module:Class"``) when it is not of the registry, else None.
    model_config, build_config
        The model, and the options with every ``auto`` resolved.
    notes
        What was chosen or cannot be honoured.
    checkpoint_dir, model
        The source: a checkpoint folder, or a model in memory (the other is None).
    output_dir
        Where the engine shall be; None leaves it in the cache.
    tokenizer_dir
        Folder with the model's tokenizer, to be recorded.
    refit_from
        The engine whose plans are taken and get the source's weights; None builds plans.
    """

    builder: Builder
    builder_path: str | None
    model_config: ModelConfig
    build_config: BuildConfig
    notes: list[str] = field(default_factory=list)
    checkpoint_dir: Path | None = None
    model: Any = None
    output_dir: Path | None = None
    tokenizer_dir: Path | None = None
    overwrite: bool = False
    use_cache: bool = True
    timeout_s: float | None = None
    refit_from: RefitSource | None = None


def plan_build(
    model: Any,
    build_config: BuildConfig | Mapping[str, Any] | None,
    output_dir: Path | str | None,
    *,
    overwrite: bool,
    timeout_s: float | None,
    use_cache: bool,
    builder: Builder | None,
    tokenizer_dir: Path | str | None = None,
    refit_from: Path | str | None = None,
) -> BuildPlan:
    """Return the settled plan of a build; see `build.start_build` for the parameters.

    Raises
    ------
    TrtbenchError
        For a source that is no checkpoint, options that conflict or do not fit the model, a backend that cannot be
        used here, or an output folder that must not be replaced.
    """
    from ..specs import BuildConfig

    if build_config is None:
        config = BuildConfig()
    elif isinstance(build_config, BuildConfig):
        config = build_config
    elif isinstance(build_config, Mapping):
        config = BuildConfig.from_dict(build_config)
    else:
        raise SpecError(
            f"build_config must be a BuildConfig, not {type(build_config).__name__}.",
            where="build_config",
            remedy="Write build_config=BuildConfig(max_batch_size=8, …).",
        )
    if timeout_s is not None and (isinstance(timeout_s, bool) or not timeout_s > 0):
        raise SpecError(f"timeout_s must be more than 0 seconds, not {timeout_s!r}.", where="timeout_s")
    target = None if output_dir is None else Path(output_dir).expanduser().absolute()
    if target is not None and overwrite:
        refuse_replacing(target, overwrite=True)
    checkpoint_dir, in_memory, model_config = _source(model)
    refit = None
    if refit_from is not None:
        refit = refit_source(refit_from, model_config, config, builder)
        found, resolved = refit.builder, refit.build_config
        notes = [f"The plans of the engine {refit.name} were taken, with the weights of this checkpoint."]
    else:
        found, resolved, notes = _resolved(model_config, config, builder)
    return BuildPlan(
        builder=found,
        builder_path=None if builder is None else f"{type(builder).__module__}:{type(builder).__qualname__}",
        model_config=model_config,
        build_config=resolved,
        notes=notes,
        checkpoint_dir=checkpoint_dir,
        model=in_memory,
        output_dir=target,
        tokenizer_dir=_tokenizer_dir(tokenizer_dir, checkpoint_dir, in_memory),
        overwrite=overwrite,
        use_cache=use_cache and config.use_cache,
        timeout_s=timeout_s if timeout_s is not None else config.timeout_s or None,
        refit_from=refit,
    )


def _resolved(
    model: ModelConfig, config: BuildConfig, builder: Builder | None
) -> tuple[Builder, BuildConfig, list[str]]:
    """Return who builds, the options with every ``auto`` resolved, and what was chosen or cannot be honoured."""
    from ..backends.registry import backend, choose_backend
    from ..specs import find_conflicts, raise_conflicts, settle

    # What nobody chose gives way first (BuildConfig.resolved does so again, and tells); contradictions are raised.
    raise_conflicts(find_conflicts(*settle(model, config).specs), where="build_config")
    notes = []
    if builder is None:
        choice = choose_backend(config.backend, world_size=model.mapping.world_size)
        builder = backend(choice.name)
        if config.backend == "auto":
            notes.append(f"Backend {choice.name}, because {choice.reason.rstrip('.')}.")
        config = config.replace(backend=choice.name)
    available = builder.available()
    if not available.ok:
        raise BuildError(available.reason, where=f"{builder.backend} backend", remedy="Choose another backend.")
    resolution = builder.resolve(model, config)
    return builder, resolution.build_config, [*notes, *resolution.notes]


def _tokenizer_dir(given: Path | str | None, checkpoint_dir: Path | None, model: Any) -> Path | None:
    """Return the folder of the tokenizer: the one given, the model's own source, or the checkpoint if it has one."""
    if given is None:
        given = getattr(model, "tokenizer_dir", None) or getattr(model, "source_dir", None)
    if given is not None:
        return Path(given).expanduser().absolute()
    if checkpoint_dir is None:
        return None
    from ..checkpoint.reader import open_checkpoint

    candidates = (checkpoint_dir, open_checkpoint(checkpoint_dir).source_dir)
    return next((folder for folder in candidates if folder is not None and _has_tokenizer(folder)), None)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _source(model: Any) -> tuple[Path | None, Any, ModelConfig]:
    """Return checkpoint folder or model in memory, and the configuration."""
    from ..specs import ModelConfig

    if isinstance(model, str | Path):
        from ..checkpoint.reader import open_checkpoint

        checkpoint = open_checkpoint(Path(model).expanduser().absolute())
        return checkpoint.directory.absolute(), None, checkpoint.config
    config = getattr(model, "config", None)
    directory = getattr(model, "directory", None)
    if isinstance(config, ModelConfig) and isinstance(directory, Path):
        return directory.absolute(), None, config
    if isinstance(config, ModelConfig) and callable(getattr(model, "save_checkpoint", None)):
        mapping = config.mapping
        if mapping.world_size > 1:
            raise BuildError(
                f"The model in memory holds rank {mapping.rank} of {mapping.world_size}, and an engine needs them all.",
                where="model",
                remedy="Write every rank with save_checkpoint(directory), then build from that folder.",
            )
        return None, model, config
    raise BuildError(
        f"A build starts from a checkpoint folder or a model of trtbench_lab, not from {type(model).__name__}.",
        where="model",
        remedy="Convert the source first: AutoModelForCausalLM.from_hugging_face(model_dir), or %trt_convert.",
    )
