"""All checks in order; one that fails becomes a row of its own, so that an examination never raises."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..errors import BuildError, SpecError, did_you_mean
from ..specs.build import BACKENDS
from .accelerators import check_cuda, check_gpus, check_mpi
from .engine_fit import check_engine
from .libraries import (
    check_driver,
    check_mig,
    check_nccl,
    check_shared_memory,
    check_tensorrt_libraries,
    check_triton,
)
from .machine import check_hub, check_memory, check_processor, check_results, check_storage, check_threads
from .mpi_library import check_mpi_library
from .needs import needed_for
from .packages import check_base, check_onnxruntime, check_optional, check_python, check_tensorrt
from .probes import rows_of
from .report import Check, DoctorReport, DoctorRow, error, missing, ok

# Name of what is looked at → check, and the backend that alone needs it (None: all do).
_CHECKS: tuple[tuple[str, Check, str | None], ...] = (
    ("Python", check_python, None),
    ("base packages", check_base, None),
    ("CUDA", check_cuda, None),
    ("onnxruntime", check_onnxruntime, "onnxruntime"),
    ("driver", check_driver, None),
    ("tensorrt", check_tensorrt, "tensorrt"),
    ("TensorRT libraries", check_tensorrt_libraries, "tensorrt"),
    ("GPU", check_gpus, None),
    ("MIG", check_mig, None),
    ("triton", check_triton, None),
    ("NCCL", check_nccl, "torch"),
    ("MPI", check_mpi, "torch"),
    ("MPI library", check_mpi_library, "torch"),
    ("shared memory", check_shared_memory, "torch"),
    ("notebook packages", check_optional, None),
    ("CPU", check_processor, None),
    ("threads", check_threads, None),
    ("memory", check_memory, None),
    ("storage", check_storage, None),
    ("results", check_results, None),
    ("hub", check_hub, None),
)


def examine(backend: str | None = None, *, engine_dir: Path | str | None = None) -> DoctorReport:
    """Look over this machine: packages, GPU, drivers, processor, memory, disk, settings, and which backends work.

    Nothing is changed, no network is used, nothing that is found makes it raise, and each probe ends in its time.

    Parameters
    ----------
    backend
        Leave out what only the other backends need; None for everything.
    engine_dir
        An engine folder: whether it can be loaded here is asked first, and nothing of it is loaded.

    Raises
    ------
    SpecError
        For a backend that does not exist.
    """
    names = list(BACKENDS[1:])  # the first is "auto"
    if backend is not None and backend not in names:
        raise SpecError(f"There is no backend {backend!r}.", where="backend", remedy=did_you_mean(backend, names))
    rows, usable = _look_at_backends([backend] if backend else names)
    if engine_dir is not None:
        rows = [*rows_of("engine folder", partial(check_engine, engine_dir)), *rows]
    for name, check, only_for in _CHECKS:
        if backend is None or only_for in (None, backend):
            rows.extend(rows_of(name, check))
    explained = (dataclasses.replace(row, needed_for=row.needed_for or needed_for(row.component)) for row in rows)
    return DoctorReport(tuple(explained), tuple(usable))


def _look_at_backends(names: list[str]) -> tuple[list[DoctorRow], list[str]]:
    """Return a row for each backend and one for what ``auto`` means, and the usable ones, ``auto``'s choice first."""
    rows = [row for name in names for row in rows_of(f"backend {name}", partial(_backend, name))]
    usable = [name for name in names for row in rows if row.component == f"backend {name}" and row.status == "ok"]
    if len(names) > 1:
        automatic = rows_of("backend auto", _automatic)
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
