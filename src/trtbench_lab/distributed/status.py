"""What is known of each rank of a world, cheap enough to be asked for several times a second."""

from __future__ import annotations

from dataclasses import dataclass

STATES = ("starting", "idle", "busy", "failed", "stuck", "dead", "stopped")


@dataclass(frozen=True)
class RankStatus:
    """One rank, as the notebook sees it.

    Attributes
    ----------
    rank
        Its number in the world.
    engine_id
        Its number among ipyparallel's engines; -1 before it has one.
    host, pid
        Where it runs, and its process there.
    gpu
        The GPU that it was given, by number or id as the host names it; None on a host without one.
    state
        One of `STATES`: ``"failed"`` after a cell that raised there, ``"stuck"`` where a cell did not let itself be
        interrupted, ``"dead"`` when its process has ended by itself, ``"stopped"`` when the world was stopped.
    since_s
        Seconds in this state.
    last_line
        The last line that it printed; empty before the first.
    """

    rank: int
    engine_id: int
    host: str
    gpu: str | None
    pid: int
    state: str
    since_s: float
    last_line: str
