"""What lies ahead of each step of a path, asked of the planner as choices change, without holding up the page."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trtbench_lab.engine.present import seconds_text
from trtbench_lab.errors import TrtbenchError
from trtbench_lab.results import Result
from trtbench_lab.specs.command_line import command_line
from trtbench_lab.specs.requests import PlanSpec

from .child_process import child, message_of
from .path_costs import costs_ahead, costs_unplanned
from .path_state import PathState
from .path_steps import Settings, quantizes

UNASKED = "not worked out, as this guide was told (estimate=False)"
BEING_ASKED = "being worked out"
UNFETCHED = "not known before the step Model fetched its config.json"
UNFOUND = "not known while there is no such model"
_KEPT = ("download_bytes", "checkpoint_bytes", "engine_bytes", "build_s", "memory", "predictions")
_LOOKED_BACK = 20  # stored results of a kind; the newest of the same choices counts


def plan_request(settings: Settings) -> PlanSpec:
    """Return what the planner is asked for these choices."""
    quantization = settings["quantization"]
    asked: dict[str, Any] = {"model": settings["model"]["source"], "dtype": settings["convert"]["dtype"]}
    if quantizes(settings):
        asked |= {"quant": quantization["qformat"]}
        asked |= {name: quantization[name] for name in ("group_size", "kv_cache_dtype", "quantize_lm_head")}
    return PlanSpec(**asked, backend=settings["build"]["backend"])


class Ahead:
    """The costs of a path's steps in words; the planner's answer is kept with the path.

    Parameters
    ----------
    path
        Choices and outcomes.
    changed
        Called from a thread when there is something new to say.
    asks
        Whether to ask the planner at all.
    """

    def __init__(self, path: PathState, changed: Callable[[], None], *, asks: bool = True) -> None:
        self._path = path
        self._changed = changed
        self._asks = asks
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._before: list[dict[str, Any]] = []

    def words(self, name: str) -> str:
        """Return what a step will take: measured where it was done, else what the planner says, else why not."""
        took = self._took(name)
        said = [f"took {took}"] if took else []
        plan = self._known()
        if "checkpoint_bytes" in plan:
            return ", ".join([*said, *costs_ahead(self._path.settings, plan)[name]])
        known = costs_unplanned(self._path.settings).get(name)
        return ", ".join([*said, known or plan.get("problem") or self._why_unknown()])

    def refresh(self) -> None:
        """Ask the planner anew when the choices that it looks at have changed."""
        if not self._asks or not (self._is_local() or self._path.is_done("model")):
            return
        try:
            request = plan_request(self._path.settings)
            asked = command_line("plan", request)
        except TrtbenchError:  # the step that it is in says so
            return
        with self._lock:
            if self._known().get("asked") == asked or (self._asking is not None and self._asking.is_alive()):
                return
            self._asking = threading.Thread(target=self._ask, args=(request, asked), name="guide-plan", daemon=True)
            self._asking.start()

    def at_once(self) -> None:
        """Ask the planner now where this kernel has it loaded and has measured the machine: some milliseconds."""
        if not self._asks or not self._is_local():
            return
        try:
            request = plan_request(self._path.settings)
            data = _planned_here(request)
        except TrtbenchError:
            return
        if data is not None:
            self.keep(data, command_line("plan", request))

    def look_back(self) -> None:
        """Read from the history how long the same took before, in whichever folder."""
        from trtbench_lab.results.database import ResultsDatabase

        found = []
        try:
            database = ResultsDatabase()
            for kind in ("convert", "quantize"):
                results: list[Result] = [database.get(row.id) for row in database.query(kind=kind, limit=_LOOKED_BACK)]
                found += [{"kind": kind, "seconds": getattr(one, "seconds", 0.0), **one.spec} for one in results]
        except TrtbenchError:  # a history that cannot be read must not cost a person the guide
            return
        self._before = found

    def keep(self, data: Mapping[str, Any], asked: list[str], problem: str = "") -> None:
        """Remember the planner's answer; one that it could not give too, so that it is not asked again and again."""
        known = {name: data[name] for name in _KEPT} if data else {}
        said = {"problem": problem} if problem else {}
        self._path.plan = {**known, **said, "asked": asked, "model": self._source}
        self._path.save_if_begun()

    def _ask(self, request: PlanSpec, asked: list[str]) -> None:
        data: dict[str, Any] = {}
        problem = "not known: the planner ended without a word"
        try:
            data = _planned_here(request) or {}
            if not data:
                with child("plan", asked) as process:
                    for line in process.stdout or ():
                        message = message_of(line)
                        data = message["data"] if message.get("type") == "result" else data
                        if message.get("type") == "error":
                            problem = f"not known: {message['text'].partition(chr(10))[0]}"
        except (TrtbenchError, OSError) as error:
            problem = f"not known: {str(error).partition(chr(10))[0]}"
        if request.model == self._source:
            self.keep(data, asked, "" if data else problem)
        self._asking = None
        self._changed()

    @property
    def _source(self) -> str:
        return str(self._path.settings["model"]["source"])

    def _known(self) -> dict[str, Any]:
        """Return what the planner said of the model that is chosen now; what it said of another is no answer."""
        return self._path.plan if self._path.plan.get("model") == self._source else {}

    def _is_local(self) -> bool:
        """Return whether its config.json is on this machine: nothing is fetched before the step Model runs."""
        return self._source.startswith("demo") or Path(self._source).expanduser().exists()

    def _why_unknown(self) -> str:
        if not self._asks:
            return UNASKED
        if self._is_local():
            return BEING_ASKED
        return UNFETCHED if self._source.count("/") == 1 and not self._source.startswith(("/", ".")) else UNFOUND

    def _took(self, name: str) -> str:
        record = self._path.records.get(name, {})
        if record.get("state") == "done" and self._path.request(name) is not None:
            return f"{seconds_text(record['seconds'])} last time"
        settings = self._path.settings
        same: dict[str, Any] = {"kind": "convert", "source": self._source}
        if name == "quantization" and quantizes(settings):
            chosen = settings["quantization"]
            same |= {"kind": "quantize", "qformat": chosen["qformat"], "kv_cache_dtype": chosen["kv_cache_dtype"]}
        elif name != "convert":
            return ""
        fits = (one for one in self._before if all(one.get(key) == value for key, value in same.items()))
        seconds = next((one["seconds"] for one in fits), None)
        return "" if seconds is None else f"{seconds_text(seconds)} before, in another folder"


def _planned_here(request: PlanSpec) -> dict[str, Any] | None:
    """Return the planner's answer where it costs this kernel nothing: loaded, and the machine measured; else None."""
    measured = sys.modules.get("trtbench_lab.benchmark.planner.this_machine")
    if measured is None or not measured.this_machine.cache_info().currsize:
        return None
    from trtbench_lab.workbench.planning import predicted

    return predicted(request).to_dict()
