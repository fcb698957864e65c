"""What TensorRT really does here: every feature tried, a table of what passes, a bundle for bug reports."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EngineError, MissingPackageError
from ..progress import ProgressEvent, ProgressSink, no_progress
from ..results.render import Table, html_document, plain_document

if TYPE_CHECKING:
    from ..backends.tensorrt.conformance.features import Feature
    from ..backends.tensorrt.conformance.harness import Site
    from ..backends.tensorrt.conformance.outcome import Outcome
    from ..backends.tensorrt.conformance.verdicts import Machine

_MARKS = {
    "passed": "✓ passed",
    "failed": "✗ failed",
    "crashed": "✗ crashed",
    "timed out": "✗ timed out",
    "not run": "– not run",
}
_COLUMNS = ("feature", "result", "difference", "allowed", "seconds", "why")


@dataclass(frozen=True, repr=False)
class ConformanceReport:
    """One conformance run.

    Attributes
    ----------
    machine
        GPU, driver and TensorRT version that the outcomes hold for.
    outcomes
        One for each feature that was tried.
    stored_at
        File that builds on this machine read the verdicts from.
    bundle
        Zip file with everything about the run.
    """

    machine: Machine
    outcomes: tuple[Outcome, ...]
    stored_at: Path
    bundle: Path

    @property
    def ok(self) -> bool:
        """Whether nothing failed; what this machine cannot try does not count."""
        return not any(outcome.bad for outcome in self.outcomes)

    def count(self, status: str) -> int:
        """Return how many features ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "ok": self.ok,
            "machine": asdict(self.machine),
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
            "stored_at": str(self.stored_at),
            "bundle": str(self.bundle),
        }

    def __repr__(self) -> str:
        return plain_document(self._title, self._byline, [self._table()])

    def _repr_html_(self) -> str:
        return html_document(self._title, self._byline, [self._table()])

    @property
    def _title(self) -> str:
        bad = sum(outcome.bad for outcome in self.outcomes)
        told = f"{self.count('passed')} of {len(self.outcomes)} features pass"
        return f"{told}, {bad} do not, {self.count('not run')} could not be tried here."

    @property
    def _byline(self) -> str:
        machine = self.machine
        return f"TensorRT {machine.tensorrt}, {machine.gpu}, driver {machine.driver}"

    def _table(self) -> Table:
        rows = [
            (one.feature, _MARKS[one.status], one.difference, one.bound, round(one.seconds, 1), one.reason)
            for one in self.outcomes
        ]
        note = (
            f"Builds on this machine refuse what failed ({self.stored_at}). To report a fault, attach {self.bundle}: "
            "versions, logs, ONNX files, the inspector's JSON and these results."
        )
        return Table(columns=_COLUMNS, rows=rows, note=note)


def run_conformance(
    wanted: Iterable[str] | None = None,
    *,
    bundle_dir: Path | str | None = None,
    progress: ProgressSink | None = None,
    features: tuple[Feature, ...] | None = None,
    site: Site | None = None,
) -> ConformanceReport:
    """Try TensorRT's features on this machine, each in a process of its own, store the verdicts, and write the bundle.

    Parameters
    ----------
    wanted
        Names or groups of features (see ``trtbench doctor --conformance_features``); None tries all.
    bundle_dir
        Folder for the zip file; None takes the current one.
    progress
        Is told of each feature.
    features, site
        Take the place of the real ones in tests.

    Raises
    ------
    MissingPackageError
        Where TensorRT or a GPU is missing: nothing is tried then.
    SpecError
        For a feature that does not exist.
    StorageError
        When verdicts or bundle cannot be written.
    """
    from ..backends.tensorrt.conformance.bundle import write_bundle
    from ..backends.tensorrt.conformance.features import FEATURES, chosen_features
    from ..backends.tensorrt.conformance.harness import try_features
    from ..backends.tensorrt.conformance.verdicts import store_outcomes, verdict_path

    chosen = chosen_features(wanted, features or FEATURES)
    with tempfile.TemporaryDirectory(prefix="trtbench-conformance-") as temporary:
        folder = Path(temporary)
        place = site or this_site(folder)
        outcomes = tuple(try_features(chosen, place, _teller(chosen, progress or no_progress)))
        store_outcomes(place.machine, [one for one in outcomes if one.status != "not run"])
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        target = Path(bundle_dir or ".").expanduser().absolute() / f"trtbench-conformance-{stamp}.zip"
        bundle = write_bundle(target, place.machine, outcomes, place.folder)
    return ConformanceReport(place.machine, outcomes, verdict_path(place.machine), bundle)


def this_site(folder: Path) -> Site:
    """Return this machine as a place for trials.

    Raises
    ------
    MissingPackageError
        That says what is missing, and how to get it.
    """
    from ..backends.tensorrt.bindings_check import DRIVER, availability, import_fault
    from ..backends.tensorrt.conformance.harness import Site
    from ..backends.tensorrt.conformance.refusals import current_machine

    found = availability()
    if not found.ok:
        fault = import_fault()
        remedy = fault[1] if fault is not None and fault[0] == found.reason else DRIVER
        raise MissingPackageError(
            f"Nothing can be tried here. {found.reason}", where="doctor --conformance", remedy=remedy
        )
    import torch

    try:
        machine = current_machine()
    except EngineError as error:
        raise MissingPackageError(error.what, where="doctor --conformance", remedy=error.remedy) from error
    return Site(machine, torch.cuda.device_count(), folder)


def _teller(chosen: tuple[Feature, ...], progress: ProgressSink) -> Any:
    started, numbers = time.monotonic(), {feature.name: number for number, feature in enumerate(chosen)}

    def told(feature: Feature, outcome: Outcome | None) -> None:
        number = numbers[feature.name]
        progress(
            ProgressEvent(
                phase="try TensorRT's features",
                done=number + (outcome is not None),
                total=len(chosen),
                unit="feature",
                elapsed_s=time.monotonic() - started,
                state="done" if outcome is not None and number + 1 == len(chosen) else "running",
                message=f"{feature.name}: {outcome.status}" if outcome is not None else feature.title,
            )
        )

    return told
