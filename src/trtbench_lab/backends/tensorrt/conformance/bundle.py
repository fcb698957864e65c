"""Everything about one conformance run in one zip file, to attach to a bug report."""

from __future__ import annotations

import json
import os
import platform
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from ....storage import staged_file
from .outcome import Outcome
from .verdicts import Machine

_PACKAGES = (
    "trtbench-lab", "tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings",
    "tensorrt-cu13-libs", "tensorrt-cu12-libs", "torch", "triton", "onnx", "onnxscript", "onnx-ir", "numpy",
    "nvidia-nccl-cu13", "nvidia-nccl-cu12", "nccl4py",
)  # fmt: skip
_KINDS = (".json", ".txt", ".onnx")
MOST_BYTES = 8 << 20
"""Largest file that is taken along; tiny engines' networks are below 2 MiB."""


def versions() -> dict[str, str]:
    """Return the versions of whatever of interest is installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_bundle(target: Path, machine: Machine, outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write the zip file: versions, results, and each trial's log, ONNX file and inspector JSON.

    Names of users and folders are taken out of the texts: the home folder becomes ``~``.

    Raises
    ------
    StorageError
        When it cannot be written.
    """
    with staged_file(target) as staging, zipfile.ZipFile(staging, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("versions.json", _json(versions()))
        bundle.writestr("machine.json", _json(asdict(machine)))
        bundle.writestr("results.json", _json([one.to_dict() for one in outcomes]))
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in _KINDS and path.stat().st_size <= MOST_BYTES:
                bundle.writestr(str(path.relative_to(folder)), _content(path))
    return target


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    home = os.path.expanduser("~").encode()
    return content if path.suffix == ".onnx" or len(home) < 3 else content.replace(home, b"~")


def _json(payload: Any) -> str:
    text = json.dumps(payload, indent=1, default=str)
    home = os.path.expanduser("~")
    return text if len(home) < 3 else text.replace(home, "~")
