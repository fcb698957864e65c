"""Which backends there are, and which of them `auto` means here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from ..errors import BuildError, did_you_mean
from .protocol import Availability, Builder

BACKENDS = ("tensorrt", "torch", "onnxruntime")

# Each backend is a module with a `builder()` function, imported when it is asked for: none is needed by the others.
_MODULES = {"tensorrt": ".tensorrt.builder", "torch": ".torch.builder", "onnxruntime": ".onnxruntime.builder"}


@dataclass(frozen=True)
class BackendChoice:
    """A backend and the sentence that says why it was taken; unpacks as ``name, reason``."""

    name: str
    reason: str

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter((self.name, self.reason))


def backend(name: str) -> Builder:
    """Return the builder of the backend `name`.

    Raises
    ------
    BuildError
        For a name that is none, or a backend that this version cannot build with.
    """
    if name not in BACKENDS:
        raise BuildError(f"There is no backend {name!r}.", where="backend", remedy=did_you_mean(name, BACKENDS))
    return importlib.import_module(_MODULES[name], __package__).builder()  # type: ignore[no-any-return]


def availability(name: str) -> Availability:
    """Say whether the backend `name` can be used on this machine; never raises for a known name."""
    return backend(name).available()


def choose_backend(name: str = "auto", *, world_size: int = 1) -> BackendChoice:
    """Settle ``auto`` for this machine: on a GPU tensorrt, else torch; for several ranks torch; else onnxruntime.

    Parameters
    ----------
    name
        ``"auto"`` or a backend's name, which is then only checked.
    world_size
        Ranks of the model; the onnxruntime backend runs one.

    Raises
    ------
    BuildError
        When the named backend cannot be used here, or none can.
    """
    if name != "auto":
        found = availability(name) if name in BACKENDS else backend(name).available()
        if not found.ok:
            raise BuildError(
                found.reason, where="backend", remedy="Leave backend at 'auto', or install what it needs (see doctor)."
            )
        return BackendChoice(name, "asked for")
    gpus = _cuda_devices()
    if gpus:
        found = availability("tensorrt")
        if found.ok:
            return BackendChoice("tensorrt", f"{gpus} GPU(s) are visible, and TensorRT is installed")
        return BackendChoice("torch", f"{gpus} GPU(s) are visible; {found.reason}")
    if world_size > 1:
        return BackendChoice("torch", f"the model has {world_size} ranks, which onnxruntime does not run")
    if availability("onnxruntime").ok:
        return BackendChoice("onnxruntime", "no GPU is visible, and onnxruntime is the fastest backend on a CPU")
    return BackendChoice("torch", f"no GPU is visible and {availability('onnxruntime').reason}")


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
