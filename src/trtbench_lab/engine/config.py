"""The config.json of an engine folder: what the engine is, how and where it was built, and which files belong to it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import EngineError, EngineMismatchError, TrtbenchError
from ..specs import BuildConfig, ModelConfig
from .names import CONFIG_NAME

FORMAT_VERSION = 1
_MAX_CONFIG_BYTES = 16 << 20
_REBUILD = "Build the engine again."


@dataclass(frozen=True)
class FileRecord:
    """Size and digest (see `file_digest.digest_by_chunk`) of one file of an engine folder."""

    bytes: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Everything config.json says.

    Attributes
    ----------
    version, format_version
        Version of trtbench-lab that built it; version of the folder's layout.
    backend, backend_version
        Who built it, with the versions that its validity depends on.
    pretrained_config, build_config
        The model and the resolved build options (plugins included).
    machine, machine_key, gpu
        Fingerprint of the machine it was built on; the backend's name for the kind of machine it is good for; the GPU
        it was built on, or None for a CPU engine.
    files
        Every other file of the folder by name.
    key
        Content key of its inputs: equal keys, equal engines.
    built_at, build_seconds
        UTC in ISO 8601; seconds of the whole build.
    notes
        What the backend chose or could not honour, one sentence each.
    checkpoint
        Directory and digest of the checkpoint it was built from.
    tokenizer_dir
        Folder with the model's tokenizer, where one was recorded.
    build_report
        Phases, memory and log counts of the build; see `BuildReport`.
    """

    version: str
    format_version: int
    backend: str
    backend_version: str
    pretrained_config: ModelConfig
    build_config: BuildConfig
    machine: dict[str, Any]
    machine_key: str
    gpu: dict[str, Any] | None
    files: dict[str, FileRecord]
    key: str
    built_at: str
    build_seconds: float
    notes: list[str] = field(default_factory=list)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    tokenizer_dir: str | None = None
    build_report: dict[str, Any] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Size of all files of the engine, without config.json."""
        return sum(record.bytes for record in self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json."""
        return {
            "version": self.version,
            "format_version": self.format_version,
            "backend": self.backend,
            "backend_version": self.backend_version,
            "pretrained_config": self.pretrained_config.to_dict(),
            "build_config": self.build_config.to_dict(),
            "machine": self.machine,
            "machine_key": self.machine_key,
            "gpu": self.gpu,
            "files": {name: {"bytes": r.bytes, "digest": r.digest} for name, r in sorted(self.files.items())},
            "key": self.key,
            "built_at": self.built_at,
            "build_seconds": self.build_seconds,
            "notes": list(self.notes),
            "checkpoint": self.checkpoint,
            "tokenizer_dir": self.tokenizer_dir,
            "build_report": self.build_report,
        }

    @classmethod
    def from_dict(cls, content: Any, where: str) -> EngineConfig:
        """Return the configuration that `content`, read from `where`, describes.

        Raises
        ------
        EngineMismatchError
            When the folder has another format version or comes from another major version of this project.
        EngineError
            When anything is missing, of the wrong type, or not a configuration at all.
        """
        table = _typed(content, dict, "the file", where)
        check_format(table, where)
        gpu = table.get("gpu")
        tokenizer_dir = table.get("tokenizer_dir")
        try:
            model = ModelConfig.from_dict(_item(table, "pretrained_config", dict, where), f"{where}: pretrained_config")
            build = BuildConfig.from_dict(_item(table, "build_config", dict, where), f"{where}: build_config")
        except TrtbenchError as error:
            raise EngineError(error.what, where=error.where, remedy=error.remedy or _REBUILD) from error
        except (RecursionError, OverflowError) as error:
            raise EngineError("The configuration is nested too deep.", where=where, remedy=_REBUILD) from error
        return cls(
            version=_item(table, "version", str, where),
            format_version=table["format_version"],
            backend=_item(table, "backend", str, where),
            backend_version=_item(table, "backend_version", str, where),
            pretrained_config=model,
            build_config=build,
            machine=_item(table, "machine", dict, where),
            machine_key=_item(table, "machine_key", str, where),
            gpu=None if gpu is None else _typed(gpu, dict, "'gpu'", where),
            files=_files(_item(table, "files", dict, where), where),
            key=_item(table, "key", str, where),
            built_at=_item(table, "built_at", str, where),
            build_seconds=_seconds(table.get("build_seconds"), where),
            notes=_notes(table.get("notes", []), where),
            checkpoint=_typed(table.get("checkpoint", {}), dict, "'checkpoint'", where),
            tokenizer_dir=None if tokenizer_dir is None else _typed(tokenizer_dir, str, "'tokenizer_dir'", where),
            build_report=_typed(table.get("build_report", {}), dict, "'build_report'", where),
        )


