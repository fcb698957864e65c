"""Intermediate tensors of an engine that was built with enable_debug_output, read from one run."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from ...errors import EngineError, did_you_mean
from .bindings_check import tensorrt
from .cuda import CudaDevice
from .executor import TensorRTExecutor
from .plan import TORCH_NAMES


def debug_listener(trt: Any, cuda: CudaDevice, found: dict[str, torch.Tensor], faults: list[str]) -> Any:
    """Return an `IDebugListener` that copies each tensor to the host, into `found`; what it cannot goes to `faults`."""

    class Listener(trt.IDebugListener):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IDebugListener.__init__(self)

        def process_debug_tensor(self, addr: Any, location: Any, type: Any, shape: Any, name: str, stream: int) -> None:
            try:
                dtype = getattr(torch, TORCH_NAMES[type.name])
                address, sizes = _address(addr), tuple(int(size) for size in shape)
                if location == trt.TensorLocation.DEVICE:
                    found[name] = cuda.host_copy(address, sizes, dtype, stream)
                else:
                    found[name] = _from_host(address, sizes, dtype)
            except Exception as error:  # nothing may be raised into TensorRT
                faults.append(f"{name}: {error!r}")

    return Listener()


def debug_run(executor: TensorRTExecutor, names: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    """Run what is bound once, on a context of its own, and return intermediate tensors by name.

    Parameters
    ----------
    executor
        With everything bound.
    names
        Tensors to read; None reads all that the engine was built to give.

    Raises
    ------
    EngineError
        When the engine gives none, or not those.
    """
    known = executor.layout.debug_tensors
    wanted = list(known if names is None else names)
    if not known or not wanted:
        raise EngineError(
            "The engine gives no intermediate tensors.",
            where=str(executor.directory),
            remedy="Build it with enable_debug_output.",
        )
    trt = tensorrt()
    step = executor.current_step()
    engine = executor.plans()[step.place[0]].engine
    for name in wanted:
        if not engine.is_debug_tensor(name):
            raise EngineError(
                f"The engine does not give {name!r}.", where="debug tensors", remedy=did_you_mean(name, known)
            )
    bound = executor.own_context(step)
    found: dict[str, torch.Tensor] = {}
    faults: list[str] = []
    listener = debug_listener(trt, executor.cuda, found, faults)
    context = bound.context
    if not context.set_debug_listener(listener):
        raise bound.fault("TensorRT takes no listener.", "set_debug_listener")
    for name in wanted:
        if not context.set_tensor_debug_state(name, True):
            raise bound.fault("TensorRT does not give the tensor.", name)
    executor.run_alone(bound)
    if faults:
        raise EngineError(f"A tensor could not be read: {faults[0]}.", where="debug tensors", details="\n".join(faults))
    return {name: found[name] for name in wanted if name in found}


def _address(found: Any) -> int:
    """Return an address that comes as a number or, as the bindings pass ``void*``, in a PyCapsule."""
    if isinstance(found, int):
        return found
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return int(pointer(found, name(found)) or 0)


def _from_host(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    elements = torch.Size(shape).numel()
    if elements == 0:
        return torch.empty(shape, dtype=dtype)
    content = bytearray(ctypes.string_at(address, elements * dtype.itemsize))
    return torch.frombuffer(content, dtype=dtype).reshape(shape)
