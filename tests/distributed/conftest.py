"""One world of two ranks for the tests that leave it whole, and what ends every process that a test started."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trtbench_lab.distributed.world import World

SOURCES = str(Path(__file__).parents[2] / "src")


@pytest.fixture(scope="session")
def shared_world() -> Iterator[World]:
    """A world that tests may use and must leave running."""
    world = World(2)
    world.start()
    yield world
    world.stop()


@pytest.fixture
def world(shared_world: World) -> World:
    """The shared world, with ranks that have answered."""
    shared_world.run("pass")
    return shared_world


@pytest.fixture
def child_environment() -> dict[str, str]:
    """What a Python of its own needs to find the package."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([SOURCES, *filter(None, sys.path)])}


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether `condition` came true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
