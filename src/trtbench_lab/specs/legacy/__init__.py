"""Flags that people bring from other tools and that have no field of their own here."""

from .building import BUILD
from .entry import Legacy, LegacyTable
from .making import MAKING
from .running import BENCH_WORDS, RUNNING

_OURS = ("history", "explore", "lint", "doctor", "mpi", "plan", "report")  # verbs that no other tool had
LEGACY: dict[str, LegacyTable] = {**MAKING, "build": BUILD, **RUNNING, **{verb: {} for verb in _OURS}}
"""Verb → flags, spelled with underscores."""

ENVIRONMENT: dict[str, dict[str, str]] = {"download": {"HF_ENDPOINT": "mirror", "HF_TOKEN": "token"}}
"""Verb → environment variables that stand before a command, and the options they mean."""

__all__ = ["BENCH_WORDS", "ENVIRONMENT", "LEGACY", "Legacy", "LegacyTable"]
