"""Tries features one after another, each in a process of its own: a crash of one never takes the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ....errors import EngineError
from .features import Feature
from .outcome import CRASHED, FAILED, NOT_RUN, TIMED_OUT, Outcome
from .verdicts import Machine

PROBES = f"{__package__}.probes:PROBES"
"""Where the child process finds the functions that try features, as ``module:name`` of a dictionary."""
_PACKAGE_ROOT = Path(__file__).resolve().parents[4]
_LOG_TAIL = 4000

Told = Callable[[Feature, Outcome | None], None]
"""Is told of each feature before (None) and after its trial."""


@dataclass(frozen=True)
class Site:
    """Where features are tried.

    Attributes
    ----------
    machine
        This machine.
    gpus
        GPUs that are visible.
    folder
        Existing folder for the trials' files, one subfolder each.
    probes
        See `PROBES`.
    """

    machine: Machine
    gpus: int
    folder: Path
    probes: str = PROBES


def try_features(features: Sequence[Feature], site: Site, told: Told = lambda feature, outcome: None) -> list[Outcome]:
    """Try features in order and return an outcome for each; nothing that happens in a trial is raised."""
    outcomes = []
    for feature in features:
        told(feature, None)
        reason = _unfit(feature, site)
        outcome = Outcome(feature.name, NOT_RUN, reason) if reason else _tried(feature, site)
        outcomes.append(outcome)
        told(feature, outcome)
    return outcomes


def trial_folder(folder: Path, feature: str) -> Path:
    """Return the folder of one trial: log, ONNX, inspector JSON, result."""
    return folder / feature.replace("/", "-")


def _unfit(feature: Feature, site: Site) -> str:
    capability = site.machine.compute_capability
    if capability < feature.least_capability:
        return (
            f"It needs compute capability {feature.least_capability / 10}, and {site.machine.gpu} has "
            f"{capability / 10}."
        )
    if site.gpus < feature.gpus:
        return f"It needs {feature.gpus} GPUs, and {site.gpus} {'is' if site.gpus == 1 else 'are'} visible."
    return ""


def _tried(feature: Feature, site: Site) -> Outcome:
    folder = trial_folder(site.folder, feature.name)
    folder.mkdir(parents=True, exist_ok=True)
    request, result, log = folder / "request.json", folder / "result.json", folder / "log.txt"
    request.write_text(json.dumps({"feature": asdict(feature), "probes": site.probes}), encoding="utf-8")
    command = [sys.executable, "-P", "-m", f"{__package__}.worker", str(request), str(result)]
    started = time.monotonic()
    try:
        with open(log, "wb") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                cwd=folder,
                env=_environment(),
            )
    except OSError as error:
        raise EngineError(
            f"No process could be started for a trial: {error.strerror or error}.",
            where=sys.executable,
            remedy="Check the memory and the number of processes that are left on this machine.",
        ) from error
    try:
        status: int | None = process.wait(feature.timeout_s)
    except subprocess.TimeoutExpired:
        status = None
    finally:  # the trial's own children too, also when the owner was interrupted
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    seconds = time.monotonic() - started
    if status is None:
        reason = f"It had not ended after {feature.timeout_s:.0f} s."
        return Outcome(feature.name, TIMED_OUT, reason, seconds=seconds)
    return replace(_result(feature, status, result, log), seconds=seconds)


def _result(feature: Feature, status: int, result: Path, log: Path) -> Outcome:
    try:
        outcome = Outcome.from_dict(json.loads(result.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        outcome = None
    if status == 0 and outcome is not None and outcome.feature == feature.name:
        return outcome
    if status == 0:
        return Outcome(feature.name, FAILED, "The trial ended without a result.")
    tail = log_tail(log)
    last = tail.splitlines()[-1] if tail else "nothing was printed"
    return Outcome(feature.name, CRASHED, f"The process {_ending(status)}; its last words: {last[:300]}")


def log_tail(log: Path, characters: int = _LOG_TAIL) -> str:
    """Return the end of a trial's log."""
    try:
        return log.read_text(encoding="utf-8", errors="replace").strip()[-characters:]
    except OSError:
        return ""


def _ending(status: int) -> str:
    if status > 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    return f"was ended by signal {-status} ({name})"


def _environment() -> dict[str, str]:
    earlier = os.environ.get("PYTHONPATH")
    paths = [str(_PACKAGE_ROOT), *([earlier] if earlier else [])]
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "PYTHONPATH": os.pathsep.join(paths)}
