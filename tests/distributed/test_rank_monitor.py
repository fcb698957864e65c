"""The rank monitor over ranks that run: what their cells do, who dies, who comes back."""

from __future__ import annotations

import os
import signal

import pytest
from tests.distributed.conftest import wait_for

from trtbench_lab.distributed import World
from trtbench_lab.errors import TrtbenchError
from trtbench_widgets.rank_monitor import RankMonitor

pytestmark = pytest.mark.mpi


def test_the_monitor_follows_ranks_that_run():
    with World(2) as world:
        world.run("import time")
        monitor = RankMonitor(world, interval_s=0.05)
        try:
            assert [entry["rank"] for entry in monitor.ranks] == [0, 1]
            assert len({entry["pid"] for entry in monitor.ranks}) == 2
            assert {entry["state"] for entry in monitor.ranks} == {"idle"}
            cell = world.run_in_background("print('line of', rank, flush=True)\nwhile True: time.sleep(0.05)")
            assert wait_for(lambda: all(entry["state"] == "busy" for entry in monitor.ranks), 60)
            assert wait_for(lambda: [e["last_line"] for e in monitor.ranks] == ["line of 0", "line of 1"], 60)
            os.kill(monitor.ranks[1]["pid"], signal.SIGKILL)
            assert wait_for(lambda: monitor.ranks[1]["state"] == "dead" and monitor.ranks[1]["bad"], 60)
            with pytest.raises(TrtbenchError):
                cell.wait()
            monitor.on_message({"kind": "restart"})
            assert wait_for(lambda: monitor.summary == "2 rank(s): 2 idle", 120), (monitor.summary, monitor.notice)
        finally:
            monitor.close()
