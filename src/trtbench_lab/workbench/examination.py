"""Look over this machine."""

from __future__ import annotations

from ..doctor import DoctorReport, examine
from ..progress import ProgressSink
from ..specs.requests import DoctorSpec


def doctor(spec: DoctorSpec, *, progress: ProgressSink | None = None) -> DoctorReport:
    """Return what this machine has, what is missing, and what to do about it; nothing is stored."""
    return examine(backend=spec.backend)
