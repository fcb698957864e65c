"""What `on_ranks` starts: a module, with a limit after which it writes where each of its threads stands and ends.

``python -m tests.ranks.watched SECONDS FILE MODULE ARGUMENTS…``
"""

from __future__ import annotations

import faulthandler
import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    seconds, folder, module, *arguments = sys.argv[1:]
    faulthandler.enable()
    # A file a rank: on one pipe their lines would run into each other. It stays open: a rank may hang while it ends.
    stacks = open(Path(folder, str(os.getpid())), "w")  # noqa: SIM115
    faulthandler.dump_traceback_later(float(seconds), exit=True, file=stacks)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
