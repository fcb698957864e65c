"""The report is one file that asks nobody for anything, and gives its results back."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.reports.samples import bench, comparison, summary
from tests.results.samples import school

from trtbench_lab.errors import ResultsError, StorageError
from trtbench_lab.reports import Code, Highlight, Section, figures_for, read_report, write_report
from trtbench_lab.reports.figures import latency_distribution
from trtbench_lab.results import METRICS, Table


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text outside scripts and styles."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: dict[str, str] = {}
        self._script = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self._script = str(dict(attrs).get("id"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def results() -> list[Any]:
    return [bench(name="fp32", weights_bytes=100 << 20), comparison(), summary()]


@pytest.fixture(scope="module")
def report(results: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("a folder with späces") / "report.html"
    sections = [
        Section(title="Speed", items=["A paragraph.", Code(text="code <tag>"), Table(("a",), [(1,)]), *results[:1]]),
        *results[1:],
        Section(title="Figures", items=[figure for result in results for figure in figures_for(result)]),
    ]
    highlights = [Highlight(label="Speed-up", value=2.0, unit="×", note="onnxruntime")]
    return write_report(path, "A report", sections, subtitle="Of a test", highlights=highlights)


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report.read_text(encoding="utf-8"))


def test_the_page_is_well_formed(page: Page):
    assert page.open == []


def test_nothing_is_loaded_from_anywhere(page: Page):
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed")
        assert "src" not in attributes
        assert tag != "a" or str(attributes["href"]).startswith("#")
    policies = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].startswith("default-src 'none';")
    assert "http" not in policies[0]


def test_style_asks_for_nothing(report: Path):
    style = re.search(r"<style>(.*?)</style>", report.read_text(encoding="utf-8"), re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_plotly_is_in_it_once(report: Path):
    text = report.read_text(encoding="utf-8")
    assert len(re.findall(r"plotly\.js v\d", text)) == 1
    assert 4e6 < len(text) < 7e6


def test_every_figure_has_its_data_and_its_numbers(page: Page):
    places = [attributes["data-figure"] for tag, attributes in page.elements if tag == "figure"]
    # benchmark 4, comparison 3, summary 2; those of the bare results and again those of the last section
    assert len(places) == 3 + 2 + 4 + 3 + 2
    for identifier in places:
        figure = json.loads(page.scripts[str(identifier)])
        assert figure["data"]
        assert "template" not in figure["layout"]
    assert page.text.count("The numbers behind this figure") == len(places)
    assert set(json.loads(page.scripts["trtbench-themes"])) == {"light", "dark"}


def test_contents_lead_to_every_section(page: Page):
    targets = [str(a["href"])[1:] for tag, a in page.elements if tag == "a"]
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert targets == sections
    assert len(sections) == 5


def test_numbers_stand_beside_their_definitions_and_backends(page: Page):
    assert METRICS["ttft_ms"].definition in page.text
    assert METRICS["ttft_ms"].formula in page.text
    assert "backend onnxruntime" in page.text
    assert "[BENCHMARK] batch_size 1 input_length 16 output_length 8" in page.text
    assert "Hugging Face (tokens per second" in page.text


def test_the_environment_is_shown_once_for_all(page: Page, results: list[Any]):
    assert page.text.count("Results made here:") == 1
    assert results[0].environment["python"] in page.text
    assert all(result.id in page.text for result in results)


def test_the_results_come_back(report: Path, results: list[Any]):
    stored = read_report(report)
    assert stored.results == results
    assert stored.title == "A report"
    again = latency_distribution(stored.results[0])  # type: ignore[arg-type]
    assert again.to_json() == latency_distribution(results[0]).to_json()


def test_results_behind_figures_are_kept_though_not_shown(tmp_path: Path):
    hidden = bench("huggingface")
    path = write_report(
        tmp_path / "r.html", "t", [Section(title="s", items=[latency_distribution(hidden)])], data=[hidden]
    )
    assert read_report(path).results == [hidden]
    assert "backend huggingface" in Page(path.read_text(encoding="utf-8")).text


NASTY = '</script><script>alert(1)</script><!-- \u2028 & "quotes"'


def test_nothing_in_a_result_becomes_markup(tmp_path: Path):
    nasty = bench(name=NASTY, model=NASTY)
    sections = [
        Section(title=NASTY, items=[NASTY, Code(text=NASTY), Table((NASTY,), [(NASTY,)], title=NASTY, note=NASTY)]),
        nasty,
    ]
    highlights = [Highlight(label=NASTY, value=NASTY, unit=NASTY, note=NASTY)]
    path = write_report(tmp_path / "r.html", NASTY, sections, subtitle=NASTY, highlights=highlights)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert "alert" not in page.scripts.get("None", "").replace("plotly", "")[-3000:]
    assert [a for tag, a in page.elements if tag == "script" and not a.get("id")] == [{}, {}]
    assert read_report(path).results == [nasty]
    assert read_report(path).title == NASTY


def test_a_report_without_figures_needs_no_plotly(tmp_path: Path):
    code = f"""
