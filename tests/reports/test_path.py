"""A report shows one path and no other, says how to repeat it, and needs nothing but what is stored."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from tests.reports.samples import bench, comparison, serving, summary

from trtbench_lab import workbench
from trtbench_lab.benchmark.planner import plan
from trtbench_lab.errors import ResultsError, SpecError
from trtbench_lab.reports import Code, Section, read_report
from trtbench_lab.reports.markdown import write_markdown
from trtbench_lab.reports.path import command_text, path_highlights, path_of, path_sections
from trtbench_lab.results import Result, Table
from trtbench_lab.results.database import ResultsDatabase
from trtbench_lab.results.steps import BuildStep, ConvertStep
from trtbench_lab.specs import ModelConfig
from trtbench_lab.specs.command_line import parse


def at(result: Any, minute: int, **changes: Any) -> Any:
    return dataclasses.replace(result, created_at=f"2026-01-01T10:{minute:02d}:00.000Z", id=f"{minute:012d}", **changes)


def converted(minute: int, model: str, folder: str) -> ConvertStep:
    step = ConvertStep(
        backend="trtbench-lab", model=model, output_dir=f"nowhere/{folder}", seconds=1.0, architecture="L",
        dtype="float32", tp_size=2, pp_size=1, tensors=9, written_bytes=300, bytes_by_rank=[100, 200],
        samples={"command": ["convert", "--model_dir", model, "--output_dir", folder]},
    )  # fmt: skip
    return at(step, minute)


def built(minute: int, folder: str, engine: str) -> BuildStep:
    step = BuildStep(
        backend="onnxruntime", model=engine, output_dir=f"nowhere/{engine}", seconds=2.0, key="k", from_cache=False,
        engine_bytes=1 << 20, spec={"checkpoint_dir": folder}, samples={"command": ["build", folder, engine]},
    )  # fmt: skip
    return at(step, minute)


def history() -> list[Result]:
    return [
        converted(1, "other", "other-ckpt"),
        built(2, "other-ckpt", "other-engine"),
        at(bench(model="other-engine"), 3),
        converted(4, "mine", "ckpt"),
        built(5, "ckpt", "engine"),
        at(bench(model="engine"), 6, samples={"command": ["bench", "engine"]}),
        converted(7, "mine", "ckpt-int4"),
        built(8, "ckpt-int4", "engine-int4"),
        at(bench(model="engine-int4"), 9),
        at(bench("huggingface", model="mine"), 10),
        built(11, "ckpt", "engine"),
        at(bench(model="engine"), 12, samples={"command": ["bench", "engine"]}),
    ]


def test_the_latest_path_with_all_its_engines_and_nothing_else():
    path = path_of(history())
    assert path.model == "mine"
    assert {result.model for result in path.results} == {"mine", "engine", "engine-int4"}
    assert [result.created_at for result in path.results] == sorted(result.created_at for result in path.results)
    # What was done twice counts once: the last build of the engine, and the benchmark after it.
    assert [result.id for result in path.results if result.model == "engine"] == [f"{n:012d}" for n in (11, 12)]


def test_one_engine_is_its_own_path():
    path = path_of(history(), engine="engine-int4")
    assert {r.model for r in path.of("build", "bench") if r.backend != "huggingface"} == {"engine-int4"}
    assert [step.output_dir for step in path.of("convert")] == ["nowhere/ckpt-int4"]


def test_an_empty_history_is_an_empty_path():
    assert path_of([]).results == ()


def test_commands_are_those_that_were_asked_for():
    path = path_of(history())
    section = next(section for section in path_sections(path) if section.title == "Commands")
    (code,) = [item for item in section.items if isinstance(item, Code)]
    lines = code.text.splitlines()
    assert lines[0] == "trtbench convert --model_dir mine --output_dir ckpt"
    assert len(lines) == len(set(lines))
    assert command_text(bench()) is None


def test_sections_hold_every_result_once():
    results = [*history(), at(comparison(), 13, model="engine"), at(summary(), 14, model="engine"),
               at(serving(), 15, model="engine")]  # fmt: skip
    path = path_of(results)
    shown = [result.id for section in path_sections(path) for result in section.results]
    assert sorted(shown) == sorted(result.id for result in path.results)
    assert next(item.label for item in path_highlights(path)) == "Output tokens per second"


def test_shards_without_the_checkpoint_are_the_stored_bytes():
    tables = [
        item for section in path_sections(path_of(history())) for item in section.items if isinstance(item, Table)
    ]
    by_rank = next(table for table in tables if (table.title or "").startswith("Shards"))
    assert list(by_rank.rows) == [(0, 100), (1, 200)]


def test_markdown_escapes_and_has_the_numbers(tmp_path):
    rows = [("a|b", "<script>alert(1)</script>"), ("*bold*", 1.5)]
    result = bench(model="we_ird*name")
    file = write_markdown(
        tmp_path / "r.md",
        "A <b>title</b>",
        [Section(title="One", items=[Table(("x", "y"), rows), result, Code(text="a|b")])],
    )
    text = file.read_text(encoding="utf-8")
    assert "\\<script\\>" in text
    assert "a\\|b" in text
    assert "\\*bold\\*" in text
    assert "```\na|b\n```" in text
    assert f"`{result.id}`" in text
    assert "Versions: " in text
    for line in text.splitlines():
        assert not re.match(r"\s*<", line)
    rows_of = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows_of)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    database = ResultsDatabase()
    for result in history():
        database.add(result)
    return tmp_path


def report(line: str):
    return workbench.verb("report")(parse("report", line.split()).spec)


def test_report_from_stored_results_alone(home):
    written = report("path.html")
    assert written.path.name == "path.html"
    page = written.path.read_text(encoding="utf-8")
    visible = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=[\"']https?:", visible)
    assert "default-src 'none'" in visible
    stored = read_report(written.path)
    assert {result.id for result in stored.results} == {result.id for result in written.results}
    assert "mine" in stored.title
    again = report("path.md")
    assert [result.id for result in again.results] == [result.id for result in written.results]
    assert "trtbench convert" in again.path.read_text(encoding="utf-8")
    assert again.to_dict()["sections"][0] == "The path"
    assert "path.md" in repr(again)


def test_what_is_reported_can_be_chosen(home):
    assert {r.model for r in report("a.md --model other*").results} == {"other-engine", "other"}
    chosen = report("a.md --ids 000000000003 000000000006")
    assert [result.id for result in chosen.results] == ["000000000003", "000000000006"]
    engine = report("a.md --engine_dir some/where/engine-int4")
    assert "engine" not in {result.model for result in engine.results}


def test_mistakes_are_told(home):
    with pytest.raises(SpecError, match=r"\.html or \.md"):
        report("path.pdf")
    with pytest.raises(ResultsError, match="no run"):
        report("a.md --ids ffff")
    with pytest.raises(ResultsError, match="No stored result"):
        report("a.md --model nothing")
    assert not list(home.glob("*.pdf"))


def test_a_plan_is_drawn(home):
    config = ModelConfig(
        architecture="LlamaForCausalLM", vocab_size=1000, max_position_embeddings=4096, hidden_size=256,
        num_hidden_layers=2, num_attention_heads=4,
    )  # fmt: skip
    found = plan(config, gpu="L4", target="itl_ms=5", batch_size=[1, 8], label="mine")
    ResultsDatabase().add(found)
    written = report("path.html")
    assert "Planned beforehand" in written.sections
    from trtbench_lab.reports.figures import figures_for

    memory, roofline, choices = figures_for(found)
    assert sum(trace.x[0] for trace in memory.data) == pytest.approx(found.memory_bytes / 2**30)
    assert len(roofline.data[1].x) == 2
    assert sum(len(trace.x) for trace in choices.data) == len(found.choices)
