"""Every notebook keeps the rules by which people can read it: short, linear, light, and honest about its time."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# A plugin is a definition, so the notebook that writes one defines functions, in ten cells of their own.
DEFINES = {"10_write_a_plugin.ipynb"}
MOST_CELLS, MOST_CELLS_OF_DEFINITIONS = 15, 21
MOST_OUTPUT_BYTES, MOST_FILE_BYTES = 64_000, 400_000
DURATION = re.compile(
    r"\b(\d+|a|one|two|three|under a|about a|about two)\s+(seconds?|minutes?)\b|\bwithin minutes\b|\bin minutes\b"
)
PATHS = re.compile(r"(?<![\w.~/])/(home|root|tmp|work|Users|mnt|opt|var)/|[A-Z]:\\\\")


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_of(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def python_of(source: str) -> str:
    """Return a cell's Python: its magics become plain statements of the same indentation."""
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
        assert len(notebook.cells) <= (MOST_CELLS_OF_DEFINITIONS if path.name in DEFINES else MOST_CELLS)
        for source in code_of(notebook):
            for node in ast.walk(ast.parse(python_of(source))):
                defines = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)
                assert not defines or path.name in DEFINES, source

    def test_opens_with_what_you_get_and_how_long_it_takes(self, path: Path):
        first = read(path).cells[0]
        assert first.cell_type == "markdown"
        heading, _, text = first.source.partition("\n")
        assert heading.startswith("# ")
        opening = text.strip().split("\n\n")[0].replace("\n", " ")
        assert path.name in DEFINES or "At the end you" in opening
        assert path.name in DEFINES or DURATION.search(opening), opening

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
                assert not [mime for mime in data if mime.startswith("application/vnd")], cell.source
                assert "https://cdn" not in json.dumps(data)

    def test_is_stored_with_outputs(self, path: Path):
        cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
        assert any(cell.outputs for cell in cells)

    def test_links_lead_somewhere(self, path: Path):
        for cell in read(path).cells:
            if cell.cell_type == "markdown":
                for target in re.findall(r"\]\(([^)#]+)", cell.source):
                    assert target.startswith("http") or (path.parent / target).is_file(), target
