"""All checks in order; one that fails becomes a row of its own, so that an examination never raises."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..errors import BuildError, SpecError, did_you_mean
from ..specs.build import BACKENDS
from .accelerators import check_cuda, check_gpus, check_mpi
from .machine import check_hub, check_memory, check_processor, check_results, check_storage, check_threads
from .packages import check_base, check_onnxruntime, check_optional, check_python, check_tensorrt, first_line
from .report import Check, DoctorReport, DoctorRow, error, missing, ok, warning

# Name of what is looked at → check, and the backend that alone needs it (None: all do).
_CHECKS: tuple[tuple[str, Check, str | None], ...] = (
    ("Python", check_python, None),
    ("base packages", check_base, None),
    ("CUDA", check_cuda, None),
    ("onnxruntime", check_onnxruntime, "onnxruntime"),
    ("tensorrt", check_tensorrt, "tensorrt"),
    ("GPU", check_gpus, None),
    ("MPI", check_mpi, "torch"),
    ("notebook packages", check_optional, None),
    ("CPU", check_processor, None),
    ("threads", check_threads, None),
    ("memory", check_memory, None),
    ("storage", check_storage, None),
    ("results", check_results, None),
    ("hub", check_hub, None),
)


def examine(backend: str | None = None) -> DoctorReport:
    """Look over this machine: packages, GPU, drivers, processor, memory, disk, settings, and which backends work.

    Nothing is changed, no network is used, and nothing that is found makes it raise.

    Parameters
    ----------
    backend
        Leave out what only the other backends need; None for everything.

    Raises
    ------
    SpecError
        For a backend that does not exist.
    """
    names = list(BACKENDS[1:])  # the first is "auto"
    if backend is not None and backend not in names:
        raise SpecError(f"There is no backend {backend!r}.", where="backend", remedy=did_you_mean(backend, names))
    rows, usable = _look_at_backends([backend] if backend else names)
    for name, check, only_for in _CHECKS:
        if backend is None or only_for in (None, backend):
            rows.extend(_guarded(name, check))
    return DoctorReport(tuple(rows), tuple(usable))


def _guarded(name: str, check: Check) -> list[DoctorRow]:
    rows: list[DoctorRow] = []
    try:
        rows.extend(check())
    except Exception as fault:  # whatever a broken installation leads to
        reason = f"{type(fault).__name__}: {first_line(fault)}"
        remedy = "Mend or install again what the message names."
        rows.append(warning(name, "unknown", f"It could not be looked at ({reason}).", remedy))
    return rows


def _look_at_backends(names: list[str]) -> tuple[list[DoctorRow], list[str]]:
    """Return a row for each backend and one for what ``auto`` means, and the usable ones, ``auto``'s choice first."""
    rows = [row for name in names for row in _guarded(f"backend {name}", partial(_backend, name))]
    usable = [name for name in names for row in rows if row.component == f"backend {name}" and row.status == "ok"]
    if len(names) > 1:
        automatic = _guarded("backend auto", _automatic)
        usable.sort(key=lambda name: name != automatic[0].found)
        rows = [*automatic, *rows]
    return rows, usable


def _backend(name: str) -> Iterator[DoctorRow]:
    from ..backends.registry import availability, backend

    found = availability(name)
    if found.ok:
        yield ok(f"backend {name}", backend(name).version(), "Builds and runs engines here.")
    else:
        yield missing(f"backend {name}", found.reason, found="not usable")


def _automatic() -> Iterator[DoctorRow]:
    from ..backends.registry import choose_backend

    try:
        name, reason = choose_backend("auto")
        yield ok("backend auto", name, f"Taken when none is named: {reason.rstrip('.')}.")
    except BuildError as fault:
        yield error("backend auto", "none", fault.what, fault.remedy)
