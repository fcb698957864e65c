"""Print which uses of TensorRT in the backend the contract tests go through: scripts/tensorrt_contract.py"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEST = "tests/backends/tensorrt/test_contract.py::test_every_use_of_tensorrt_is_gone_through"

if __name__ == "__main__":
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "--no-header", TEST], cwd=ROOT, check=False)
    raise SystemExit(done.returncode)
