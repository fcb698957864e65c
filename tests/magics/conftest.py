"""A real IPython shell with the magics loaded, and a workbench that only writes down what it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from trtbench_lab import workbench
from trtbench_lab.specs.command_line import VERBS


@pytest.fixture
def shell(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
    config = Config()
    config.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    # `instance` rather than a plain object: display() and get_ipython() must find this very shell.
    running = InteractiveShell.instance(config=config)
    running.run_line_magic("load_ext", "trtbench_lab")
    yield running
    InteractiveShell.clear_instance()


class FakeResult:
    """What a fake verb gives back: it shows the request it got."""

    def __init__(self, verb: str, spec: Any):
        self.verb, self.spec = verb, spec

    def __repr__(self) -> str:
        return f"<result of {self.verb}>"

    def _repr_html_(self) -> str:
        return f"<b>result of {self.verb}</b>"


class FakeWorkbench:
    """Records requests; `act` is called with the verb's keywords while it "works"."""

    def __init__(self) -> None:
        self.specs: list[Any] = []
        self.act: Any = None

    def verb(self, name: str) -> Any:
        def call(spec: Any, **keywords: Any) -> FakeResult:
            self.specs.append(spec)
            if self.act is not None:
                self.act(**keywords)
            return FakeResult(name, spec)

        return call


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWorkbench:
    bench = FakeWorkbench()
    for verb in VERBS:
        # Set in the dictionary: asking the package for the attribute would load the real verb with torch and all.
        monkeypatch.setitem(vars(workbench), verb, bench.verb(verb))
    return bench


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path