def read_engine_config(engine_dir: Path) -> EngineConfig:
    """Return the configuration of an engine folder.

    Raises
    ------
    EngineError
        When there is none, or it is damaged; `EngineMismatchError` when another version wrote it.
    """
    path = engine_dir / CONFIG_NAME
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise EngineError("The file is too large for a configuration.", where=str(path), remedy=_REBUILD)
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise EngineError(
            "This folder holds no engine: it has no config.json.",
            where=str(engine_dir),
            remedy="Name the folder that a build wrote, or build one.",
        ) from error
    except OSError as error:
        raise EngineError(
            f"The configuration cannot be read: {error.strerror or error}.", where=str(path), remedy="Check the path."
        ) from error
    except (ValueError, RecursionError) as error:
        raise EngineError(f"The file is not valid JSON: {error}.", where=str(path), remedy=_REBUILD) from error
    return EngineConfig.from_dict(content, str(path))


def check_format(table: Table[str, Any], where: str) -> None:
    """Refuse a configuration of another format or major version, before anything else of it is looked at."""
    from .._version import __version__

    if "format_version" not in table or "pretrained_config" not in table:
        checkpoint = "architecture" in table
        raise EngineError(
            "This is the configuration of a checkpoint, not of an engine."
            if checkpoint
            else "This is not the configuration of an engine of trtbench-lab.",
            where=where,
            remedy="Build an engine from it first." if checkpoint else "Name the folder that a build wrote.",
        )
    found = table["format_version"]
    version = table.get("version")
    if found != FORMAT_VERSION or isinstance(found, bool):
        raise EngineMismatchError(
            f"The engine folder has format version {_shown(found)} (written by trtbench-lab {_shown(version)}); "
            f"trtbench-lab {__version__} reads format version {FORMAT_VERSION}.",
            where=where,
            remedy="Build the engine again with this version, or use the version that wrote it.",
        )
    if isinstance(version, str) and version.split(".")[0] != __version__.split(".")[0]:
        raise EngineMismatchError(
            f"The engine was built by trtbench-lab {_shown(version)}; this is trtbench-lab {__version__}, "
            "another major version.",
            where=where,
            remedy="Build the engine again with this version, or use the version that built it.",
        )


def _item(table: Table[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in table:
        raise EngineError(f"The field {name!r} is missing.", where=where, remedy=_REBUILD)
    return _typed(table[name], kind, f"{name!r}", where)


def _typed(value: Any, kind: type, name: str, where: str) -> Any:
    if not isinstance(value, kind):
        words: dict[type, str] = {dict: "a table", list: "a list", str: "text"}
        raise EngineError(f"{name} must be {words[kind]}, not {_shown(value)}.", where=where, remedy=_REBUILD)
    return value


def _seconds(value: Any, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise EngineError(f"'build_seconds' must be a duration, not {_shown(value)}.", where=where, remedy=_REBUILD)
    return float(min(value, 1e12))


def _notes(value: Any, where: str) -> list[str]:
    return [_typed(note, str, "a note", where) for note in _typed(value, list, "'notes'", where)]


def _files(table: Table[str, Any], where: str) -> dict[str, FileRecord]:
    files = {}
    for name, record in table.items():
        path = PurePosixPath(name)
        # A name that leads out of the folder would make verification read, and save() copy, somebody else's file.
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or name == CONFIG_NAME:
            raise EngineError(f"{_shown(name)} is not the name of a file in the folder.", where=where, remedy=_REBUILD)
        size = record.get("bytes") if isinstance(record, dict) else None
        digest = record.get("digest") if isinstance(record, dict) else None
        if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not isinstance(digest, str):
            raise EngineError(f"The record of the file {_shown(name)} is damaged.", where=where, remedy=_REBUILD)
        files[name] = FileRecord(size, digest)
    return files


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + " …"
