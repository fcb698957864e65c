"""`RankMonitor`: what every rank of a world does now, told within a second when one dies or hangs."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import traitlets

from trtbench_lab.distributed.status import RankStatus
from trtbench_lab.errors import RequestError
from trtbench_lab.results import Table
from trtbench_lab.results.render import html_table, plain_table

from .page import Page, heading_html, script, style

BAD = ("failed", "stuck", "dead")
_SAME_S = 1.5  # two readings of a state's beginning that differ by less mean the same moment


class Watched(Protocol):
    """What is watched: anything whose `status` tells each rank's, as `trtbench_lab.distributed.World` does."""

    def status(self) -> tuple[RankStatus, ...]: ...


class RankMonitor(Page):
    """A line a rank: state, since when, host, GPU, process and the last line that it printed.

    The world is asked from a thread, so that it goes on while a cell runs; only what changed is sent to the page, and
    seconds are counted there.

    Parameters
    ----------
    world
        A world of ranks; None: the notebook's own.
    interval_s
        How often it is asked.
    theme
        ``"auto"``, ``"light"`` or ``"dark"``.

    Raises
    ------
    RequestError
        Without a world to watch.

    Attributes
    ----------
    ranks
        One dictionary a rank, as the page shows it.
    watching
        Whether the world is asked; a person may pause it.
    """

    _esm = script("rank_monitor")
    _css = style("rank_monitor")

    ranks = traitlets.List(traitlets.Dict()).tag(sync=True)
    summary = traitlets.Unicode("").tag(sync=True)
    watching = traitlets.Bool(True).tag(sync=True)
    actions = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self,
        world: Watched | None = None,
        *,
        interval_s: float = 0.5,
        theme: str = "auto",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._closed = threading.Event()
        world = world if world is not None else _own_world()
        self._world, self._interval_s, self._clock = world, interval_s, clock
        actions = [name for name in ("interrupt", "restart") if callable(getattr(world, name, None))]
        super().__init__(theme=theme, actions=actions)
        self.poll()
        self._thread = threading.Thread(target=self._watch, name="rank-monitor", daemon=True)
        self._thread.start()

    def poll(self) -> None:
        """Ask the world once."""
        known = {entry["rank"]: entry for entry in self.ranks}
        now = self._clock()
        ranks = [self._entry(status, known.get(status.rank), now) for status in self._world.status()]
        counts: dict[str, int] = {}
        for entry in ranks:
            counts[entry["state"]] = counts.get(entry["state"], 0) + 1
        said = ", ".join(f"{count} {state}" for state, count in counts.items())
        with self.hold_sync():
            self.ranks = ranks
            self.summary = f"{len(ranks)} rank(s): {said}" if ranks else "no ranks"

    def close(self) -> None:
        """Stop asking, and take the view away."""
        self._closed.set()
        super().close()

    def on_message(self, message: dict[str, Any]) -> None:
        action = message.get("kind")
        if action in self.actions:
            # Both may take seconds: the page and the kernel stay free meanwhile.
            threading.Thread(target=self._do, args=(action,), name=f"rank-{action}", daemon=True).start()

    def fallback_html(self) -> str:
        return heading_html("Ranks", self.summary) + html_table(self._table())

    def fallback_text(self) -> str:
        return f"Ranks: {self.summary}\n{plain_table(self._table())}"

    def _table(self) -> Table:
        columns = ("rank", "state", "host", "GPU", "process", "last line")
        rows = [
            (str(e["rank"]), e["state"], e["host"], e["gpu"] or "none", str(e["pid"]), e["last_line"])
            for e in self.ranks
        ]
        return Table(columns, rows)

    def _entry(self, status: RankStatus, known: dict[str, Any] | None, now: float) -> dict[str, Any]:
        since = now - status.since_s
        if known is not None and known["state"] == status.state and abs(known["since"] - since) < _SAME_S:
            since = known["since"]  # the same moment, read again: nothing new to send
        return {
            "rank": status.rank,
            "engine_id": status.engine_id,
            "host": status.host,
            "gpu": status.gpu,
            "pid": status.pid,
            "state": status.state,
            "bad": status.state in BAD,
            "since": round(since, 3),
            "last_line": status.last_line,
        }

    def _do(self, action: str) -> None:
        try:
            alive = [entry["rank"] for entry in self.ranks if entry["state"] not in ("dead", "stopped")]
            getattr(self._world, action)(*([alive] if action == "interrupt" else []))
            self.notice = ""
        except Exception as error:  # whatever a launcher raises belongs in front of the person who pressed the button
            self.notice = str(error) or type(error).__name__
        self._poll_safely()

    def _watch(self) -> None:
        while not self._closed.wait(self._interval_s):
            if self.watching:
                self._poll_safely()

    def _poll_safely(self) -> None:
        try:
            self.poll()
        except Exception as error:  # a world on its way down may raise anything; the monitor outlives it
            self.notice = f"The ranks cannot be asked: {html.unescape(str(error)) or type(error).__name__}"


def _own_world() -> Watched:
    from trtbench_lab.distributed import current_world

    world = current_world()
    if world is None:
        raise RequestError(
            "There are no ranks to watch.", where="RankMonitor", remedy="Start some with %trt_mpi start -n 2."
        )
    return world
