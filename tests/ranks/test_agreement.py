"""Ranks that do not fit each other or their engine are refused on every rank, before anything is loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trtbench_lab.backends.torch.gpu.memory_plan import CachePlan
from trtbench_lab.engine import Engine
from trtbench_lab.errors import EngineError, EngineMismatchError, StorageError, TrtbenchError
from trtbench_lab.ranks import Launch
from trtbench_lab.ranks import world as world_module
from trtbench_lab.runtime import ranked
from trtbench_lab.specs import Mapping

WAIT_S = 20
TP2, PP2 = Mapping(tp_size=2), Mapping(pp_size=2)


@dataclass
class Described:
    """What ranks look at of an engine; loading it is written down."""

    key: str = "a1b2"
    mapping: Mapping = TP2
    backend_version: str = "1"
    loaded: list[int] = field(default_factory=list)
    directory: Path = Path("engine")
    fails: bool = False

    @property
    def config(self) -> Any:
        model = SimpleNamespace(mapping=self.mapping)
        plugins = SimpleNamespace(use_custom_all_reduce=False)
        return SimpleNamespace(
            key=self.key,
            pretrained_config=model,
            backend_version=self.backend_version,
            build_config=SimpleNamespace(plugin_config=plugins),
        )

    def executor(self, rank: int, **_: Any) -> str:
        if self.fails:
            raise RuntimeError("no memory for that")
        self.loaded.append(rank)
        return f"executor {rank}"


class Meeting:
    """Two ranks as two threads of this process: `share` waits for both."""

    def __init__(self) -> None:
        self.barrier, self.values = threading.Barrier(2), [None, None]

    def at(self, rank: int) -> Any:
        def share(value: Any) -> list[Any]:
            self.values[rank] = value
            self.barrier.wait(WAIT_S)
            found = list(self.values)
            self.barrier.wait(WAIT_S)
            return found

        return SimpleNamespace(rank=rank, size=2, share=share)


def on_both(
    engines: list[Described | TrtbenchError], monkeypatch: pytest.MonkeyPatch, communicators: list[Mapping]
) -> list[Any]:
    """Let two ranks open one engine each; return what each of them got or raised."""
    meeting, here = Meeting(), threading.local()
    found: list[Any] = [None, None]

    def opened(_: Path, rank: int, verify: str) -> Described:
        assert verify == "load"
        engine = engines[rank]
        if isinstance(engine, TrtbenchError):
            raise engine
        return engine

    def communicator(mapping: Mapping, **_: Any) -> None:
        communicators.append(mapping)

    monkeypatch.setattr(ranked, "control", lambda: here.world)
    monkeypatch.setattr(ranked, "communicator_for", communicator)
    monkeypatch.setattr(Engine, "from_dir", staticmethod(opened))

    def run(rank: int) -> None:
        here.world = meeting.at(rank)
        try:
            found[rank] = ranked.ranked_executor("engine")
        except TrtbenchError as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * WAIT_S)
    return found


def test_ranks_with_the_same_engine_load_their_part_of_it(monkeypatch):
    engines, communicators = [Described(), Described()], []
    found = on_both(engines, monkeypatch, communicators)
    assert [executor for _, executor in found] == ["executor 0", "executor 1"]
    assert [engine.loaded for engine in engines] == [[0], [1]]
    assert communicators == [TP2, TP2]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Described(key="c3d4"), "Rank 1 has engine 'c3d4'; rank 0 has 'a1b2'"),
        (Described(mapping=PP2), "Rank 1 has layout {.*'pp_size': 2.*}; rank 0 has {.*'tp_size': 2"),
        (Described(backend_version="2"), "Rank 1 has backend '2'; rank 0 has '1'"),
    ],
    ids=["engine", "mapping", "backend"],
)
def test_differing_ranks_are_refused_on_both_before_anything_is_loaded(other, words, monkeypatch):
    engines, communicators = [Described(), other], []
    for error in on_both(engines, monkeypatch, communicators):
        assert isinstance(error, EngineMismatchError)
        assert error.agreed
        assert "same engine folder" in error.remedy
        with pytest.raises(EngineMismatchError, match=words):
            raise error
    assert [engine.loaded for engine in engines] == [[], []]
    assert communicators == []


def test_a_folder_that_one_rank_cannot_read_stops_both(monkeypatch):
    missing, communicators = StorageError("There is no such folder.", where="/scratch/engine"), []
    engine = Described()
    for error in on_both([engine, missing], monkeypatch, communicators):
        assert isinstance(error, StorageError)
        assert error.where.startswith("rank 1")
    assert engine.loaded == []
    assert communicators == []


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_any_kind_on_one_rank_stops_both(failing, monkeypatch):
    engines = [Described(fails=rank == failing) for rank in range(2)]
    for error in on_both(engines, monkeypatch, []):
        assert isinstance(error, EngineError)
        assert error.agreed
        assert error.what == "RuntimeError: no memory for that"
        assert "in executor" in error.details


def test_sessions_take_the_pool_of_the_rank_with_the_least_room():
    meeting = Meeting()
    plans = [CachePlan(8, 2, blocks, 64, torch.float32, "") for blocks in (9, 5)]
    sessions = [SimpleNamespace(plan=plan) for plan in plans]
    threads = [
        threading.Thread(
            target=ranked._open,
            args=(meeting.at(rank), SimpleNamespace(fused_session=lambda rank=rank: sessions[rank])),
            daemon=True,
        )
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert [session.plan.num_blocks for session in sessions] == [5, 5]


@pytest.mark.parametrize(
    ("launch", "mapping", "words"),
    [
        (Launch("mpi", 0, 3), TP2, r"2 rank\(s\) are needed, and 3 were started"),
        (Launch("env", 1, 2), Mapping(tp_size=2, pp_size=2), r"4 rank\(s\) are needed, and 2 were started"),
        (Launch(), PP2, r"2 rank\(s\) are needed, and 1 was started"),
    ],
)
def test_another_number_of_ranks_is_refused_before_they_speak(launch, mapping, words, monkeypatch):
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing may be asked or loaded")

    patches: list[tuple[Any, str, Callable[..., Any]]] = [
        (world_module, "launched", lambda: launch), (ranked, "control", never), (ranked, "communicator_for", never),
    ]  # fmt: skip
    for where, name, stand_in in patches:
        monkeypatch.setattr(where, name, stand_in)
    engine = Described(mapping=mapping)
    with pytest.raises(EngineMismatchError, match=words):
        ranked.ranked_runner(engine, {})
    with pytest.raises(EngineMismatchError, match=words):
        world_module.communicator_for(mapping)
    assert engine.loaded == []
