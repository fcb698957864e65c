"""One cell on several ranks, from its start to its end, whatever the ranks do: nothing here waits for ever."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import SpecError
from .faults import DeadRankError, RankError, StuckRanksError, distinct_failures, ranks_in_words
from .rank import Failure, Outcome, run_cell
from .results import RankResults
from .view import CellView

if TYPE_CHECKING:
    from .world import World

GRACE_S = 2.0
"""Seconds that the other ranks may go on after one has raised, before they are interrupted."""
_HEED_S = 1.0
"""Seconds that a rank has to heed an interrupt; one that waits inside MPI cannot, and is replaced."""
_LOOK_EVERY_S = 0.05
_LAST_OUTPUT_S = 15.0
"""Seconds that the last output of a rank may take to come after its end: on a busy machine they were above one."""
_RESTARTED = "The ranks are started again, empty: variables that they held are gone."


class PendingCell:
    """A cell that runs; `wait` for it, `interrupt` it, or ask whether it is `done`.

    Parameters
    ----------
    world
        Where it runs.
    text
        The cell.
    ranks
        The ranks that run it.
    name
        Variable or result to bring back; None with `wants_value` for the value of the last expression.
    timeout_s
        Seconds after which it is stopped; None for no limit.
    grace_s
        See `GRACE_S`.
    view
        What shows it.
    """

    def __init__(
        self,
        world: World,
        text: str,
        ranks: Sequence[int],
        *,
        name: str | None,
        wants_value: bool,
        timeout_s: float | None,
        grace_s: float,
        view: CellView,
    ) -> None:
        self.text, self.ranks = text, tuple(ranks)
        self.code_name = world.next_code_name()
        self._world, self._view = world, view
        self._timeout_s, self._grace_s = timeout_s, grace_s
        self._interrupted = threading.Event()
        self._over = threading.Event()
        self._fault: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._outcomes: dict[int, Outcome] = {}
        self._read: dict[tuple[int, str], int] = {}
        self._shown: dict[int, int] = dict.fromkeys(self.ranks, 0)
        self._seen_progress: dict[int, object] = {}
        self._first_failure: float | None = None
        self._began = time.monotonic()
        fresh = world.roster.take_suspicion(self.ranks)
        self._asked: dict[int, Any] = {
            rank: world.ask(
                rank,
                run_cell,
                text,
                self.code_name,
                name,
                os.getcwd(),
                wants_value=wants_value,
                fresh_communicators=fresh,
                alone=len(self.ranks) < world.world_size,
            )
            for rank in self.ranks
        }
        self._metadata = {rank: world.metadata_of(asked) for rank, asked in self._asked.items()}
        world.roster.mark(self.ranks, "busy")

    # ---- from outside -------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return self._over.is_set()

    @property
    def running(self) -> tuple[int, ...]:
        """The ranks that have not ended."""
        return tuple(rank for rank in self.ranks if rank not in self._outcomes)

    @property
    def results(self) -> RankResults:
        """What has come back so far."""
        return RankResults(
            tuple(self._outcomes[rank] for rank in self.ranks if rank in self._outcomes),
            {rank: self._printed(rank, "stdout") for rank in self.ranks},
            {rank: self._printed(rank, "stderr") for rank in self.ranks},
        )

    def interrupt(self) -> None:
        """Stop it as Ctrl-C does."""
        self._interrupted.set()

    def wait(self, timeout_s: float | None = None) -> RankResults:
        """Wait for the end and return what came back; Ctrl-C ends the waiting, not the cell.

        Raises
        ------
        RankError
            When the cell failed.
        TimeoutError
            When it still runs after `timeout_s`.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._over.wait(0.1):
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"The cell still runs on {ranks_in_words(self.running)} after {timeout_s:g} s.")
        if self._fault is not None:
            raise self._fault
        return self.results

    def __repr__(self) -> str:
        if not self.done:
            return f"a cell that runs on {ranks_in_words(self.running)} since {time.monotonic() - self._began:.1f} s"
        return repr(self.results) if self._fault is None else str(self._fault)

    # ---- to the end ---------------------------------------------------------------------------------------------

    def follow_in_background(self) -> None:
        self._thread = threading.Thread(target=self._follow_quietly, name="trt_mpi cell", daemon=True)
        self._thread.start()

    def _follow_quietly(self) -> None:
        try:
            self.follow()
        except BaseException as fault:
            self._fault = fault

    def follow(self) -> RankResults:
        """Watch the ranks to the end; what they print is shown meanwhile."""
        try:
            self._watch()
        except KeyboardInterrupt:
            try:
                self._end_early("The cell was interrupted.", StuckRanksError)
            except KeyboardInterrupt:  # somebody is in a hurry
                self._world.replace_ranks()
                raise
        finally:
            self._view.close()
            self._over.set()
        self._raise_failures()
        return self.results

    def _watch(self) -> None:
        while True:
            self._collect()
            if not self.running:
                return
            self._check_alive()
            now = time.monotonic()
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            if self._timeout_s is not None and now - self._began >= self._timeout_s:
                self._end_early(f"The cell did not end within its {self._timeout_s:g} s.", StuckRanksError, stacks=True)
            if self._first_failure is not None and now - self._first_failure >= self._grace_s:
                failed = ranks_in_words([rank for rank, _ in self._failed()])
                went_on = ranks_in_words(self.running)
                self._end_early(f"The cell failed on {failed} while {went_on} went on. {self._headings()}", RankError)
                return
            waiting = [self._asked[rank] for rank in self.running]
            concurrent.futures.wait(waiting, _LOOK_EVERY_S, concurrent.futures.FIRST_COMPLETED)

    def _collect(self) -> None:
        """Take what has arrived: output, displays, progress, ends."""
        for rank in self.running:
            asked = self._asked[rank]
            ended = asked.done()
            if ended:
                until = time.monotonic() + _LAST_OUTPUT_S
                while not asked.wait_for_output(0.1) and time.monotonic() < until:
                    if rank in self._world.roster.dead():  # what it had left to say went with it
                        break
            self._show_news(rank)
            if ended:
                self._take_end(rank)

    def _show_news(self, rank: int) -> None:
        metadata = self._metadata[rank]
        for stream in ("stdout", "stderr"):
            text = metadata.get(stream) or ""
            read = self._read.get((rank, stream), 0)
            if len(text) != read:
                # A carriage return makes ipyparallel rewrite the last line: then what stands there is shown again.
                piece = text[read:] if len(text) > read else text[text.rfind("\n") + 1 :]
                self._read[rank, stream] = len(text)
                self._world.roster.mark_line(rank, piece)
                self._view.on_text(rank, stream, piece)
        outputs = list(metadata.get("outputs") or ())
        for content in outputs[self._shown[rank] :]:
            self._view.on_display(rank, content)
        self._shown[rank] = len(outputs)
        event = (metadata.get("data") or {}).get("progress")
        if event is not None and event is not self._seen_progress.get(rank):
            self._seen_progress[rank] = event
            self._view.on_progress(rank, event)
        self._view.tick()

    def _take_end(self, rank: int) -> None:
        asked = self._asked[rank]
        try:
            outcome = asked.get(0)
        except Exception as error:  # the engine's own refusal, or a value that would not load here
            failure = Failure(type(error).__name__, str(error), tuple(str(error).splitlines()))
            outcome = Outcome(rank, time.monotonic() - self._began, failure=failure)
        shown = self._metadata[rank].get("execute_result")
        if shown and outcome.failure is None:
            self._view.on_display(rank, shown)
        self._outcomes[rank] = outcome
        if outcome.failure is not None and self._first_failure is None:
            self._first_failure = time.monotonic()
        state = "idle" if outcome.failure is None else "failed"
        self._world.roster.mark([rank], state)
        self._view.on_end(rank, state, outcome.seconds)
        self._world.forget(asked)

    def _printed(self, rank: int, stream: str) -> str:
        return str(self._metadata[rank].get(stream) or "")

    # ---- ends that nobody wished for ----------------------------------------------------------------------------

    def _check_alive(self) -> None:
        dead = self._world.roster.dead()
        if not dead:
            return
        self._collect()  # what it still said
        words = self._world.last_words(dead)
        self._world.give_up(dead)
        running = ", ".join(self._world.roster.describe(rank) for rank in dead)
        self._fail(
            DeadRankError(
                f"{ranks_in_words(dead).capitalize()} died: {running}.",
                where="%%trt_mpi",
                remedy="Start the ranks again with: %trt_mpi restart (the next %%trt_mpi does it by itself).",
                details=words or None,
            )
        )

    def _end_early(self, what: str, kind: type[RankError], *, stacks: bool = False) -> None:
        """Interrupt the ranks that still run, replace those that do not heed it, and raise."""
        stood = self._where_they_stand() if stacks else ""
        interrupted = self.running
        self._world.interrupt(interrupted)
        until = time.monotonic() + _HEED_S
        while self.running and time.monotonic() < until and not self._world.roster.dead():
            concurrent.futures.wait(
                [self._asked[rank] for rank in self.running], _LOOK_EVERY_S, concurrent.futures.FIRST_COMPLETED
            )
            self._collect()
        stuck = self.running
        details = stood
        if stuck:
            details = stood or self._where_they_stand()
            self._world.roster.mark(stuck, "stuck")
            for rank in stuck:
                self._view.on_end(rank, "stuck", time.monotonic() - self._began)
            what += f" {ranks_in_words(stuck).capitalize()} could not be interrupted:\n{details}"
            self._world.replace_ranks()
        elif stood:
            what += f" There they stood:\n{stood}"
        if not stuck:
            self._world.roster.suspect()
        self._fail(kind(what, where="%%trt_mpi", remedy=_RESTARTED if stuck else None, details=details or None))

    def _where_they_stand(self) -> str:
        return "\n".join(self._world.where_they_stand(self.running, self.text, self.code_name))

    def _raise_failures(self) -> None:
        failed = self._failed()
        if not failed:
            return
        if len(failed) < len(self.ranks):
            self._world.roster.suspect()
        of = f" of {len(self.ranks)}" if len(self.ranks) > 1 else ""
        self._fail(RankError(f"The cell failed on {len(failed)}{of} ranks. {self._headings()}", where="%%trt_mpi"))

    def _failed(self) -> list[tuple[int, Failure]]:
        return [(rank, outcome.failure) for rank, outcome in self._outcomes.items() if outcome.failure is not None]

    def _headings(self) -> str:
        headings = "; ".join(shared.heading for shared in distinct_failures(self._failed()))
        return f"{headings.rstrip('.')}."

    def _fail(self, error: RankError) -> None:
        failed = [
            (rank, outcome.failure)
            for rank, outcome in sorted(self._outcomes.items())
            if outcome.failure is not None and outcome.failure.kind != "KeyboardInterrupt"
        ]
        error.failures = distinct_failures(failed)
        error.results = self.results
        self._fault = error
        raise error


def ranks_from(ranks: Sequence[int] | None, world_size: int) -> tuple[int, ...]:
    """Return the ranks to run on, checked; None for all.

    Raises
    ------
    SpecError
        For a rank that the world does not have.
    """
    if ranks is None:
        return tuple(range(world_size))
    wrong = [rank for rank in ranks if not 0 <= rank < world_size]
    if wrong:
        raise SpecError(
            f"There is no {ranks_in_words(wrong)} in a world of {world_size}.",
            where="--ranks",
            remedy=f"Choose from 0 to {world_size - 1}, or start a larger world: %trt_mpi restart -n N.",
        )
    return tuple(sorted(set(ranks)))
