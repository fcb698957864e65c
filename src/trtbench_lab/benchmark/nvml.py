"""The driver's own account of GPU memory, through NVML's C library: no package and no CUDA context needed."""

from __future__ import annotations

import ctypes
import os
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
_SUCCESS, _INSUFFICIENT_SIZE = 0, 7
_UNKNOWN_BYTES = (1 << 64) - 1  # the driver's "not available", for example under a hypervisor


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _ProcessInfo(ctypes.Structure):
    # nvmlProcessInfo_v2_t, which the _v3 call fills
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("usedGpuMemory", ctypes.c_ulonglong),
        ("gpuInstanceId", ctypes.c_uint),
        ("computeInstanceId", ctypes.c_uint),
    )


class DeviceMemory:
    """Used memory of one GPU and of this process on it, in bytes."""

    def __init__(self, library: Any, handle: ctypes.c_void_p):
        self._library = library
        self._handle = handle

    @classmethod
    def of_torch_device(cls, index: int) -> DeviceMemory | None:
        """Return the GPU that torch calls `index`, None where the driver cannot be asked.

        It is found by its UUID, because CUDA_VISIBLE_DEVICES renumbers torch's devices and not NVML's.
        """
        import torch

        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
        return None if uuid is None else cls.of_uuid(f"GPU-{uuid}")

    @classmethod
    def of_uuid(cls, uuid: str, library: Any = None) -> DeviceMemory | None:
        """Return the GPU with that UUID (``"GPU-…"``), None where there is none or no driver."""
        if library is None:
            try:
                library = ctypes.CDLL(LIBRARY)
            except OSError:
                return None
        if library.nvmlInit_v2() != _SUCCESS:
            return None
        handle = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) != _SUCCESS:
            library.nvmlShutdown()
            return None
        return cls(library, handle)

    def used(self) -> int | None:
        """Memory in use on the device by everybody."""
        memory = _Memory()
        if self._library.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory)) != _SUCCESS:
            return None
        return int(memory.used)

    def of_process(self, pid: int | None = None) -> int | None:
        """Memory that the driver accounts to a process (this one by default); None where it does not tell.

        In a container the driver often knows processes by numbers of the host, or hides them: then it is not told.
        """
        wanted = os.getpid() if pid is None else pid
        for info in self._processes():
            if info.pid == wanted and info.usedGpuMemory != _UNKNOWN_BYTES:
                return int(info.usedGpuMemory)
        return None

    def close(self) -> None:
        """Let go of the library; calls are counted there, so others keep theirs."""
        self._library.nvmlShutdown()

    def _processes(self) -> list[_ProcessInfo]:
        count = ctypes.c_uint(64)
        for _ in range(3):  # the list may grow between two calls
            infos = (_ProcessInfo * max(count.value, 1))()
            status = self._library.nvmlDeviceGetComputeRunningProcesses_v3(self._handle, ctypes.byref(count), infos)
            if status == _SUCCESS:
                return list(infos[: count.value])
            if status != _INSUFFICIENT_SIZE:
                return []
            count = ctypes.c_uint(count.value + 16)
        return []
