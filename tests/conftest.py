"""Every test gets its own home folder, so that no test sees another's caches or results."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point ``$TRTBENCH_HOME`` to a fresh folder."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("TRTBENCH_HOME", str(home))
    return home
