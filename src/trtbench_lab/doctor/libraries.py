"""Shared libraries by their names: the driver, TensorRT's, NCCL, Triton's kernels, and the memory that ranks share."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .accelerators import driver_cuda_version
from .packages import installed_version
from .probes import child_output
from .report import DoctorRow, missing, ok, warning

TENSORRT_LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")
TRITON_BOUNDS = ("3.6", "4")
_LITTLE_SHARED_MEMORY_GIB = 1
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written
_DRIVER_VERSION = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)")

# The wheel of the libraries puts them beside the package, where the loader looks only once the package is imported.
_LOAD_EACH = """
import ctypes, importlib, json, os, sys
for name in ("tensorrt_cu13_libs", "tensorrt_cu12_libs", "tensorrt_libs"):
    try:
        importlib.import_module(name)
    except Exception:
        pass
faults = {}
for library in sys.argv[1:] or LIBRARIES:
    try:
        ctypes.CDLL(library)
    except OSError as error:
        faults[library] = str(error)
print(json.dumps(faults))
"""
# A CUDA build of torch brings NCCL as a wheel of its own, whose folder the loader does not know.
_NCCL_VERSION = """
import ctypes, glob, os, sys
beside = [path for folder in sys.path for path in glob.glob(os.path.join(folder, "nvidia/nccl/lib/libnccl.so.2"))]
for name in ["libnccl.so.2", "libnccl.so", *beside]:
    try:
        library = ctypes.CDLL(name)
    except OSError:
        continue
    number = ctypes.c_int()
    library.ncclGetVersion(ctypes.byref(number))
    value = number.value
    print(f"{value // 10000}.{value // 100 % 100}.{value % 100} ({name})")
    break
"""


def check_driver(proc: Path = Path("/proc/driver/nvidia/version")) -> Iterator[DoctorRow]:
    """Look at the NVIDIA driver and the CUDA version that it serves."""
    try:
        found = _DRIVER_VERSION.search(proc.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    cuda = driver_cuda_version()
    if found is None and cuda is None:
        yield missing(
            "driver", "There is no NVIDIA driver, so no CUDA.", "On a machine with an NVIDIA GPU install its driver."
        )
        return
    version = found.group(1) if found else "of unknown version"
    if cuda is None:
        remedy = "In a container pass the GPU in (docker run --gpus all); else install the driver's user libraries."
        yield warning("driver", version, "The driver is loaded, and its library libcuda.so.1 is not here.", remedy)
        return
    meaning = f"It serves programs built for CUDA up to {cuda}."
    yield ok("driver", f"{version}, CUDA {cuda}", meaning)


def check_mig() -> Iterator[DoctorRow]:
    """Look whether a GPU is cut into slices (MIG)."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return
    answer = subprocess.run(
        [tool, "--query-gpu=index,mig.mode.current", "--format=csv,noheader"],
        check=False, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    for line in answer.stdout.splitlines() if answer.returncode == 0 else ():
        index, _, mode = (part.strip() for part in line.partition(","))
        if mode.casefold() == "enabled":
            meaning = (
                "The GPU is cut into slices: a process sees one, with its share of memory and processors, and slices "
                "do not talk to each other by NCCL."
            )
            remedy = "Choose a slice with CUDA_VISIBLE_DEVICES=MIG-…, or switch MIG off: nvidia-smi -i 0 -mig 0"
            yield warning(f"MIG of GPU {index}", "enabled", meaning, remedy.replace("-i 0", f"-i {index}"))


def check_tensorrt_libraries() -> Iterator[DoctorRow]:
    """Load each of TensorRT's libraries by its name, in another process."""
    bindings = next(
        (name for name in ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt") if installed_version(name)),
        None,
    )
    if bindings is None:
        yield missing(
            "TensorRT libraries",
            "Needed only for TensorRT engines.",
            "On a machine with an NVIDIA GPU install: pip install 'trtbench-lab[tensorrt]'",
        )
        return
    text, fault = child_output(_LOAD_EACH.replace("LIBRARIES", repr(TENSORRT_LIBRARIES)))
    faults: dict[str, str] | None = None
    try:
        faults = json.loads(text.splitlines()[-1]) if text else None
    except ValueError:
        fault = fault or text[:200]
    version = installed_version(bindings)
    cuda = "cu12" if "cu12" in bindings else "cu13"
    remedy = f"Install the libraries of the bindings' version: pip install tensorrt-{cuda}-libs=={version}"
    if faults is None:
        yield warning("TensorRT libraries", "unknown", f"They could not be loaded: {fault.rstrip('.')}.", remedy)
    elif faults:
        lacking = ", ".join(faults)
        reason = next(iter(faults.values())).rstrip(".")
        yield warning("TensorRT libraries", f"missing: {lacking}", f"The loader says: {reason}.", remedy)
    else:
        yield ok("TensorRT libraries", ", ".join(TENSORRT_LIBRARIES), "All three load.")


def check_triton() -> Iterator[DoctorRow]:
    """Look at Triton, which compiles the kernels of the plugins."""
    from .packages import within

    version = installed_version("triton")
    install = "pip install 'trtbench-lab[gpu]'"
    if version is None:
        yield missing(
            "triton", "Needed only for the plugins' kernels, on a GPU and for TensorRT.", f"Install: {install}"
        )
    elif not within(version, TRITON_BOUNDS):
        meaning = f"Supported is {TRITON_BOUNDS[0]} or newer, below {TRITON_BOUNDS[1]}."
        yield warning("triton", version, meaning, f"Change it: {install}")
    else:
        yield ok("triton", version, "Compiles the plugins' kernels; without a GPU it interprets them.")


def check_nccl() -> Iterator[DoctorRow]:
    """Look at NCCL, by which ranks on several GPUs exchange tensors."""
    version, _ = child_output(_NCCL_VERSION)
    if version:
        yield ok("NCCL", version, "Ranks on several GPUs can exchange tensors.")
        return
    yield missing(
        "NCCL", "Needed only for several ranks on GPUs.", "Install it: pip install nvidia-nccl-cu13 (cu12 for CUDA 12)"
    )


def check_shared_memory(folder: Path = _SHARED_MEMORY) -> Iterator[DoctorRow]:
    """Look at the memory that processes of one machine share: NCCL, MPI and data loaders put their buffers there."""
    if not folder.is_dir():
        yield missing("shared memory", f"There is no {folder} on this system; ranks use files instead.", None)
        return
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f} at {folder}"
    remedy = "Start the container with more: docker run --shm-size=8g (or --ipc=host)."
    if not os.access(folder, os.W_OK):
        yield warning("shared memory", found, "It cannot be written, and ranks put their buffers there.", remedy)
    elif usage.free < _LITTLE_SHARED_MEMORY_GIB * 2**30:
        yield warning("shared memory", found, "Little: ranks that exchange large tensors die with a bus error.", remedy)
    else:
        yield ok("shared memory", found, "Ranks of one machine exchange tensors through it.")
