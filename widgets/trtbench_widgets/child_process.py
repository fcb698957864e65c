"""The other end of `child`: a verb's process, its messages, and its end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

KEPT_LINES = 200  # of what a step printed, for a failure that has no sentence
CANCEL_S = 5.0


def gather(stream: Any, lines: list[str]) -> None:
    for line in stream:
        lines.append(line.rstrip())
        del lines[:-KEPT_LINES]


def message_of(line: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        return found if isinstance(found, dict) else {}
    return {}


def end(process: subprocess.Popen[str]) -> None:
    """End a process that does not heed the request to stop."""
    try:
        process.wait(CANCEL_S)
    except subprocess.TimeoutExpired:
        process.kill()


@contextlib.contextmanager
def child(verb: str, words: list[str]) -> Any:
    """Start a verb in a process of its own; its stdin stays open as long as this process lives."""
    roots = [
        str(Path(module.__file__).parents[1])
        for name in ("trtbench_lab", "trtbench_widgets")
        if (module := sys.modules.get(name)) and module.__file__
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "trtbench_widgets.child", verb, *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        errors="replace",
        env=environment, start_new_session=True,  # an interrupt of the kernel is not meant for it
    )  # fmt: skip
    try:
        yield process
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        end(process)
