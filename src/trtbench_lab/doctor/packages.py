"""Packages: which are installed, in which version, and what the absent ones would be for."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from .report import DoctorRow, error, missing, ok, warning

# Lowest supported version and first unsupported one, as in pyproject.toml (a test holds the two together).
PYTHON_BOUNDS = ("3.11", "3.14")
BASE: dict[str, tuple[str, str | None]] = {
    "torch": ("2.11", None),
    "transformers": ("5.17", "6"),
    "tokenizers": ("0.22", None),
    "safetensors": ("0.6", None),
    "huggingface-hub": ("1.0", "3"),
    "numpy": ("2.0", None),
    "onnx": ("1.23", None),
    "onnxscript": ("0.7", None),
    "onnx-ir": ("1.0", None),
    "rouge-score": ("0.1.2", None),
    "sentencepiece": ("0.2", None),
    "psutil": ("6.0", None),
    "xxhash": ("3.5", None),
}
_SHOWN_ALONE = ("torch", "transformers", "onnx", "huggingface-hub")
ONNXRUNTIME_BOUNDS = ("1.30", None)
TENSORRT_BOUNDS = ("11.1", "12")


@dataclass(frozen=True)
class OptionalPackage:
    """A package of an extra, and what it is for."""

    name: str
    bounds: tuple[str, str | None]
    extra: str
    purpose: str


OPTIONAL = (
    OptionalPackage("jupyterlab", ("4.4", "5"), "lab", "work in notebooks (`make lab`)"),
    OptionalPackage("ipywidgets", ("8.1", None), "lab", "use the panels and progress bars in notebooks"),
    OptionalPackage("plotly", ("6.1", None), "lab", "draw figures"),
    OptionalPackage("pandas", ("2.2", None), "lab", "export results as tables"),
    OptionalPackage("pyarrow", ("18", None), "lab", "export results as Parquet"),
)


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def within(version: str, bounds: tuple[str, str | None]) -> bool:
    """Whether `version` lies in [lowest, first unsupported); a build tag (``2.13.0+cpu``) does not count."""
    lowest, beyond = bounds
    return _key(version) >= _key(lowest) and (beyond is None or _key(version) < _key(beyond))


def _key(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in found[0].split(".")] if found else [0]
    return tuple(parts + [0] * (4 - len(parts)))


def _range(bounds: tuple[str, str | None]) -> str:
    return f"{bounds[0]} or newer" + (f", below {bounds[1]}" if bounds[1] else "")


def check_python() -> Iterator[DoctorRow]:
    """Look at the interpreter and at this package."""
    from .._version import __version__

    version = ".".join(str(part) for part in sys.version_info[:3])
    found = f"{version} ({sys.executable})"
    if within(version, PYTHON_BOUNDS):
        yield ok("Python", found, "Supported.")
    else:
        tested = _range(PYTHON_BOUNDS)
        yield warning("Python", found, "This version is not among the tested ones.", f"Use Python {tested}.")
    yield ok("trtbench-lab", __version__, "This package.")


def check_base() -> Iterator[DoctorRow]:
    """Look at the packages that everything needs; those that only libraries use share a row when they are right."""
    rest = []
    for name in BASE:
        row = _base_row(name)
        if row.status != "ok" or name in _SHOWN_ALONE:
            yield row
        else:
            rest.append(f"{name} {row.found}")
    if rest:
        yield ok("other base packages", ", ".join(rest), "Installed in supported versions.")


def _base_row(name: str) -> DoctorRow:
    version, bounds = installed_version(name), BASE[name]
    install = f"pip install '{name}>={bounds[0]}{f',<{bounds[1]}' if bounds[1] else ''}'"
    if version is None:
        return error(
            name, "none", "A base package: parts of this project do not work without it.", f"Install it: {install}"
        )
    if not within(version, bounds):
        return warning(name, version, f"Supported is {_range(bounds)}.", f"Change it: {install}")
    return ok(name, version, "Supported version.")


def check_optional() -> Iterator[DoctorRow]:
    """Look at the packages for notebooks, figures and export."""
    for package in OPTIONAL:
        version = installed_version(package.name)
        install = f"pip install 'trtbench-lab[{package.extra}]'"
        if version is None:
            yield missing(package.name, f"Needed only to {package.purpose}.", f"Install: {install}")
        elif not within(version, package.bounds):
            meaning = f"Needed to {package.purpose}; supported is {_range(package.bounds)}."
            yield warning(package.name, version, meaning, f"Change it: {install}")
        else:
            yield ok(package.name, version, f"Can {package.purpose}.")


def check_onnxruntime() -> Iterator[DoctorRow]:
    """Look at ONNX Runtime, loading it: a wheel for another processor or libc fails only then."""
    name, install = "onnxruntime", "pip install 'trtbench-lab[onnxruntime]'"
    # The build for GPUs is a distribution of its own with the same module.
    version = installed_version(name) or installed_version("onnxruntime-gpu")
    if version is None:
        meaning = "Needed only for the onnxruntime backend, the fastest on a CPU."
        yield missing(name, meaning, f"Install: {install}")
        return
    try:
        providers = importlib.import_module(name).get_available_providers()
    except Exception as fault:
        meaning = f"It is installed and does not load: {first_line(fault)}."
        yield warning(name, version, meaning, f"Install it again: {install}")
        return
    if not within(version, ONNXRUNTIME_BOUNDS):
        yield warning(name, version, f"Supported is {_range(ONNXRUNTIME_BOUNDS)}.", f"Change it: {install}")
        return
    shown = ", ".join(provider.removesuffix("ExecutionProvider") for provider in providers)
    yield ok(name, version, f"It loads; execution providers: {shown}.")


def check_tensorrt() -> Iterator[DoctorRow]:
    """Look at TensorRT's Python bindings and at whether their libraries load (in a child process: they weigh 2 GB)."""
    builds = {}
    for cuda in ("cu13", "cu12"):
        version = installed_version(f"tensorrt-{cuda}-bindings") or installed_version(f"tensorrt-{cuda}")
        if version is not None:
            builds[cuda] = version
    plain = installed_version("tensorrt")
    if not builds and plain is None:
        remedy = "On a machine with such a GPU install: pip install 'trtbench-lab[tensorrt]'"
        yield missing("tensorrt", "Needed only for TensorRT engines, on an NVIDIA GPU.", remedy)
        return
    found = ", ".join(f"{version} ({cuda})" for cuda, version in builds.items()) or str(plain)
    lowest, beyond = TENSORRT_BOUNDS
    if not all(within(version, TENSORRT_BOUNDS) for version in builds.values() or [str(plain)]):
        remedy = f"Change it: pip install 'tensorrt-cu13>={lowest},<{beyond}' (cu12 for drivers of CUDA 12)"
        yield warning("tensorrt", found, f"Supported is {_range(TENSORRT_BOUNDS)}.", remedy)
        return
    if len(builds) > 1:
        remedy = "Uninstall the one that does not fit the driver, for example: pip uninstall tensorrt-cu12-bindings"
        yield warning("tensorrt", found, "Two builds share one module name, so one hides the other.", remedy)
        return
    fault = _import_fault("tensorrt")
    if fault is not None:
        remedy = "Install the libraries of the same version (tensorrt-cu13-libs), or check the driver."
        yield warning("tensorrt", found, f"It does not load: {fault}.", remedy)
        return
    yield ok("tensorrt", found, "Bindings and libraries load.")


def _import_fault(module: str) -> str | None:
    """Import `module` in a child process; return None, or why it does not load."""
    command = [sys.executable, "-c", f"import {module}"]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return "importing it takes over two minutes"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else f"the process ended with status {done.returncode}"


def first_line(fault: BaseException) -> str:
    """Return the first line of an error's text, for a table's cell."""
    lines = str(fault).strip().splitlines()
    return (lines[0] if lines else type(fault).__name__)[:200].rstrip(".")
