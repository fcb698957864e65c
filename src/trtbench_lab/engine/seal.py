"""Makes a folder that workers have filled an engine: read-only files, older names, digests, and config.json last."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..backends.protocol import engine_file_name
from ..errors import BuildError
from ..file_digest import digest_by_chunk
from ..storage import write_json
from .config import FORMAT_VERSION, EngineConfig, FileRecord
from .machine import machine_fingerprint
from .names import CONFIG_NAME, legacy_engine_name
from .plan import BuildPlan
from .transfer import READ_ONLY


def seal_engine(
    staging: Path,
    plan: BuildPlan,
    *,
    key: str,
    checkpoint: dict[str, Any],
    tokenizer_dir: str | None,
    notes: list[str],
    build_seconds: Callable[[], float],
    build_report: Callable[[], dict[str, Any]],
    check: Callable[[], None],
) -> EngineConfig:
    """Record every file of `staging` with its size and digest and write its config.json.

    `build_seconds` and `build_report` are asked at the end, so that they cover the digests too; `check` is called
    between files.
    """
    from .._version import __version__

    if plan.build_config.legacy_names:
        for rank in range(plan.model_config.mapping.world_size):
            _add_older_name(staging / engine_file_name(rank), staging / legacy_engine_name(plan.model_config, rank))
    files = {}
    for path in sorted(path for path in staging.rglob("*") if path.is_symlink() or not path.is_dir()):
        check()
        name = path.relative_to(staging).as_posix()
        if path.is_symlink():
            raise BuildError(
                f"The {plan.builder.backend} backend left a symbolic link, {name!r}: an engine folder must be whole.",
                where=str(staging),
                remedy="This is a fault of the backend.",
            )
        if name != CONFIG_NAME:
            files[name] = FileRecord(path.stat().st_size, digest_by_chunk(path))
            path.chmod(READ_ONLY)
    machine = machine_fingerprint()
    machine_key = plan.builder.machine_key()
    config = EngineConfig(
        version=__version__,
        format_version=FORMAT_VERSION,
        backend=plan.builder.backend,
        backend_version=plan.builder.version(),
        pretrained_config=plan.model_config,
        build_config=plan.build_config,
        machine=machine,
        machine_key=machine_key,
        gpu=built_for_gpu(machine, machine_key),
        files=files,
        key=key,
        built_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        build_seconds=round(build_seconds(), 3),
        notes=notes,
        checkpoint=checkpoint,
        tokenizer_dir=tokenizer_dir,
        build_report=build_report(),
    )
    write_json(staging / CONFIG_NAME, config.to_dict())
    return config


def built_for_gpu(machine: dict[str, Any], machine_key: str) -> dict[str, Any] | None:
    """Return the GPU that an engine's machine key names, by name or as ``sm90``, or None for a CPU engine."""
    for gpu in machine.get("gpus", ()):
        capability = "sm" + str(gpu.get("compute_capability", "?")).replace(".", "")
        if gpu["name"] in machine_key or capability in machine_key.split():
            return dict(gpu)
    return None


def _add_older_name(engine: Path, older: Path) -> None:
    try:
        os.link(engine, older)
    except OSError:  # a file system without hard links: the older name costs a copy there
        import shutil

        shutil.copyfile(engine, older)
