"""`Guide`: the whole path as steps, each with its state, what it will cost, and the same in a line to copy."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import traitlets

from trtbench_lab.errors import SpecError, TrtbenchError
from trtbench_lab.results import Result, Table
from trtbench_lab.results.render import html_table, plain_table
from trtbench_lab.specs import Gpu, Spec, find_conflicts, find_warnings
from trtbench_lab.specs.command_line import command_line

from .build_watch import BuildWatch, ChildBuild
from .child_process import CANCEL_S, child, end, gather, message_of
from .choices import conflict_data, magic_line, plain, python_lines, shell_line
from .page import Page, heading_html, script, style
from .path_ahead import Ahead
from .path_state import PathState
from .path_steps import BY_NAME, STEPS, plugin_config, with_all_before
from .selector import PluginSelector, QuantSelector
from .surroundings import gpu_here, machine_words, models_here
from .throttle import Throttle

_FOLLOW_S = 0.3

_OPEN: weakref.WeakValueDictionary[str, Guide] = weakref.WeakValueDictionary()


def _at_work(folder: Path) -> Guide | None:
    """Return the guide of this kernel that runs a step in a folder, or None."""
    found = _OPEN.get(str(folder))
    return found if found is not None and found._thread is not None and found._thread.is_alive() else None


class Guide(Page):
    """The path from a model to a measured engine by clicks alone; it goes on where it was left.

    Choices and outcomes are kept in ``guide.json`` of the folder. Every step runs as the shell line that is shown, in
    a process of its own, so that the kernel stays free and a step can be stopped.

    Parameters
    ----------
    folder
        Where checkpoint, engine and the guide's own file are kept; made when the first step runs.
    theme
        ``"auto"``, ``"light"`` or ``"dark"``.
    estimate
        Whether to look at the machine and the notebook's folder, and to ask the planner what lies ahead.

    Attributes
    ----------
    machine, found
        This machine in words, and the models that may be taken: those in the notebook's folder and the demo models.
    builds, log
        The build of this session as `BuildMonitor` shows it; empty before there is one.
    steps
        One dictionary a step: state, reason, cost, lines, conflicts, outcome.
    settings
        Step → field → value.
    current
        The step that is open.
    running
        The step at work; empty when none is.
    results
        Step → its result, loaded from the history.
    """

    _esm = script("forms", "build_view", "guide")
    _css = style("forms", "build_view", "guide")

    folder = traitlets.Unicode("").tag(sync=True)
    fields = traitlets.Dict().tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)
    steps = traitlets.List(traitlets.Dict()).tag(sync=True)
    current = traitlets.Unicode("model").tag(sync=True)
    running = traitlets.Unicode("").tag(sync=True)
    progress = traitlets.Dict().tag(sync=True)
    machine = traitlets.Unicode("").tag(sync=True)
    found = traitlets.List(traitlets.Dict()).tag(sync=True)
    builds = traitlets.List(traitlets.Dict()).tag(sync=True)
    log = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(self, folder: str | Path = "trtbench-path", *, theme: str = "auto", estimate: bool = True) -> None:
        self._path = PathState.open(folder)
        self._process: subprocess.Popen[str] | None = None
        self._cancelled = False
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        self._gpu: Gpu | None = None
        self._job: ChildBuild | None = None
        self._elder = _at_work(self._path.folder)
        if self._elder is not None:  # the cell was run again while a step runs: the same path, seen once more
            self._path, self._thread = self._elder._path, self._elder._thread
        self._ahead = Ahead(self._path, self._refresh, asks=estimate)
        super().__init__(
            theme=theme,
            folder=str(self._path.folder),
            fields={step.name: step.fields() for step in STEPS},
            notice=self._path.remark,
            current=self._path.current,
        )
        self._throttle = Throttle(self._send_progress)
        self._ahead.at_once()
        self._refresh()
        if estimate:
            threading.Thread(target=self.look_around, name="guide-look-around", daemon=True).start()
        _OPEN[str(self._path.folder)] = self._elder or self
        if self._elder is not None:
            threading.Thread(target=self._follow, args=(self._elder,), name="guide-follow", daemon=True).start()

    # ---- from Python -----------------------------------------------------------------------------------------

    def choose(self, step: str, **values: Any) -> None:
        """Change choices of a step; steps that were made of them become stale.

        Raises
        ------
        SpecError
            For a step or field that there is not, or a value that does not fit; nothing is changed then.
        """
        if step not in BY_NAME or (unknown := [name for name in values if name not in self._path.settings[step]]):
            what = f"{step} has no {', '.join(unknown)}." if step in BY_NAME else f"There is no step {step!r}."
            raise SpecError(what, where="Guide", remedy=f"Steps: {', '.join(BY_NAME)}.")
        with self._lock:
            before = self._path.settings[step]
            self._path.settings[step] = {**before, **{name: plain(value) for name, value in values.items()}}
            try:
                self._path.request("build" if step == "plugins" else step)
            except TrtbenchError:
                self._path.settings[step] = before
                raise
            self._path.save()
        self._refresh()

    def take_preset(self, step: str, name: str) -> None:
        """Choose what a preset of the plugins or the quantization names, and the step's beginnings for all else."""
        presets = {one.name: one for one in BY_NAME[step].presets} if step in BY_NAME else {}
        if name not in presets:
            raise SpecError(
                f"{step} has no preset {name!r}.", where="Guide", remedy=f"Presets: {', '.join(presets) or 'none'}."
            )
        self.choose(step, **BY_NAME[step].preset_values(presets[name]))

    def look_around(self) -> None:
        """Find out about the machine, whose GPU the rules then count with, and the models in the notebook's folder."""
        self._gpu = gpu_here()
        with self.hold_sync():
            self.machine = machine_words()
            self.found = models_here(leave_out=self._path.folder)
        self._ahead.look_back()
        self._refresh()

    def use(self, selector: PluginSelector | QuantSelector) -> None:
        """Take over what a selector holds."""
        step = "plugins" if isinstance(selector, PluginSelector) else "quantization"
        known = self._path.settings[step]
        self.choose(step, **{name: value for name, value in selector.values.items() if name in known})

    def run(self, step: str, *, wait: bool = False) -> None:
        """Run a step, after those it is made of that are not done; one path at a time."""
        self._start([name for name in with_all_before(step) if name == step or not self._path.is_done(name)], wait)

    def run_all(self, *, wait: bool = False) -> None:
        """Run every step that is not done, in order."""
        self._start([step.name for step in STEPS if not self._path.is_done(step.name)], wait)

    def _start(self, wanted: list[str], wait: bool) -> None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise SpecError("A step is running.", where="Guide", remedy="Wait for it, or cancel it.")
            self._cancelled = False
            self._thread = threading.Thread(target=self._work, args=(wanted,), name="guide", daemon=True)
            self._thread.start()
        if wait:
            self._thread.join()

    def cancel(self) -> None:
        """Stop the step at work; it leaves nothing half-made behind."""
        if self._elder is not None:
            self._elder.cancel()
        self._cancelled = True
        if self._job is not None:
            self._job.cancel()
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            threading.Thread(target=end, args=(process,), name="guide-end", daemon=True).start()

    @property
    def results(self) -> dict[str, Result]:
        """Step → result, for the steps that are done and whose result the history has."""
        from trtbench_lab.results.database import ResultsDatabase

        found, database = {}, ResultsDatabase()
        for name, record in self._path.records.items():
            if record.get("id") and record["state"] == "done":
                with contextlib.suppress(TrtbenchError):
                    found[name] = database.get(record["id"])
        return found

    def states(self) -> dict[str, str]:
        """Return step → state."""
        return {step.name: self._path.state_of(step.name)[0] for step in STEPS}

    # ---- the page --------------------------------------------------------------------------------------------

    def on_message(self, message: dict[str, Any]) -> None:
        self.notice = ""
        kind, step = message.get("kind"), str(message.get("step", ""))
        if kind == "set":
            try:
                self.choose(step, **{str(message["name"]): message["value"]})
            except TrtbenchError:
                self.settings = {}  # so that the page shows again what stands
                self._refresh()
                raise
        elif kind == "open" and step in BY_NAME:
            self.current = self._path.current = step
            self._path.save()
        elif kind == "fix":
            names = {path.split(".")[-1]: value for path, value in message["changes"].items()}
            self.choose(step, **names)
        elif kind == "preset":
            self.take_preset(step, str(message["name"]))
        elif kind == "run":
            self.run(step)
        elif kind == "all":
            self.run_all()
        elif kind == "cancel":
            self.cancel()

    def fallback_html(self) -> str:
        return heading_html("Guide", self.folder) + html_table(self._table())

    def fallback_text(self) -> str:
        return f"Guide: {self.folder}\n{plain_table(self._table())}"

    def _table(self) -> Table:
        # Lines to copy hold the whole path; to read, the folder as it is seen from here is enough.
        shown = os.path.relpath(self.folder) if self._path.folder.is_relative_to(Path.cwd()) else self.folder
        rows = [
            (step["title"], step["state"], step["cost"], step["lines"]["magic"].replace(self.folder, shown))
            for step in self.steps
        ]
        return Table(("step", "state", "ahead", "line"), rows)

    def _refresh(self) -> None:
        """Work out all that follows from choices and outcomes, and send it."""
        with self._lock:
            steps = [self._entry(step.name) for step in STEPS]
            settings = {name: dict(values) for name, values in self._path.settings.items()}
        with self.hold_sync():
            self.settings = settings
            self.steps = steps
        if not self.running:
            self._ahead.refresh()

    def _entry(self, name: str) -> dict[str, Any]:
        step, record = BY_NAME[name], self._path.records.get(name, {})
        state, reason = self._path.state_of(name)
        return {
            "name": name,
            "title": step.title,
            "what": step.what,
            "state": state,
            "reason": reason,
            "seconds": record.get("seconds", 0.0),
            "cost": self._ahead.words(name),
            "lines": self._lines(name),
            "conflicts": self._conflicts(name),
            "presets": [{"name": one.name, "title": one.title, "why": one.why} for one in step.presets],
            "preset": step.preset_of(self._path.settings[name]),
            "html": record.get("html", "") if state in ("done", "stale") else "",
            "does": self._path.request(name) is not None,
            "before": [BY_NAME[one].title for one in with_all_before(name)[:-1] if not self._path.is_done(one)],
        }

    def _lines(self, name: str) -> dict[str, str]:
        asked = self._path.request(name)
        if asked is None and name == "plugins":
            asked = self._path.request("build")
        if asked is None:
            said = "# the weights stay as they are: nothing to do"
            return {"magic": said, "python": said, "shell": said}
        return {"magic": magic_line(*asked), "python": python_lines(*asked), "shell": shell_line(*asked)}

    def _conflicts(self, name: str) -> list[dict[str, Any]]:
        facts: list[Spec] = []
        if name == "plugins":
            facts = [plugin_config(self._path.settings)]
        elif (asked := self._path.request(name)) is not None:
            quant = getattr(asked[1], "quant_config", None)
            facts = [asked[1], *([quant] if name == "quantization" and quant is not None else [])]
        usable = {f"{spec.__name__}.{one}" for spec, names in BY_NAME[name].spec for one in names}
        found = [*find_conflicts(*facts, gpu=self._gpu), *find_warnings(*facts, gpu=self._gpu)]
        own = set(self._path.settings[name])
        shown = [conflict_data(one, usable) for one in found]
        return [one for one in shown if name != "build" or own & set(one["fields"])]

    def _follow(self, elder: Guide) -> None:
        """Show what another guide of this kernel does, as long as it is at work."""
        while elder._thread is not None and elder._thread.is_alive():
            if self.running != elder.running or self.progress.get("step") != elder.progress.get("step"):
                self.running = elder.running
                self._refresh()
            self.progress = elder.progress
            self.builds, self.log = elder.builds, elder.log
            elder._thread.join(_FOLLOW_S)
        self.builds, self.log = elder.builds, elder.log
        self._elder, self.running, self.progress = None, "", {}
        self._refresh()

    # ---- work ------------------------------------------------------------------------------------------------

    def _work(self, names: list[str]) -> None:
        try:
            for name in names:
                if self._cancelled:
                    break
                if not self._one(name):
                    break
        finally:
            self._job = None
            self._throttle.flush()
            self.running = ""
            self.progress = {}
            self._refresh()

    def _one(self, name: str) -> bool:
        """Run one step; return whether it was done."""
        with self._lock:
            asked = self._path.request(name)
            self._path.begin(name)
        self.running = name
        self._refresh()
        self._throttle.update(step=name, text="starting", began=time.time())
        if asked is None:
            conflicts = [one for one in self._conflicts(name) if one["severity"] == "error"]
            self._path.finish(
                name, "failed" if conflicts else "done", reason="; ".join(one["reason"] for one in conflicts)
            )
            self._refresh()
            return not conflicts
        verb, spec = asked
        words = command_line(verb, spec)
        outcome: dict[str, Any] = {}
        printed: list[str] = []
        job = ChildBuild(self._interrupt) if verb == "build" else None
        watch = None if job is None else BuildWatch([job], ["Build"])
        self._job = job
        try:
            with child(verb, words) as process:
                self._process = process
                reader = threading.Thread(target=gather, args=(process.stderr, printed), daemon=True)
                reader.start()
                for line in process.stdout or ():
                    message = message_of(line)
                    if message.get("type") == "progress":
                        self._throttle.update(step=name, text=message["text"])
                    elif message.get("type") == "event" and job is not None:
                        job.take(message["event"])
                        self._throttle.update(build=watch)
                    elif message.get("type") in ("result", "error"):
                        outcome = message
                process.wait()
                reader.join(CANCEL_S)
        except OSError as error:
            outcome = {"type": "error", "text": f"The process of this step could not be started: {error}"}
        finally:
            self._process = None
        done = outcome.get("type") == "result"
        if done and verb == "plan":
            self._ahead.keep(outcome["data"], words)
        reason = "" if done else outcome.get("text") or "It ended without a word. " + " ".join(printed[-3:])
        self._path.finish(
            name, "done" if done else "failed", reason=reason, html=outcome.get("html", ""), id=outcome.get("id", "")
        )
        if job is not None and watch is not None and watch.builds:
            job.end("done" if done else "cancelled" if self._cancelled else "failed", "" if done else reason)
            self._show_build(watch)
        self._refresh()
        return done

    def _send_progress(self, values: dict[str, Any]) -> None:
        watch = values.pop("build", None)
        if watch is not None:
            self._show_build(watch)
        if values:
            self.progress = {**self.progress, **values}

    def _show_build(self, watch: BuildWatch) -> None:
        watch.ask()
        with self.hold_sync():
            self.builds, self.log = watch.builds, watch.log
