"""Runners over several ranks: rank 0's, which generates and orders; the others', which give what rank 0 found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..errors import EngineError
from ..ranks import Control, communicator_for, control
from ..ranks.world import check_world_size
from .leading import Led, Result, agreed, one_at_a_time, order, together, together_each
from .limits import EngineLimits
from .runner import ModelRunner

if TYPE_CHECKING:
    from ..backends.protocol import Executor
    from ..engine import Engine

SESSION_CALLS = frozenset({"prefill", "logits_of", "decode", "expand", "take_rows"})
QUEUED_CALLS = frozenset({"start", "greedy", "take", "forward"})
_held: dict[int, ModelRunner] = {}
_numbers = iter(range(1 << 62))


class RankedRunner(ModelRunner):
    """`ModelRunner` of an engine of several ranks; every rank has one and makes the same calls.

    The prompts, the sampling and all that follows from them are rank 0's.
    """

    key: int
    _opened = False
    """Whether all ranks have a session of fused steps, with pools of one size."""

    def generate(self, *arguments: Any, streaming: bool = False, **keywords: Any) -> Any:
        """See `ModelRunner.generate`; every rank returns (or yields) what rank 0 generates."""
        if streaming:
            return together_each(lambda: self._yielded(arguments, keywords))
        generate = super().generate
        return self._together(lambda: generate(*arguments, **keywords))

    def _yielded(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Iterator[Any]:
        self._refuse_closed()
        yield from super().generate(*arguments, streaming=True, **keywords)

    def logits_of(self, sequences: list[list[int]], first: list[int] | None = None) -> list[torch.Tensor]:
        """See `ModelRunner.logits_of`."""
        logits_of = super().logits_of
        return self._together(lambda: logits_of(sequences, first))

    def close(self) -> None:
        """Free every rank's engine and cache."""
        together(lambda: self._close_all())

    def _together(self, body: Callable[[], Result]) -> Result:
        def unless_closed() -> Result:
            self._refuse_closed()
            return body()

        return together(unless_closed)

    def _refuse_closed(self) -> None:
        """Refuse what comes after `close` before the others are told, who hold nothing of this runner any more."""
        if self.key not in _held:
            raise EngineError("The engine is closed.", where=self.backend, remedy="Load it again.")

    def _close_all(self) -> None:
        if _held.pop(self.key, None) is None:
            return
        with one_at_a_time:
            if (world := control()) is not None:
                world.post(("close_runner", self.key))
            super().close()

    def _fused_session(self) -> Any:
        if not self._opened:
            world = control()
            assert world is not None  # noqa: S101
            with one_at_a_time:
                world.post(("open_queued", self.key))
                _open(world, self._paged)
            self._opened = True
        return Led(self._paged.fused_session(), "call_queued", self.key, QUEUED_CALLS)


def ranked_runner(engine: Engine, options: dict[str, Any]) -> ModelRunner:
    """Load every rank's engine, each in its own process; every rank calls it.

    Raises
    ------
    EngineMismatchError
        Before anything is loaded, when the number of ranks is not the engine's, or ranks differ in engine, packages or
        kind of machine.
    """
    mapping = engine.config.pretrained_config.mapping
    check_world_size(mapping.world_size, str(engine.directory))
    return together(lambda: _led(engine, options)) or _held[max(_held)]


def _led(engine: Engine, options: dict[str, Any]) -> None:
    world, key = control(), next(_numbers)
    assert world is not None  # noqa: S101 - several ranks were started
    with one_at_a_time:
        world.post(("load_runner", key, str(engine.directory.absolute()), options))
        _load(key, str(engine.directory.absolute()), options)
    runner: Any = _held[key]
    runner.session = Led(runner.session, "call_session", key, SESSION_CALLS)


def ranked_executor(engine_dir: str) -> tuple[Engine, Executor]:
    """Check that all ranks have the same engine, and load this one's; every rank calls it."""
    from ..engine import Engine

    world = control()
    assert world is not None  # noqa: S101
    engine = agreed(
        world,
        lambda: Engine.from_dir(engine_dir, verify="load", rank=world.rank),
        lambda found: {
            "engine": found.config.key,
            "layout": found.config.pretrained_config.mapping.with_rank(0).to_dict(),
            "backend": found.config.backend_version,
            "torch": torch.__version__,
        },
    )
    config = engine.config
    mapping = config.pretrained_config.mapping
    custom = config.build_config.plugin_config.use_custom_all_reduce
    ranks = communicator_for(mapping, custom_all_reduce=custom)

    def loaded() -> Executor:
        return engine.executor(world.rank, communicator=ranks)

    return engine, agreed(world, loaded, lambda _: {})


@order
def load_runner(key: int, engine_dir: str, options: dict[str, Any]) -> None:
    """Load this rank of a runner."""
    _load(key, engine_dir, options)


@order
def call_session(key: int, method: str, arguments: list[Any], keywords: dict[str, Any]) -> None:
    """Call this rank's session as rank 0 calls its own."""
    with torch.no_grad():
        getattr(_held[key].session, method)(*arguments, **keywords)


@order
def open_queued(key: int) -> None:
    """Make this rank's session of fused steps."""
    world = control()
    assert world is not None  # noqa: S101
    _open(world, _held[key]._paged)


@order
def call_queued(key: int, method: str, arguments: list[Any], keywords: dict[str, Any]) -> None:
    """Call this rank's session of fused steps."""
    with torch.no_grad():
        getattr(_held[key]._paged.fused_session(), method)(*arguments, **keywords)


@order
def close_runner(key: int) -> None:
    """Free this rank of a runner."""
    ModelRunner.close(_held.pop(key))


def _load(key: int, engine_dir: str, options: dict[str, Any]) -> None:
    engine, executor = ranked_executor(engine_dir)
    config = engine.config
    limits = EngineLimits.from_configs(config.pretrained_config, config.build_config)
    world = control()
    assert world is not None  # noqa: S101
    try:
        runner = agreed(world, lambda: RankedRunner(executor, limits, **{"name": engine.name, **options}), lambda _: {})
    except BaseException:
        executor.close()
        raise
    runner.key = key
    _held[key] = runner


def _open(world: Control, executor: Any) -> None:
    """Make a rank's session of fused steps; all take the pool of the one with the least room."""
    session = agreed(world, executor.fused_session, lambda _: {})
    session.plan = replace(session.plan, num_blocks=min(world.share(session.plan.num_blocks)))
