"""Every notebook keeps the rules by which people can read it: short, linear, light, and honest about its time."""

from __future__ import annotations

import ast
import itertools
import json
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_CELLS = 15
# What each tutorial shows of the product beside its lines.
VIEWS = {
    "00": {"Guide"},
    "02": {"PluginSelector"},
    "03": {"QuantSelector", "LayerErrors"},
    "04": {"BuildMonitor"},
    "05": {"SideBySide"},
    "07": {"Dashboard"},
    "08": {"ShardPlan", "RankMonitor"},
    "09": {"LayerErrors"},
}
MOST_OUTPUT_BYTES, MOST_FILE_BYTES = 110_000, 400_000
DURATION = re.compile(
    r"\b(\d+|a|one|two|three|under a|about a|about two)\s+(seconds?|minutes?)\b|\bwithin minutes\b|\bin minutes\b"
)
# What JupyterLab shows of a notebook that it does not trust, such as one that was just cloned; no image/svg+xml.
SHOWN_UNTRUSTED = {"text/plain", "text/html", "text/markdown", "image/png"}
PATHS = re.compile(r"(?<![\w.~/])/(home|root|tmp|work|Users|mnt|opt|var)/|[A-Z]:\\\\")


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_of(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def python_of(source: str) -> str:
    """Return a cell's Python: its magics become plain statements of the same indentation; a written file is not its."""
    source = re.sub(r"\\\n\s*", "", source)
    lines = [re.sub(r"^(\s*)(\w+ = )?%.*$", r"\1pass", line) for line in source.splitlines()]
    return "" if source.startswith("%%") else "\n".join(lines)


def test_all_tutorials_are_there():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(numbers) == len(set(numbers))
    assert numbers == [f"{number:02d}" for number in range(12)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestEach:
    def test_is_short_and_linear(self, path: Path):
        notebook = read(path)
        nbformat.validate(notebook)
        assert len(notebook.cells) <= MOST_CELLS
        for source in code_of(notebook):
            for node in ast.walk(ast.parse(python_of(source))):
                defines = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)
                assert not defines, source

    def test_was_run_once_from_top_to_bottom(self, path: Path):
        counts = [cell.execution_count for cell in read(path).cells if cell.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1))

    def test_opens_with_what_you_get_and_how_long_it_takes(self, path: Path):
        first = read(path).cells[0]
        assert first.cell_type == "markdown"
        heading, _, text = first.source.partition("\n")
        assert heading.startswith("# ")
        opening = text.strip().split("\n\n")[0].replace("\n", " ")
        assert "At the end you" in opening
        assert DURATION.search(opening), opening

    def test_stored_outputs_are_light_and_of_no_machine(self, path: Path):
        text = path.read_text(encoding="utf-8")
        assert len(text.encode()) <= MOST_FILE_BYTES
        assert not PATHS.search(text), PATHS.search(text)
        assert "<script" not in text
        for cell in read(path).cells:
            for output in cell.get("outputs", ()):
                assert output.output_type != "error"
                assert len(json.dumps(output)) <= MOST_OUTPUT_BYTES
                data = output.get("data", {})
                assert set(data) <= SHOWN_UNTRUSTED, cell.source
                assert "https://cdn" not in json.dumps(data)

    def test_is_stored_with_outputs(self, path: Path):
        cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
        assert any(cell.outputs for cell in cells)

    def test_views_leave_what_stands_in_their_place(self, path: Path):
        cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
        for view in VIEWS.get(path.name[:2], ()):
            (cell,) = [cell for cell in cells if re.search(rf"\b{view}\(", cell.source)]
            pages = [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]
            assert any("<table" in page or "<img" in page for page in pages), view

    def test_a_text_that_streamed_is_one_output(self, path: Path):
        for cell in read(path).cells:
            names = [output.get("name", "") for output in cell.get("outputs", ())]
            assert not [name for name, after in itertools.pairwise(names) if name and name == after]

    def test_links_lead_somewhere(self, path: Path):
        for cell in read(path).cells:
            if cell.cell_type == "markdown":
                for target in re.findall(r"\]\(([^)#]+)", cell.source):
                    assert target.startswith("http") or (path.parent / target).is_file(), target
