"""The outcomes of a machine, kept for the builds to come: one file a GPU, driver and TensorRT version."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ....storage import digest_of_json, home_dir, write_json
from .outcome import BAD, Outcome

FORMAT = "trtbench-conformance-1"


@dataclass(frozen=True)
class Machine:
    """What a verdict is valid for.

    Attributes
    ----------
    gpu, compute_capability, driver
        The GPU's name, its capability as 90 for 9.0, the driver's version.
    tensorrt
        Version of the bindings.
    """

    gpu: str
    compute_capability: int
    driver: str
    tensorrt: str


@dataclass(frozen=True)
class Verdicts:
    """Outcome of each feature that was tried on a machine.

    Attributes
    ----------
    machine
        Which machine.
    outcomes
        Name of the feature → its latest outcome.
    at
        When the latest was stored, UTC in ISO 8601.
    """

    machine: Machine
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    at: str = ""

    def failure(self, feature: str) -> Outcome | None:
        """Return the outcome of a feature that must not be relied on; None when it passed or was never tried."""
        found = self.outcomes.get(feature)
        return found if found is not None and found.status in BAD else None


def verdict_path(machine: Machine) -> Path:
    """Return the file of a machine's verdicts."""
    name = digest_of_json(asdict(machine)).rpartition(":")[2][:24]
    return home_dir() / "conformance" / f"{name}.json"


def read_verdicts(machine: Machine) -> Verdicts:
    """Return what is known of a machine: nothing, where nothing was tried or the file is damaged."""
    try:
        content = json.loads(verdict_path(machine).read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["machine"] != asdict(machine):
            return Verdicts(machine)
        outcomes = {name: Outcome.from_dict(table) for name, table in content["outcomes"].items()}
        return Verdicts(machine, outcomes, str(content["at"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Verdicts(machine)


def store_outcomes(machine: Machine, outcomes: Iterable[Outcome]) -> Verdicts:
    """Add outcomes to what is known of a machine, a newer one in place of an older, and return all.

    Raises
    ------
    StorageError
        When the file cannot be written.
    """
    known = read_verdicts(machine).outcomes | {one.feature: one for one in outcomes}
    made = Verdicts(machine, known, datetime.now(UTC).isoformat(timespec="seconds"))
    payload = {
        "format": FORMAT,
        "machine": asdict(machine),
        "at": made.at,
        "outcomes": {name: one.to_dict() for name, one in sorted(known.items())},
    }
    write_json(verdict_path(machine), payload)
    return made


def forget(machine: Machine) -> bool:
    """Remove the verdicts of a machine; return whether there were any."""
    path = verdict_path(machine)
    if not path.is_file():
        return False
    path.unlink()
    return True
