"""The child process of one trial: ``python -m …conformance.worker REQUEST.json RESULT.json``."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ....errors import TrtbenchError
from .features import Feature
from .outcome import FAILED, Outcome, compared

Probe = Callable[..., Any]
"""Gets the folder of the trial and the feature's arguments; returns (difference or None, facts)."""


def tried(feature: Feature, probes: Mapping[str, Probe], folder: Path) -> Outcome:
    """Call the feature's probe and judge what it returns; an exception is a failure with its words."""
    try:
        difference, facts = probes[feature.probe](folder, **feature.arguments)
    except TrtbenchError as error:
        traceback.print_exc()
        print(error.details or "", file=sys.stderr)  # noqa: T201 - the log of the trial
        return Outcome(feature.name, FAILED, str(error.what))
    except Exception as error:
        traceback.print_exc()
        return Outcome(feature.name, FAILED, f"{type(error).__name__}: {str(error).strip() or 'no words'}"[:600])
    if feature.bound is None or difference is None:
        return Outcome(feature.name, "passed", facts=facts)
    return compared(feature.name, difference, feature.bound, facts)


def main(arguments: list[str]) -> int:
    """Try one feature and write its outcome; the exit status is 0 whenever there is one."""
    request, result = (Path(argument) for argument in arguments)
    content = json.loads(request.read_text(encoding="utf-8"))
    module, _, name = content["probes"].partition(":")
    outcome = tried(Feature(**content["feature"]), getattr(importlib.import_module(module), name), request.parent)
    result.write_text(json.dumps(outcome.to_dict()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    status = 1
    try:
        status = main(sys.argv[1:])
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)  # a library that crashes while it is unloaded does not spoil a trial that ended
