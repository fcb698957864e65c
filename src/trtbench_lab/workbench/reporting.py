"""One file about a whole path, from stored results: no GPU, no network, nothing is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ResultsError, SpecError
from ..progress import ProgressSink, phase
from ..results import Result
from ..results.render import Table, html_document, plain_document
from ..specs.requests import ReportSpec
from .listing import named_database

_MOST = 2000  # runs of the history that are looked through, newest first
ENDINGS = (".html", ".htm", ".md", ".markdown")


@dataclass(frozen=True)
class WrittenReport:
    """A report on the disk.

    Attributes
    ----------
    path
        The file.
    title
        Its title.
    results
        What it shows, oldest first.
    sections
        Titles of its parts.
    """

    path: Path
    title: str
    results: tuple[Result, ...]
    sections: tuple[str, ...]

    def tables(self) -> list[Table]:
        """One table: a line a result."""
        rows = [
            (result.kind, result.name or result.model or "", result.backend, result.id, result.created_at[:19])
            for result in self.results
        ]
        return [Table(("step", "of", "backend", "id", "when (UTC)"), rows, note="Parts: " + ", ".join(self.sections))]

    def to_dict(self) -> dict[str, object]:
        """Return the report's place and content as JSON-ready values."""
        ids = [result.id for result in self.results]
        return {"path": str(self.path), "title": self.title, "results": ids, "sections": list(self.sections)}

    def __repr__(self) -> str:
        return plain_document(f"Report: {self.title}", str(self.path), self.tables())

    def _repr_html_(self) -> str:
        return html_document(f"Report: {self.title}", str(self.path), self.tables())


def report(spec: ReportSpec, *, progress: ProgressSink | None = None) -> WrittenReport:
    """Write a report and return where it is and what it shows.

    Raises
    ------
    SpecError
        For a file name that is neither .html nor .md.
    ResultsError
        For an unknown id, or where nothing matches.
    """
    path = Path(spec.output).expanduser()
    if path.suffix.lower() not in ENDINGS:
        raise SpecError(
            f"A report is written as .html or .md, not as {path.suffix or 'a name without an ending'!r}.",
            where="output",
            remedy=f"Write it to {str(path.with_suffix('.html'))!r}.",
        )
    from ..reports.path import ResultPath, path_highlights, path_of, path_sections

    with phase("read the history", progress):
        database = named_database(spec.database)
        if spec.ids:
            chosen = sorted((database.get(key) for key in spec.ids), key=lambda result: result.created_at)
            found = ResultPath(tuple(chosen), next((r.model for r in chosen if r.model), "these results"))
        else:
            since = {"model": spec.model, "name": spec.result_name, "tag": spec.tag, "since": spec.since}
            view = database.query(**since, limit=_MOST)
            narrowed = any(value is not None for value in since.values())
            engine = Path(spec.engine_dir).expanduser().absolute().name if spec.engine_dir is not None else None
            found = path_of(view.results(), engine=engine)
            if narrowed and engine is None:  # a person's own choice is taken as it is
                chosen = sorted(view.results(), key=lambda result: result.created_at)
                found = ResultPath(tuple(chosen), spec.model or found.model)
    if not found.results:
        raise ResultsError(
            "No stored result matches.",
            where=str(database.path),
            remedy="Look at %trt_history, then name ids, a model or an engine; or run a step first.",
        )
    title = spec.title or f"{found.model}: from the model to its measurements"
    with phase("write the report", progress):
        sections = path_sections(found)
        highlights = path_highlights(found)
        if path.suffix.lower() in (".html", ".htm"):
            from ..reports import write_report

            write_report(path, title, sections, highlights=highlights, data=found.results)
        else:
            from ..reports.markdown import write_markdown

            write_markdown(path, title, sections, highlights=highlights)
    return WrittenReport(path, title, found.results, tuple(section.title for section in sections))
