"""What lies around a notebook: the machine it runs on, and the models that may be built from here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trtbench_lab.demo import DEMO_MODELS
from trtbench_lab.engine.machine import machine_fingerprint
from trtbench_lab.engine.present import bytes_text
from trtbench_lab.errors import TrtbenchError
from trtbench_lab.families.registry import family_for_hf
from trtbench_lab.specs.conflicts import Gpu

_DEPTH = 2  # folders below the notebook's own that are looked into
_FOLDERS = 400  # … and at most so many of them: a home folder must not take seconds
_MODELS = 12
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def gpu_here() -> Gpu | None:
    """Return the GPUs of this machine as the rules take them; None where there is none."""
    found = machine_fingerprint().get("gpus") or []
    if not found:
        return None
    major, _, minor = str(found[0].get("compute_capability", "0.0")).partition(".")
    return Gpu((int(major or 0), int(minor or 0)), str(found[0].get("name", "GPU")), len(found))


def machine_words() -> str:
    """Return this machine in one line: ``"2 × NVIDIA H200, 139 GiB each"``, or its processor where it has no GPU."""
    facts = machine_fingerprint()
    gpus = facts.get("gpus") or []
    if gpus:
        count = f"{len(gpus)} × " if len(gpus) > 1 else ""
        memory = gpus[0].get("memory_bytes")
        each = " each" if len(gpus) > 1 else ""
        return f"{count}{gpus[0].get('name', 'GPU')}" + (f", {bytes_text(memory)}{each}" if memory else "")
    cores = int(facts.get("cpu_cores_usable") or 1)
    name = str(facts.get("cpu_model") or facts.get("arch") or "CPU")
    words = [name, f"{cores} core{'s' if cores > 1 else ''}"]
    if facts.get("memory_bytes"):
        words.append(bytes_text(facts["memory_bytes"]))
    return ", ".join([*words, "no GPU"])


def models_here(folder: Path | str = ".", *, leave_out: Path | None = None) -> list[dict[str, Any]]:
    """Return models that can be taken: those in the folder and below it, then the demo models.

    Parameters
    ----------
    folder
        Where to look, two folders deep; hidden folders are passed over.
    leave_out
        A folder that is not looked into.

    Returns
    -------
    list
        ``source`` as the step takes it, ``label`` for a button, and ``words``: what it is and how large.
    """
    root = Path(folder).absolute()
    found = []
    for place in _folders(root, leave_out):
        words = _model_words(place)
        if words:
            short = place.relative_to(root).as_posix()
            found.append({"source": str(place), "label": place.name if short == "." else f"./{short}", "words": words})
        if len(found) == _MODELS:
            break
    demos = [{"source": f"demo:{name}", "label": f"demo:{name}", "words": what} for name, what in DEMO_MODELS.items()]
    return [*found, *demos]


def _folders(root: Path, leave_out: Path | None) -> Iterator[Path]:
    """Yield folders nearest first, each level in the order of names."""
    level, left = [root], _FOLDERS
    for depth in range(_DEPTH + 1):
        below: list[Path] = []
        for place in level:
            if left == 0:
                return
            left -= 1
            yield place
            if depth < _DEPTH:
                below += _subfolders(place, leave_out)
        level = below


def _subfolders(place: Path, leave_out: Path | None) -> list[Path]:
    try:
        with os.scandir(place) as entries:
            names = sorted(one.name for one in entries if not one.name.startswith((".", "_")) and one.is_dir())
    except OSError:  # not ours to read
        return []
    return [place / name for name in names if leave_out is None or place / name != leave_out]


def _model_words(place: Path) -> str:
    """Return what a Hugging Face model folder holds; empty where it is none that this version builds."""
    try:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict) or "architectures" not in config:
            return ""
        family_for_hf(config)
        weights = sum(file.stat().st_size for pattern in _WEIGHTS for file in place.glob(pattern))
    except (OSError, ValueError, TrtbenchError):
        return ""
    names = config["architectures"]
    name = str(names[0]) if isinstance(names, list) and names else str(config.get("model_type", "model"))
    return f"{name}, {bytes_text(weights)} of weights" if weights else ""