import sys
sys.modules["plotly"] = None
from trtbench_lab.reports import Section, write_report
write_report({str(tmp_path / "plain.html")!r}, "t", [Section(title="s", items=["text"])])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "plain.html").stat().st_size < 50_000


def test_without_plotly_a_figure_names_the_extra(tmp_path: Path):
    code = """
import sys
sys.modules["plotly"] = None
from trtbench_lab.errors import MissingPackageError
from trtbench_lab.reports.theme import template
try:
    template()
except MissingPackageError as error:
    print(error.remedy)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "Install it with: pip install 'trtbench-lab[lab]'\n"


def test_writing_again_replaces_and_failing_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "r.html"
    write_report(path, "first", [Section(title="s")])
    write_report(path, "second", [Section(title="s")])
    assert read_report(path).title == "second"
    with pytest.raises(ResultsError, match="A object cannot stand in a report"):
        write_report(path, "third", [Section(title="s", items=[object()])])
    with pytest.raises(ResultsError, match="A dict is no part of a report"):
        write_report(path, "third", [{}])  # type: ignore[list-item]
    assert read_report(path).title == "second"
    assert [item.name for item in tmp_path.iterdir()] == ["r.html"]


def test_a_place_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        write_report(tmp_path / "file" / "r.html", "t", [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "<html></html>", "no report data"),
        (lambda text: text[: text.index("format_version")], "no report data"),
        (lambda text: text.replace('{"format_version":1', '{"format_version":2'), "format version 2"),
        (lambda text: text.replace('{"format_version":1', '{"format_version":1,,'), "damaged"),
        (lambda text: text.replace('"kind":"school"', '"kind":"later"'), "kind 'later'"),
        (lambda text: text.replace('"title":"t"', '"titel":"t"'), "damaged"),
    ],
)
def test_damaged_and_newer_reports_are_plain_errors(tmp_path: Path, change: Any, message: str):
    path = write_report(tmp_path / "r.html", "t", [school()])
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ResultsError, match=message):
        read_report(path)


def test_a_missing_report_is_a_plain_error(tmp_path: Path):
    with pytest.raises(ResultsError, match="cannot be read"):
        read_report(tmp_path / "none.html")


@pytest.mark.browser
@pytest.mark.parametrize("window", ["1300,900", "500,900"])
def test_a_browser_draws_every_figure_without_a_network(report: Path, page: Page, window: str):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "this test needs Chromium"
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=8000",
            f"--window-size={window}", "--dump-dom", report.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    places = [tag for tag, _ in page.elements if tag == "figure"]
    drawn = re.findall(r'class="canvas[^"]*js-plotly-plot', done.stdout)
    assert len(drawn) == len(places)
    assert "CONSOLE" not in done.stderr
