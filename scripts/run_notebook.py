"""Execute a notebook headlessly, cell by cell with its progress shown, and keep the executed copy.

python scripts/run_notebook.py notebooks/00_tour.ipynb --output-dir build/tour
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from traitlets.config import Config


def first_line(cell: NotebookNode) -> str:
    """Return what a cell does, for the progress line."""
    lines = [line for line in cell.source.splitlines() if line.strip()]
    return lines[0][:90] if lines else ""


class TalkingClient(NotebookClient):
    """A notebook client that prints each code cell's first line and how long it took."""

    async def async_execute_cell(self, cell: NotebookNode, cell_index: int, **options: object) -> NotebookNode:
        if cell.cell_type != "code" or not cell.source.strip():
            return await super().async_execute_cell(cell, cell_index, **options)
        started = time.perf_counter()
        print(f"  [{cell_index + 1:2d}/{len(self.nb.cells)}] {first_line(cell)}", flush=True)
        result = await super().async_execute_cell(cell, cell_index, **options)
        print(f"          {time.perf_counter() - started:6.1f} s", flush=True)
        return result


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--output-dir", type=Path, default=Path("build"))
    parser.add_argument("--timeout", type=int, default=600, help="seconds a single cell may take")
    options = parser.parse_args()
    if not options.notebook.is_file():
        print(f"There is no notebook at {options.notebook}.", file=sys.stderr)
        return 2
    output_dir = options.output_dir.resolve()
    output_dir.mkdir(parents=True, exist_ok=True)
    executed = output_dir / options.notebook.name

    # The notebook writes its files here instead of beside itself.
    os.environ["TRTBENCH_OUTPUT_DIR"] = str(output_dir)
    # Plotly figures carry their own drawing code, so that exported pages open offline.
    os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype+notebook")
    notebook = nbformat.read(options.notebook, as_version=4)
    client = TalkingClient(
        notebook,
        timeout=options.timeout,
        kernel_name="python3",
        # Loopback, signed messages, and encrypted ones where the installed Jupyter can.
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        resources={"metadata": {"path": str(output_dir)}},
    )
    print(f"Running {options.notebook} in {output_dir}")
    started = time.perf_counter()
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError) as error:
        nbformat.write(notebook, executed)
        print(f"\nThe notebook stopped at a cell that failed:\n{error}", file=sys.stderr)
        print(f"What ran until then is in {executed}", file=sys.stderr)
        return 1
    nbformat.write(notebook, executed)
    print(f"Done in {time.perf_counter() - started:.0f} s.")
    print(f"  executed notebook  {executed}")
    for report in sorted(output_dir.glob("*.html")):
        print(f"  report             {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
