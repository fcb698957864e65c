"""Every test gets its own home folder, so that no test sees another's caches or results."""

from __future__ import annotations

import copy
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Python's readline writes the terminal's size here, and each of several processes of tests inherits it: what the shell
# prints would be fitted to the screen of whoever runs the tests.
os.environ.pop("COLUMNS", None)

# Drawn examples are the same in every run, and none has a time limit: neither chance nor a busy machine decides.
# Others are drawn with `pytest --hypothesis-profile default`.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Let Ctrl-C work: what a shell starts in the background ignores interrupts, and so would all children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Files of the longest tests come first, so that no process is left alone with one at the end.
FIRST = ("tests/notebooks/", "tests/workbench/", "tests/backends/tensorrt/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files, where several processes take them one by one."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Make homes by counting: to number a folder pytest reads the names of all before it, thousands at the end."""
    folder, numbers = tmp_path_factory.mktemp("homes"), itertools.count()

    def make() -> Path:
        home = folder / str(next(numbers))
        home.mkdir()
        return home

    return make


@pytest.fixture(autouse=True)
def own_home(_homes: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point ``$TRTBENCH_HOME`` to a fresh folder."""
    home = _homes()
    monkeypatch.setenv("TRTBENCH_HOME", str(home))
    return home


_registries: dict[tuple[Any, ...], Any] = {}


@pytest.fixture(autouse=True)
def _read_torchlib_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each export a copy of torch's table of operators, which takes 1 s to read and is the same every time."""
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    if registration is None:
        return
    read = registration.ONNXRegistry.from_torchlib

    def from_torchlib(*arguments: Any, **keywords: Any) -> Any:
        key = (*arguments, *keywords.items())
        if key not in _registries:
            _registries[key] = read(*arguments, **keywords)
        registry = copy.copy(_registries[key])
        registry.functions = {target: list(known) for target, known in registry.functions.items()}
        return registry

    monkeypatch.setattr(registration.ONNXRegistry, "from_torchlib", staticmethod(from_torchlib))
