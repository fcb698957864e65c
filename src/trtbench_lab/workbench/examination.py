"""Look over this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doctor import DoctorReport, examine
from ..progress import ProgressSink
from ..specs.requests import DoctorSpec

if TYPE_CHECKING:
    from ..doctor.conformance import ConformanceReport


def doctor(spec: DoctorSpec, *, progress: ProgressSink | None = None) -> DoctorReport | ConformanceReport:
    """Return what this machine has, what is missing, and what to do about it.

    With `conformance`, return instead what TensorRT passes here; verdicts and a bundle for bug reports are kept.
    """
    if spec.conformance or spec.conformance_features is not None:
        from ..doctor.conformance import run_conformance

        return run_conformance(spec.conformance_features, bundle_dir=spec.bundle_dir, progress=progress)
    if spec.mpi:
        from ..doctor.mpi_preflight import examine_mpi

        return examine_mpi()
    return examine(backend=spec.backend, engine_dir=spec.engine_dir)
