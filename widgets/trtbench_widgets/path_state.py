"""What a guide remembers on disk: choices, outcomes with their content keys, and each step's state from them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtbench_lab.errors import TrtbenchError
from trtbench_lab.specs import Spec
from trtbench_lab.storage import write_json

from .path_steps import BY_NAME, STEPS, key_of

FILE_NAME = "guide.json"
FORMAT_VERSION = 1
STATES = ("not begun", "running", "done", "stale", "failed")
INTERRUPTED = "The notebook's kernel ended while this step ran. Nothing half-made was left behind; run it again."


@dataclass
class PathState:
    """Choices and outcomes of one folder; every change is written at once, as a whole or not at all."""

    folder: Path
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    current: str = "model"
    remark: str = ""

    @classmethod
    def open(cls, folder: Path | str) -> PathState:
        """Return what the folder remembers; a new path where there is nothing, or nothing that can be read."""
        state = cls(Path(folder).expanduser().absolute())
        stored: dict[str, Any] = {}
        try:
            stored = json.loads((state.folder / FILE_NAME).read_text(encoding="utf-8"))
            if stored["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {stored['format_version']}")
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            state.remark = f"What {FILE_NAME} remembered cannot be read ({error}); the path begins anew."
            stored = {}
        for step in STEPS:
            known = stored.get("settings", {}).get(step.name, {})
            initial = step.initial()
            known = known if isinstance(known, dict) else {}
            state.settings[step.name] = {**initial, **{name: v for name, v in known.items() if name in initial}}
        state.records = {name: record for name, record in stored.get("records", {}).items() if name in BY_NAME}
        state.plan = stored.get("plan", {})
        state._mend()
        current = stored.get("current")
        state.current = str(current) if current in BY_NAME else "model"
        for name, record in state.records.items():
            if record.get("state") == "running":
                state.records[name] = {**record, "state": "failed", "reason": INTERRUPTED}
        return state

    def _mend(self) -> None:
        """Begin anew with the choices of steps whose stored ones do not fit, and say so."""
        for step in STEPS:
            try:
                self.request("build" if step.name == "plugins" else step.name)
            except TrtbenchError as error:
                self.settings[step.name] = step.initial()
                self.remark = f"Stored choices of the step {step.title} do not fit and were left out: {error.what}"

    def save(self) -> None:
        """Write everything."""
        content = {"settings": self.settings, "records": self.records, "plan": self.plan, "current": self.current}
        write_json(self.folder / FILE_NAME, {"format_version": FORMAT_VERSION, **content})

    def save_if_begun(self) -> None:
        """Write everything where something stands already: to look at a path makes no folder."""
        if (self.folder / FILE_NAME).is_file():
            self.save()

    def request(self, name: str) -> tuple[str, Spec] | None:
        """Return the verb and request of a step."""
        return BY_NAME[name].request(self.settings, self.folder)

    def key(self, name: str) -> str:
        """Return the content key of a step as it is chosen now."""
        return key_of(name, self.settings, self.folder)

    def begin(self, name: str) -> None:
        """Remember that a step runs."""
        self.records[name] = {
            "state": "running",
            "key": self.key(name),
            "asked": dict(self.settings[name]),
            "began": time.time(),
        }
        self.save()

    def finish(self, name: str, state: str, **facts: Any) -> None:
        """Remember how a step ended."""
        record = self.records[name]
        self.records[name] = {**record, "state": state, "seconds": round(time.time() - record["began"], 2), **facts}
        self.save()

    def state_of(self, name: str) -> tuple[str, str]:
        """Return a step's state and the reason for it, empty where none is needed."""
        record = self.records.get(name)
        if record is None:
            return "not begun", ""
        if record["state"] == "running":
            return "running", ""
        try:
            fresh = record["key"] == self.key(name)
        except Exception:  # choices that contradict each other: they are not what was done
            fresh = False
        if record["state"] == "failed":
            return "failed", record.get(
                "reason", ""
            ) if fresh else f"{record.get('reason', '')} (its choices changed since)"
        if fresh and (output := self._output(name)) is not None and not output.exists():
            return "stale", f"What it wrote is not there any more: {output}"
        if fresh:
            return "done", ""
        if record.get("asked") != self.settings[name]:
            return "stale", "Its choices changed since it was done."
        earlier = [
            BY_NAME[one].title
            for one in BY_NAME[name].after
            if self.state_of(one)[0] != "done" or self._newer(one, name)
        ]
        return "stale", f"An earlier choice changed: {', '.join(earlier) or 'model'}."

    def is_done(self, name: str) -> bool:
        """Whether a step is done as it is chosen now."""
        return self.state_of(name)[0] == "done"

    def _newer(self, one: str, other: str) -> bool:
        return self.records.get(one, {}).get("began", 0) > self.records.get(other, {}).get("began", 0)

    def _output(self, name: str) -> Path | None:
        asked = self.request(name)
        output = getattr(asked[1], "output_dir", None) if asked is not None else None
        return Path(output) if output else None
