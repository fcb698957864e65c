"""Whether an engine folder is whole and fits (version, layout, backend, machine): asked before it is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EngineError, EngineMismatchError, TrtbenchError
from ..file_digest import digest_as_recorded, refuse_changed
from ..storage import is_partial
from .config import EngineConfig
from .machine import machine_fingerprint, machine_sentence

if TYPE_CHECKING:
    from ..backends.protocol import Builder

_REBUILD = "Build the engine again, or copy the folder again from where it is whole."


def refuse_unfinished(engine_dir: Path) -> None:
    """Raise `EngineError` for a folder that is not there, or that a killed build has left behind."""
    if not engine_dir.is_dir():
        raise EngineError(
            "There is no such engine folder.", where=str(engine_dir), remedy="Check the path, or build the engine."
        )
    if is_partial(engine_dir.absolute()):
        raise EngineError(
            "This is the leftover of a build that never finished.",
            where=str(engine_dir),
            remedy="Build the engine again; the next build of the same folder removes the leftover.",
        )


def verify_files(
    engine_dir: Path,
    config: EngineConfig,
    *,
    rank: int | None = None,
    engines: bool = True,
    check: Callable[[], None] | None = None,
) -> None:
    """Compare the files of the folder with their recorded sizes and digests.

    Sizes come first, so that a truncated file is found before gigabytes are read. With `rank`, the content of other
    ranks' files is not read; without `engines` that of no rank's engine is: it is verified when it is loaded. `check`
    is called between files.

    Raises
    ------
    EngineError
        That names the first file that is missing, truncated or changed.
    """
    from ..backends.protocol import engine_file_name

    for number in range(max(1, config.pretrained_config.mapping.world_size)):
        if engine_file_name(number) not in config.files:
            raise EngineError(
                f"The engine of rank {number} is missing from the list of files; the model has "
                f"{config.pretrained_config.mapping.world_size} ranks.",
                where=str(engine_dir),
                remedy=_REBUILD,
            )
    for name, record in config.files.items():
        path = engine_dir / name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise EngineError(f"The file {name!r} is missing.", where=str(engine_dir), remedy=_REBUILD) from error
        if found != record.bytes:
            kind = "truncated" if found < record.bytes else "too long"
            raise EngineError(
                f"The file {name!r} is {kind}: it has {found:,} bytes, and {record.bytes:,} were written.",
                where=str(engine_dir),
                remedy=_REBUILD,
            )
    for name in config.files:
        if rank is not None and re.match(r"rank\d+\.", name) and not name.startswith(f"rank{rank}."):
            continue
        if not engines and re.fullmatch(r"rank\d+\.engine", name):
            continue
        if check is not None:
            check()
        verify_content(engine_dir, name, config)


def verify_content(engine_dir: Path, name: str, config: EngineConfig) -> None:
    """Raise `EngineError` when the file `name` has another digest than was recorded."""
    recorded = config.files[name].digest
    refuse_changed(engine_dir / name, digest_as_recorded(engine_dir / name, recorded), recorded)


def check_layout(config: EngineConfig, tp_size: int | None, pp_size: int | None, where: str) -> None:
    """Raise `EngineMismatchError` when the engine's layout is not the one asked for (None asks nothing)."""
    mapping = config.pretrained_config.mapping
    wanted = (tp_size or mapping.tp_size, pp_size or mapping.pp_size)
    if wanted != (mapping.tp_size, mapping.pp_size):
        raise EngineMismatchError(
            f"The engine was built for tp_size {mapping.tp_size} and pp_size {mapping.pp_size}; "
            f"tp_size {wanted[0]} and pp_size {wanted[1]} are asked for.",
            where=where,
            remedy=f"Run it with {mapping.world_size} rank(s), or convert and build the model for the layout you want.",
        )


def check_rank(config: EngineConfig, rank: int, where: str) -> None:
    """Raise `EngineMismatchError` for a rank that the engine does not have."""
    world_size = config.pretrained_config.mapping.world_size
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 <= rank < world_size:
        raise EngineMismatchError(
            f"The engine has no rank {rank!r}: it was built for {world_size} rank(s), 0 to {world_size - 1}.",
            where=where,
            remedy="Start as many ranks as the engine was built for, or build it for more.",
        )


def builder_of(config: EngineConfig, where: str) -> Builder:
    """Return the backend that built an engine, ready to load it here.

    Raises
    ------
    EngineMismatchError
        When this installation or machine does not have that backend.
    """
    from ..backends.registry import backend

    try:
        builder = backend(config.backend)
        available = builder.available()
    except TrtbenchError as error:
        raise _absent(config, error.what, where) from error
    if not available.ok:
        raise _absent(config, available.reason, where)
    return builder


def check_fit(config: EngineConfig, builder: Builder, where: str) -> None:
    """Refuse an engine of another backend version or machine than those here.

    Raises
    ------
    EngineMismatchError
        That names both sides and the remedy.
    """
    if builder.backend != config.backend:
        raise EngineMismatchError(
            f"The engine was built by the {config.backend} backend; the {builder.backend} backend cannot load it.",
            where=where,
            remedy=f"Load it with the {config.backend} backend, or build it again.",
        )
    if builder.version() != config.backend_version:
        raise EngineMismatchError(
            f"The engine was built with {config.backend_version}; {builder.version()} is installed here.",
            where=where,
            remedy="Build the engine again with what is installed, or install the version it was built with.",
        )
    if not fits_machine(config, builder):
        here = machine_sentence(machine_fingerprint())
        raise EngineMismatchError(
            f"The engine was built for another kind of machine: {config.machine_key!r} on "
            f"{machine_sentence(config.machine)}; this is {builder.machine_key()!r} on {here}.",
            where=where,
            remedy="Build the engine again on this machine, from the same checkpoint.",
        )


def fits_machine(config: EngineConfig, builder: Builder) -> bool:
    """Whether an engine was built for this kind of machine, alone or among others (hardware_compatibility)."""
    elsewhere = getattr(builder, "runs_here", None)  # of backends whose engines may be built for several machines
    return builder.machine_key() == config.machine_key or (
        elsewhere is not None and bool(elsewhere(config.machine_key, config.build_config))
    )


def _absent(config: EngineConfig, reason: str, where: str) -> EngineMismatchError:
    return EngineMismatchError(
        f"The engine was built by the {config.backend} backend ({config.backend_version}), which cannot be used here: "
        f"{reason}",
        where=where,
        remedy="Install that backend, or build the engine again with one that this machine has.",
    )
