"""Every test gets its own home folder, so that no test sees another's caches or results."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Let Ctrl-C work: what a shell starts in the background ignores interrupts, and so would all children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point ``$TRTBENCH_HOME`` to a fresh folder."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("TRTBENCH_HOME", str(home))
    return home
