"""A running batch over several ranks: rank 0 schedules, chooses tokens and speaks; the others run its steps."""

from __future__ import annotations

import atexit
import socket
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..ranks import Control, communicator_for, control
from ..specs import InflightConfig
from .inflight.batcher import InflightBatcher
from .inflight.executor_runner import step_runner_for
from .inflight.led_steps import FollowedSteps, LeadingSteps, Told
from .inflight.pool import PoolPlan
from .inflight.sizing import largest_step, planned_pool
from .inflight.stepper import StepRunner
from .inflight.told_batcher import Call, FollowedBatcher, News, Sent, TellingBatcher
from .leading import agreed, follow_until, has_failed, is_within, one_at_a_time, order, together
from .limits import EngineLimits
from .ranked import ranked_executor

if TYPE_CHECKING:
    from ..engine import Engine
    from ..errors import TrtbenchError

_steps: dict[int, FollowedSteps] = {}
_batchers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_made: dict[int, tuple[PoolPlan, Any]] = {}
_numbers = iter(range(1 << 62))


def ranked_batcher(
    engine: Engine, config: InflightConfig, *, record: bool = False, device: str | None = None
) -> tuple[PoolPlan, Any]:
    """Load every rank's engine and return this rank's pool and batcher; every rank calls it.

    The batcher of rank 0 runs the requests. Where the program runs on every rank, the others' have the same methods and
    give the same tokens; within a verb, which rank 0 alone runs, they only follow.

    Raises
    ------
    EngineMismatchError
        Before anything is loaded, when ranks differ in engine, packages or kind of machine.
    RequestError
        For a device: each rank has its own.
    """
    if device is not None:
        raise RequestError(
            f"The device {device!r} was asked for, and each of several ranks has its own.",
            where="device",
            remedy="Leave it out: a rank takes the GPU of its number on its host, or the CPU.",
        )
    tells = not is_within()
    return _made.pop(together(lambda: _led(engine, config, record=record, tells=tells)))


def _led(engine: Engine, config: InflightConfig, *, record: bool, tells: bool) -> int:
    world, key = control(), next(_numbers)
    assert world is not None  # noqa: S101 - several ranks were started
    directory = str(engine.directory.absolute())
    with one_at_a_time:
        world.post(("load_llm", key, directory, config, tells))
        pool, limits, runner = _loaded(world, directory, config)
    led = LeadingSteps(runner, world.post, key, one_at_a_time)
    options: dict[str, Any] = {"reuse": config.enable_block_reuse, "record": record}
    if tells:
        _made[key] = pool, TellingBatcher(led, limits, world.post, key, **options)
    else:
        _made[key] = pool, InflightBatcher(led, limits, **options)
    return key


def _loaded(world: Control, directory: str, config: InflightConfig) -> tuple[PoolPlan, EngineLimits, StepRunner]:
    """Load this rank; all ranks take the pool of the one with the least room, since they share one plan."""
    engine, executor = ranked_executor(directory)
    model, build = engine.config.pretrained_config, engine.config.build_config
    try:
        sharing = 1
        if executor.device.type == "cpu":
            hosts = world.share(socket.gethostname())
            sharing = hosts.count(hosts[world.rank])
        own = agreed(world, lambda: planned_pool(engine, executor, config, sharing=sharing), lambda _: {})
        rooms = world.share(own.num_blocks)
        pool = own
        if min(rooms) < own.num_blocks:
            rank = rooms.index(min(rooms))
            pool = replace(own, num_blocks=min(rooms), reason=f"Rank {rank} has room for this many. {own.reason}")
        ranks = communicator_for(model.mapping, custom_all_reduce=build.plugin_config.use_custom_all_reduce)
        largest = largest_step(engine, executor, config, pool)
        steps = {"largest step": str(largest)}
        runner = agreed(world, lambda: step_runner_for(executor, largest, ranks), lambda _: steps)
    except BaseException:
        executor.close()
        raise
    return pool, EngineLimits.from_configs(model, build), runner


@order
def load_llm(key: int, directory: str, config: InflightConfig, tells: bool) -> None:
    """Load this rank of a running batch."""
    world = control()
    assert world is not None  # noqa: S101
    pool, limits, runner = _loaded(world, directory, config)
    _steps[key] = FollowedSteps(runner)
    batcher = FollowedBatcher(runner, limits, lambda found: follow_until(world, found), lambda: not has_failed())
    if tells:
        _batchers[key] = batcher
        _made[key] = pool, batcher


@order
def inflight_step(key: int, told: Told) -> None:
    """Run a step as rank 0 runs it."""
    _steps[key].run(told)


@order
def inflight_answered(key: int, call: Call, answer: TrtbenchError | list[Sent]) -> None:
    """Learn what came of a call that sends requests."""
    if (batcher := _batchers.get(key)) is not None:
        batcher.hear_answer(call, answer)


@order
def inflight_news(key: int, news: News) -> None:
    """Learn of new tokens."""
    if (batcher := _batchers.get(key)) is not None:
        batcher.hear_news(news)


@order
def close_llm(key: int) -> None:
    """Free this rank of a running batch."""
    _steps.pop(key).close()
    if (batcher := _batchers.get(key)) is not None:
        batcher.hear_close()


@atexit.register
def _follow_to_the_end() -> None:
    # A program that ends without closing: rank 0 closes when it ends, and until then its requests need every rank.
    for batcher in list(_batchers.values()):
        batcher.close()
