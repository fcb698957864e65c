"""TensorRT's Python package, let in only where it can be used, with a sentence for whatever stands in the way."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from importlib import metadata
from types import ModuleType
from typing import Any, TypeVar

from ...errors import EngineError
from ..protocol import Availability

LOWEST, BEYOND = (11, 1), (12,)
TESTED = "11.4.0.106"
"""The version whose classes, enums and signatures the tests hold this backend to."""

INSTALL = "pip install 'tensorrt-cu13>=11.1,<12' (or tensorrt-cu12 with a driver of CUDA 12)"
DRIVER = "Look at nvidia-smi: TensorRT needs a visible NVIDIA GPU and a driver that knows its CUDA version."
_DISTRIBUTIONS = ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings")

Made = TypeVar("Made")


def tensorrt() -> ModuleType:
    """Import TensorRT.

    Raises
    ------
    EngineError
        When it is not installed, of another version, or without its libraries.
    """
    fault = import_fault()
    if fault is not None:
        what, remedy = fault
        raise EngineError(what, where="tensorrt backend", remedy=remedy)
    return importlib.import_module("tensorrt")


def tensorrt_version() -> str:
    """Return the version of the bindings, for example ``"11.4.0.106"``."""
    return str(tensorrt().__version__)


def availability() -> Availability:
    """Say whether engines can be built and run here; imports TensorRT only where a GPU is visible."""
    fault = version_fault()
    if fault is None:
        import torch

        if not torch.cuda.is_available():
            return Availability(False, "The tensorrt backend needs an NVIDIA GPU, and PyTorch sees none here.")
        fault = import_fault()
    return Availability(True) if fault is None else Availability(False, fault[0])


def version_fault() -> tuple[str, str] | None:
    """Return what is wrong with the installed bindings, by their metadata alone, and the remedy; None when they fit."""
    found = {name: version for name in _DISTRIBUTIONS if (version := _installed(name)) is not None}
    if len(found) > 1:
        listed = " and ".join(f"{name} {version}" for name, version in found.items())
        return (
            f"Two builds of TensorRT's bindings share one module name: {listed}.",
            "Uninstall the one that does not fit the driver, for example: pip uninstall tensorrt-cu12-bindings",
        )
    for name, version in found.items():
        if not supported(version):
            return _unsupported(f"{name} {version}")
    if _absent("tensorrt"):
        return "The tensorrt backend needs the package 'tensorrt', which is not installed.", f"Install it: {INSTALL}"
    return None


def import_fault() -> tuple[str, str] | None:
    """Return why TensorRT cannot be imported, and the remedy; None when it can."""
    fault = version_fault()
    if fault is not None:
        return fault
    try:
        module = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        return (
            f"TensorRT's bindings are installed without the package that uses them ({error.name} is missing).",
            f"Install the whole: {INSTALL}",
        )
    except (ImportError, OSError) as error:
        library = re.search(r"lib\w+\.so(?:\.\d+)*", str(error))
        named = f" ({library.group(0)})" if library else ""
        return (
            f"TensorRT's bindings are installed, and its libraries{named} do not load: {error}",
            "Install the libraries of the same version: pip install tensorrt-cu13-libs (or tensorrt-cu12-libs)",
        )
    version = str(getattr(module, "__version__", "of unknown version"))
    return None if supported(version) else _unsupported(f"tensorrt {version}")


def supported(version: str) -> bool:
    """Whether bindings of `version` are within the bounds."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:2])
    return LOWEST <= numbers < BEYOND


def created(make: Callable[[], Made | None], what: str) -> Made:
    """Return what `make` makes; TensorRT's two ways of failing, a TypeError and None, become an `EngineError`.

    Without a usable driver the constructors of `Builder` and `Runtime` raise ``TypeError: factory function returned
    nullptr`` after logging CUDA's error number; most other calls answer None.
    """
    try:
        made = make()
    except TypeError as error:
        if "nullptr" not in str(error):
            raise
        raise EngineError(
            f"TensorRT could not make {what}: CUDA does not start here.",
            where="tensorrt backend",
            remedy=DRIVER,
            details=str(error),
        ) from error
    if made is None:
        raise EngineError(
            f"TensorRT could not make {what}.",
            where="tensorrt backend",
            remedy="The log above says why; memory and an engine of another version are the usual causes.",
        )
    return made


def has_feature(owner: Any, name: str) -> bool:
    """Whether this version of the bindings has the attribute `name`, for features later than 11.1."""
    return hasattr(owner, name)


def _unsupported(found: str) -> tuple[str, str]:
    return (
        f"The tensorrt backend supports TensorRT 11.1 up to, and without, 12; installed is {found}.",
        f"Change it: {INSTALL}",
    )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _absent(module: str) -> bool:
    if module in sys.modules:
        return False
    return importlib.util.find_spec(module) is None
