"""Start ranks from a test: ``mpiexec`` of the same environment, over processes of this Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = os.pathsep.join(str(Path(__file__).parents[2] / name) for name in ("src", "."))


def mpiexec() -> str:
    """Return the launcher beside this Python, or the one on the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else str(shutil.which("mpiexec"))


def on_ranks(count: int, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` on `count` ranks and return what it printed; mpiexec would eat the test's input."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (SOURCES, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "UCX_TLS": "self,sm",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    return subprocess.run(
        [mpiexec(), "-n", str(count), sys.executable, *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False,
    )  # fmt: skip
