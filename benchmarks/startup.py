"""How long a person waits before anything happens: import, %load_ext, Tab completion.

    python benchmarks/startup.py [--runs 7]

Each figure is the median of fresh processes (imports) or of repeated calls in one shell (completion). The floor of an
import is the interpreter's own start, which is measured beside it and subtracted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

LOAD_EXT = """
import time
from IPython.testing.globalipapp import start_ipython
shell = start_ipython()
began = time.perf_counter()
shell.run_line_magic("load_ext", "trtbench_lab")
print(time.perf_counter() - began)
"""

COMPLETION = """
import statistics, time
from IPython.core.completer import provisionalcompleter
from IPython.testing.globalipapp import start_ipython
shell = start_ipython()
shell.run_line_magic("load_ext", "trtbench_lab")
shell.Completer.use_jedi = False
lines = [
    "%trt_build --gp", "%trt_build --gpt_attention_plugin fl", "%trt_bench --batch", "%trt_run --eng",
    "%trt_quantize --qformat i",
]
samples = []
with provisionalcompleter():
    for round_number in range(12):
        for line in lines:
            began = time.perf_counter()
            found = list(shell.Completer.completions(line, len(line)))
            samples.append(time.perf_counter() - began)
            assert found, line
samples = samples[len(lines):]
print(statistics.median(samples), max(samples))
"""


def run(code: str) -> str:
    """Run `code` in a fresh interpreter and return what it printed last."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def wall_seconds(code: str) -> float:
    """Return the wall time of a fresh interpreter that runs `code`."""
    began = time.perf_counter()
    run(code)
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    run("import trtbench_lab, trtbench_lab.specs, trtbench_lab.cli")  # byte code is written once, before the clock runs
    bare = statistics.median(wall_seconds("pass") for _ in range(runs))
    imported = statistics.median(wall_seconds("import trtbench_lab") for _ in range(runs))
    extension = statistics.median(float(run(LOAD_EXT)) for _ in range(runs))
    completion_s, worst_s = (float(figure) for figure in run(COMPLETION).split())
    print(f"{'interpreter alone':28} {bare * 1e3:8.1f} ms")
    print(f"{'import trtbench_lab':28} {(imported - bare) * 1e3:8.1f} ms   target ≤ 300")
    print(f"{'%load_ext trtbench_lab':28} {extension * 1e3:8.1f} ms   target ≤ 1000")
    print(f"{'Tab completion, median':28} {completion_s * 1e3:8.1f} ms   target ≤ 50")
    print(f"{'Tab completion, slowest':28} {worst_s * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
