"""Probes of a machine that does not exist: one for each way in which a trial may end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trtbench_lab.errors import BuildError


def compare(folder: Path, difference: float = 0.001) -> tuple[float, dict[str, Any]]:
    """Give a difference, and leave files as a real trial does."""
    (folder / "network.onnx").write_bytes(b"an ONNX file")
    (folder / "rank0.inspector.json").write_text('{"Layers": []}')
    print("built in", os.path.expanduser("~"))
    return difference, {"build_s": 1.5}


def report(folder: Path) -> tuple[None, dict[str, Any]]:
    """Compare nothing."""
    return None, {"layers": 12}


def refuse(folder: Path) -> Any:
    """Fail with an error of ours."""
    raise BuildError("TensorRT has no kernel for this head size.", remedy="None.", details="four pages of log")


def stumble(folder: Path) -> Any:
    """Fail with an error of somebody else's."""
    raise ZeroDivisionError("a bug in a library")


def crash(folder: Path) -> Any:
    """Die as native code does."""
    print("Segmentation is near", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(folder: Path) -> Any:
    """Never end, and leave a child that would not either."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "child.txt").write_text(str(child.pid))
    time.sleep(600)


def leave(folder: Path) -> Any:
    """End without a word."""
    os._exit(0)


PROBES = {function.__name__: function for function in (compare, report, refuse, stumble, crash, hang, leave)}
