"""Each tutorial runs from top to bottom on the embedded backend, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from store_notebook import MOST_BYTES, execute, lighten  # noqa: E402

# 00 is `make tour`'s; 10 has a test of its own.
ELSEWHERE = {"00", "10"}
NEEDS_MPI = {"08"}
TUTORIALS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.name[:2] not in ELSEWHERE]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.mpi] if path.name[:2] in NEEDS_MPI else []) for path in TUTORIALS],
    ids=lambda path: path.stem,
)
def test_runs_and_stays_light(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT / 'widgets'}")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # the hub that 01 downloads from is on the machine itself
        monkeypatch.delenv(name, raising=False)
    notebook = lighten(execute(path, tmp_path, timeout_s=300), tmp_path)  # raises at the first cell that fails
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            for mime, value in output.get("data", {}).items():
                assert not mime.startswith("application/vnd"), cell.source
                assert len(str(value)) <= 4 * MOST_BYTES
                assert str(tmp_path) not in str(value)
                assert "<script" not in str(value)
