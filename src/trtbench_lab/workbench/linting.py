"""Check a network by the rules of TensorRT's parser."""

from __future__ import annotations

from pathlib import Path

from ..explore import LintReport, lint_file
from ..progress import ProgressSink, phase
from ..specs.requests import LintSpec
from ..storage import staged_file
from .written import check_ending, write_result


def lint(spec: LintSpec, *, progress: ProgressSink | None = None) -> LintReport:
    """Return everything in an ONNX file that TensorRT's parser refuses or misreads; nothing is stored."""
    output = Path(spec.output).expanduser() if spec.output is not None else None
    if output is not None:
        check_ending(output)
    with phase("lint the network", progress):
        report = lint_file(spec.model, fixed_capacity=spec.fixed_capacity)
    if output is not None:
        write_result(output, report, lambda path: _write_html(path, report))
    return report


def _write_html(path: Path, report: LintReport) -> None:
    page = f"<!doctype html><meta charset='utf-8'><title>Lint</title>{report._repr_html_()}\n"
    with staged_file(path) as staging:
        staging.write_text(page, encoding="utf-8")
