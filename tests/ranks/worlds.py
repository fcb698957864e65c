"""Start ranks from a test: ``mpiexec`` of the same environment, over processes of this Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

SOURCES = os.pathsep.join(str(Path(__file__).parents[2] / name) for name in ("src", "."))
# Where there are GPUs every rank starts CUDA and NCCL, captures graphs and may compile kernels.
_PATIENCE = 5 if torch.cuda.is_available() else 1
_MOST_S = float(os.environ.get("TRTBENCH_TEST_RANKS_MOST_S", "inf"))  # for a machine that is paid by the minute
_ENDING_S = 30.0


def mpiexec() -> str:
    """Return the launcher beside this Python, or the one on the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else str(shutil.which("mpiexec"))


def on_ranks(count: int, module: str, *arguments: str, timeout_s: float = 150) -> subprocess.CompletedProcess[str]:
    """Run ``python -m MODULE ARGUMENTS`` on `count` ranks and return what it printed.

    Ranks that are not done in time end, and their stacks stand in `stderr`. mpiexec would eat the test's input.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (SOURCES, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "UCX_TLS": "self,sm",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "NCCL_DEBUG": os.environ.get("NCCL_DEBUG", "WARN"),
    }
    limit_s, began = min(_PATIENCE * timeout_s, _MOST_S), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trtbench-stacks-") as folder:
        done = subprocess.run(
            [
                mpiexec(), "-n", str(count), sys.executable,
                "-m", "tests.ranks.watched", str(limit_s), folder, module, *arguments,
            ],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s + _ENDING_S, env=environment,
            check=False,
        )  # fmt: skip
        stacks = [file.read_text() for file in sorted(Path(folder).iterdir())]
    print(f"{count} ranks of {module}: {time.monotonic() - began:.1f} s\n{done.stderr}")  # seen where the test fails
    done.stderr += "".join(f"\nOne rank had not ended after {limit_s:g} s:\n{text}" for text in stacks if text)
    return done
