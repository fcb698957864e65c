"""Execute notebooks and store them with outputs that read well on GitHub: tables, and figures as still pictures.

python scripts/store_notebook.py notebooks/01_download_and_convert.ipynb …

Outputs keep no script, no plotly.js, no path of the machine they ran on, and stay small. A widget leaves the tables
and pictures that stand in its place where no widget runs, as they were when the cell after its own had run: the
monitor of a build then shows the build that has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
MOST_BYTES = 100_000  # of one output; a longer table is shown as its text
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PROGRESS = re.compile(r'<pre style="margin:0;opacity:0.75">[^<]*</pre>')
_DETAILS = re.compile(r"<details>.*?</details>", re.DOTALL)
_ASK_WIDGETS = """
import json as _json
from ipywidgets.widgets.widget import _instances
_shown = {{name: _instances[name] for name in {names!r} if hasattr(_instances.get(name), "fallback_html")}}
print(_json.dumps({{name: one._repr_mimebundle_() for name, one in _shown.items()}}, default=str))
del _json, _instances, _shown
"""


class WidgetClient(NotebookClient):
    """A notebook client that asks widgets for what stands in their place, once more when the next cell has run."""

    async def async_execute_cell(self, cell: nbformat.NotebookNode, cell_index: int, **options: Any) -> Any:
        result = await super().async_execute_cell(cell, cell_index, **options)
        code = [other for other in self.nb.cells[: cell_index + 1] if other.cell_type == "code"]
        shown = {
            output["data"][WIDGET]["model_id"]: output["data"]
            for other in code[-2:]
            for output in other.outputs
            if WIDGET in output.get("data", {})
        }
        if cell.cell_type == "code" and shown:
            question = nbformat.v4.new_code_cell(_ASK_WIDGETS.format(names=sorted(shown)))
            await super().async_execute_cell(question, cell_index, store_history=False)
            self.nb.cells[cell_index] = cell  # nbclient put the question in its place, and counted it
            self.code_cells_executed -= 1
            for name, bundle in json.loads(question.outputs[0]["text"]).items():
                data = bundle[0] if isinstance(bundle, list) else bundle
                shown[name].update({mime: data[mime] for mime in ("text/html", "text/plain")})
        return result


def execute(path: Path, folder: Path, timeout_s: int = 600) -> nbformat.NotebookNode:
    """Run a notebook in `folder`, whose history and cache are its own, and return it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "TRTBENCH_HOME": str(folder / "home"), "TRTBENCH_OUTPUT_DIR": str(folder)}
    client = WidgetClient(
        notebook, timeout=timeout_s, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)
    return notebook


def lighten(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Return the notebook with still pictures in place of figures, and without scripts and the machine's paths."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if "data" in output:
                output["data"] = _light(dict(output["data"]), folder)
                output["metadata"] = {}
                output.pop("transient", None)
                if not output["data"]:
                    continue
            elif "text" in output:
                output["text"] = _clean(output["text"], folder)
            if output.get("name") == "stderr":
                continue  # progress of libraries
            if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
                kept[-1]["text"] += output["text"]  # a text that streamed is one text
                continue
            kept.append(output)
        cell.outputs = kept
    return notebook


def _light(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    if PLOTLY in data:
        import plotly.graph_objects as go

        from trtbench_lab.reports.static_svg import figure_image

        figure = go.Figure({key: data[PLOTLY][key] for key in ("data", "layout")})
        title = str(figure.layout.title.text or "Figure")
        # HTML, since JupyterLab shows no image/svg+xml of a notebook that it does not trust: one that was just cloned.
        return {"text/html": figure_image(figure), "text/plain": f"Figure: {title}"}
    if data.pop(WIDGET, None) is not None:
        if set(data) <= {"text/plain"}:
            return {}  # a progress bar
        data["text/html"] = _DETAILS.sub("", data.get("text/html", ""))  # the numbers under each of a view's pictures
    if not str(data.get("text/plain", "x")).strip():
        return {}  # progress that has been cleared
    html = data.get("text/html")
    if isinstance(html, str) and _PROGRESS.fullmatch(html):
        return {}
    if isinstance(html, str) and "<script" in html:
        data.pop("text/html")
        if set(data) <= {"text/plain"}:
            return {}  # plotly.js itself
    if isinstance(html, str) and len(html) > MOST_BYTES:
        data.pop("text/html", None)
    return {mime: _clean(value, folder) if isinstance(value, str) else value for mime, value in data.items()}


def _clean(text: str, folder: Path) -> str:
    text = _COLOUR.sub("", text)
    for place, shown in ((folder / "home", "~/.cache/trtbench-lab"), (folder, ".")):
        for spelling in {str(place), str(place.resolve())}:
            text = text.replace(f"{spelling}/", f"{shown}/" if shown != "." else "").replace(spelling, shown)
    text = text.replace(str(Path(tempfile.gettempdir()).resolve()), "~").replace(str(Path.home()), "~")
    return text.replace(sys.prefix, "environment")


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="+")
    for path in parser.parse_args().notebooks:
        with tempfile.TemporaryDirectory(prefix="notebook-") as name:
            folder = Path(name)
            print(f"Running {path}", flush=True)
            notebook = lighten(execute(path, folder), folder)
        nbformat.write(notebook, path)
        print(f"  {path.stat().st_size / 1024:,.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
