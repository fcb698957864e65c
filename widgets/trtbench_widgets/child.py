"""One verb in a process of its own: ``python -m trtbench_widgets.child VERB …`` tells its progress as JSON lines.

The process that started it keeps the other end of stdin; when that process is gone, the work is stopped.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

_GRACE_S = 5.0


def main(words: list[str]) -> int:
    """Do what a line of the shell asks; return 0 when it is done."""
    threading.Thread(target=_stop_with_parent, name="watch-parent", daemon=True).start()
    said = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not stand between the lines
    with os.fdopen(said, "w", encoding="utf-8") as out:
        return _done(words, out)


def _done(words: list[str], out: Any) -> int:
    from trtbench_lab import workbench
    from trtbench_lab.errors import TrtbenchError
    from trtbench_lab.progress import ProgressEvent
    from trtbench_lab.progress_text import text_from_event
    from trtbench_lab.specs.command_line import parse

    lock = threading.Lock()  # a build tells from threads of its own

    def tell(**message: Any) -> None:
        line = json.dumps(message, default=str)
        with lock:
            out.write(f"{line}\n")
            out.flush()

    def progress(event: ProgressEvent) -> None:
        tell(type="progress", text=text_from_event(event), phase=event.phase, state=event.state)

    # A build tells everything: phases by rank, log lines, memory.
    told = {"on_event": lambda event: tell(type="event", event=asdict(event))} if words[0] == "build" else {}
    try:
        spec, notes = parse(words[0], words[1:])
        result = getattr(workbench, words[0])(spec, progress=progress, **told)
    except TrtbenchError as error:
        tell(type="error", text=str(error))
        return 1
    except KeyboardInterrupt:
        tell(type="error", text="It was cancelled; nothing half-made was left behind.")
        return 130
    except Exception as error:
        tell(type="error", text=f"Something went wrong inside trtbench-lab: {type(error).__name__}: {error}")
        return 1
    first = getattr(result, "engine", result)
    data = first.to_dict() if hasattr(first, "to_dict") else {}
    shown = result._repr_html_() if hasattr(result, "_repr_html_") else ""
    tell(type="result", data=data if words[0] == "plan" else {}, id=data.get("id", ""), html=shown, notes=notes)
    return 0


def _stop_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
