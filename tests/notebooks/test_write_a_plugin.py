"""The tutorial that writes a plugin runs from top to bottom, and says what it should."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "10_write_a_plugin.ipynb"


def test_plugin_is_written_in_ten_cells(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "run_notebook.py", NOTEBOOK, "--output-dir", tmp_path, "--timeout", "120"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(tmp_path / NOTEBOOK.name, as_version=4)
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert len(cells) == 10
    said = ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]
    assert float(said[5].split()[-1]) < 2e-5  # float32 near 30, and tanh by another formula
    assert 'plugin_namespace: string = "trtbench"' in said[7]
    assert float(said[7].split()[-1]) < 2e-5
    assert said[8].count("['u64', 'u32', 'u64']") == 2
    assert said[9] == "15 shapes agree\n"
