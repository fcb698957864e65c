"""Where engines and half-made checkpoints live under the project's home folder."""

from __future__ import annotations

import os
from pathlib import Path

from ..storage import home_dir


def cache_dir() -> Path:
    """Return the folder of the engine cache: ``engines`` in the project's home folder."""
    return home_dir().absolute() / "engines"


def entry_dir(key: str) -> Path:
    """Return the folder of the engine with a content key, whether it is there or not."""
    return cache_dir() / key.rpartition(":")[2]


def scratch_dir() -> Path:
    """Return the folder for checkpoints of models that are in memory only, while they are built."""
    return home_dir().absolute() / "scratch"


def is_in_cache(directory: Path) -> bool:
    """Whether a folder is an entry of the engine cache, whose files are never changed in place."""
    return os.path.realpath(directory.absolute().parent) == os.path.realpath(cache_dir())
