"""An engine's plans with another checkpoint's weights: whether they can be had, asked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BuildError, EngineMismatchError, RequestError
from ..specs import BuildConfig, ModelConfig
from ..specs.spec import Spec
from .key import NOT_CONTENT
from .verify import builder_of

if TYPE_CHECKING:
    from ..backends.protocol import Builder

_FIELD = "refit_from"
_OF_THIS_BUILD = tuple(name for name in NOT_CONTENT if name != "backend")


@dataclass(frozen=True)
class RefitSource:
    """The engine whose plans are taken.

    Attributes
    ----------
    directory, key, name
        Its folder, content key, and label for people.
    build_config
        Its resolved options, with what concerns only how this build is run.
    builder
        Its backend.
    """

    directory: Path
    key: str
    name: str
    build_config: BuildConfig
    builder: Builder


def refit_source(
    engine_dir: Path | str, model: ModelConfig, asked: BuildConfig, builder: Builder | None = None
) -> RefitSource:
    """Return the engine to refit, verified, for a checkpoint with the configuration `model`.

    Raises
    ------
    BuildError
        When its backend does not replace weights.
    RequestError
        When it was built without refit, or options are `asked` for that its plans do not have.
    EngineMismatchError
        When its model differs in more than weights; the first such field is named with both values.
    EngineError
        When the folder is damaged or no engine.
    """
    from .folder import Engine

    path = Path(engine_dir).expanduser().absolute()
    engine = Engine.from_dir(path, verify=False)
    config = engine.config
    found = builder or builder_of(config, str(path))
    if not hasattr(found, "refit"):
        raise BuildError(
            f"{path} is an engine of the {config.backend} backend, whose builds take their weights as they are.",
            where=_FIELD,
            remedy="Build from the checkpoint, without refit_from: nothing is timed or compiled there.",
        )
    if not config.build_config.refit:
        raise RequestError(
            f"{path} was built without refit, so its weights are part of its kernels.",
            where=_FIELD,
            remedy="Build it once with --refit, or build from the checkpoint without refit_from.",
        )
    _check_model(config.pretrained_config, model, str(path))
    for name, wanted, held in _differing(asked, config.build_config):
        raise RequestError(
            f"{name} is {wanted!r}, and the plans that are taken were built with {held!r}.",
            where=_FIELD,
            remedy=f"Leave {name} out, or build from the checkpoint without refit_from.",
        )
    Engine.from_dir(path, builder=found)  # version, machine, and the digests of all files
    ways = {name: getattr(asked, name) for name in _OF_THIS_BUILD}
    return RefitSource(path, config.key, engine.name, config.build_config.replace(**ways), found)


def _check_model(held: ModelConfig, model: ModelConfig, where: str) -> None:
    """Everything but the weights is part of the plans: sizes, and numbers such as rotary_base and norm_epsilon."""
    alone = [config.replace(mapping=config.mapping.with_rank(0)).to_dict() for config in (held, model)]
    for name in sorted({*alone[0], *alone[1]}):
        if alone[0].get(name) != alone[1].get(name):
            raise EngineMismatchError(
                f"The checkpoint's {name} is {alone[1].get(name)!r}, and the engine's {alone[0].get(name)!r}: a refit "
                "changes weights and nothing else.",
                where=where,
                remedy="Convert the checkpoint with the settings of the engine's own, or build from it without "
                "refit_from.",
            )


def _differing(asked: Spec, held: Spec) -> Iterator[tuple[str, Any, Any]]:
    """Yield options that were named and are not what the engine was built with."""
    for info in type(asked).options():
        wanted, there = getattr(asked, info.name), getattr(held, info.name)
        if isinstance(wanted, Spec):
            yield from _differing(wanted, there)
        elif info.name not in _OF_THIS_BUILD and asked.given(info.name) and wanted not in ("auto", None, there):
            yield info.name, wanted, there
