"""The verb: shell and magic, outputs as HTML, JSON and text, two engines, and figures that show the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.explore.synthetic_tensorrt import decoder, trtexec_times

from trtbench_lab import workbench
from trtbench_lab.cli import main
from trtbench_lab.errors import SpecError
from trtbench_lab.explore import compare_explorations, explore
from trtbench_lab.explore.result import Ceilings
from trtbench_lab.reports import figures_for, read_report
from trtbench_lab.reports.figure import caption_of, numbers_of
from trtbench_lab.reports.figures import (
    engines_by_module,
    memory_by_module,
    precision_map,
    roofline,
    time_by_module,
    time_by_type,
)
from trtbench_lab.results.database import ResultsDatabase
from trtbench_lab.specs.requests import ExploreSpec


@pytest.fixture
def inspector(tmp_path: Path) -> Path:
    (tmp_path / "engine.json").write_text(json.dumps(decoder()))
    return tmp_path / "engine.json"


@pytest.fixture
def times(tmp_path: Path) -> Path:
    (tmp_path / "times.json").write_text(json.dumps(trtexec_times(decoder(), ms=0.02)))
    return tmp_path / "times.json"


def test_three_outputs(engines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(engines["onnxruntime"])
    page, data, text = (tmp_path / f"report.{ending}" for ending in ("html", "json", "txt"))
    line = ["explore", folder, "--profile", "--num_runs", "2", "--warm_up", "0", "--input_length", "8", "-q"]
    assert main([*line, "-o", str(page)]) == 0
    printed = capsys.readouterr()
    assert "Slowest layers" in printed.out
    assert printed.err == ""
    (stored,) = read_report(page).results
    assert stored.kind == "explore"
    assert "Time by module" in page.read_text(encoding="utf-8")
    assert "Roofline" in page.read_text(encoding="utf-8")
    assert main(["explore", folder, "-o", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == json.loads(data.read_text())["kind"] == "explore"
    assert main(["explore", folder, "-o", str(text)]) == 0
    assert text.read_text().startswith("Explore: ")
    assert {row.kind for row in ResultsDatabase().query(limit=10)} >= {"explore"}


def test_two_engines_and_their_report(inspector: Path, times: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(decoder(fused_attention=False)))
    spec = ExploreSpec(engine_dir=str(inspector), against=str(other), output=str(tmp_path / "pair.html"))
    pair = workbench.explore(spec)
    attention = [row for row in pair.modules if row.where == "transformer.layers.0.attention"]
    assert len(attention[0].second) == len(attention[0].first) + 2  # three kernels where the other has one
    assert read_report(tmp_path / "pair.html").results[0].kind == "explore_pair"
    assert "unfused attention" in {pattern.rule for pattern in pair.second.patterns}
    assert "Time by module" not in repr(pair)  # neither was timed, and a table of names alone says nothing


def test_fusions_stand_beside_their_parts(tmp_path: Path) -> None:
    content = decoder(num_layers=1)
    fused = explore(_written(tmp_path / "a.json", content))
    apart = decoder(num_layers=1)
    qkv = next(one for one in apart["Layers"] if "qkv" in one["Name"])
    parts = [dict(qkv, Name=name, Metadata=f"[ONNX Layer: {name}]") for name in qkv["Name"].split(" + ")]
    apart["Layers"][apart["Layers"].index(qkv) : apart["Layers"].index(qkv) + 1] = parts
    pair = compare_explorations(fused, explore(_written(tmp_path / "b.json", apart)))
    row = next(row for row in pair.layers if qkv["Name"] in row.first)
    assert row.second == tuple(qkv["Name"].split(" + "))
    assert len(pair.layers) == len(content["Layers"])


def test_figures_show_the_numbers(inspector: Path, times: Path) -> None:
    ceilings = Ceilings(read_bytes_per_s=4e12, flops_per_s=7e14, source="as given")
    result = explore(inspector, times=times, ceilings=ceilings)
    by_module, by_type = time_by_module(result), time_by_type(result)
    drawn = sum(value for trace in by_module.data for value in trace.x)
    assert drawn == pytest.approx(result.total_ms)
    assert sum(by_type.data[0].x) == pytest.approx(result.total_ms)
    assert "[tensorrt]" in by_module.layout.title.subtitle.text
    points = [trace for trace in roofline(result).data if trace.mode == "markers"]
    timed = [one for one in result.layers if one.flops and one.moved_bytes and one.time_ms]
    assert sum(len(trace.x) for trace in points) == len(timed)
    line = roofline(result).data[-1]
    assert line.y[-1] == pytest.approx(7e14 / 1e9)
    assert line.x[1] == pytest.approx(7e14 / 4e12)  # the ridge
    assert len(figures_for(result)) == 5


def test_memory_is_drawn_by_module(inspector: Path) -> None:
    figure = memory_by_module(explore(inspector))
    table = numbers_of(figure)
    assert list(table.columns[1:]) == ["weights (KiB)", "tensors (KiB)"]
    weights, tensors = (dict(zip(trace.y, trace.x, strict=True)) for trace in figure.data)
    layers, width = 2, 64
    assert weights["transformer.layers.*.attention.qkv"] * 1024 == layers * 3 * width * width * 2  # float16
    assert tensors["transformer.layers.*.attention.qkv"] * 1024 == layers * (width + 3 * width) * 2  # one token
    assert set(weights) == {row[0] for row in table.rows}


def test_two_engines_are_drawn_side_by_side(inspector: Path, times: Path, tmp_path: Path) -> None:
    slower = _written(tmp_path / "slower.json", trtexec_times(decoder(), ms=0.06))
    pair = compare_explorations(explore(inspector, times=times), explore(inspector, times=slower))
    figure = engines_by_module(pair)
    first, second = figure.data
    assert sum(first.x) == pytest.approx(0.02 * len(decoder()["Layers"]))
    assert [3 * value for value in first.x] == pytest.approx(list(second.x))
    assert [float(row[3]) for row in numbers_of(figure).rows] == [3.0] * len(first.x)


def test_precision_map_has_a_cell_for_each_layer(tmp_path: Path) -> None:
    result = explore(_written(tmp_path / "a.json", decoder(num_layers=3, head_dtype="Float")))
    table = numbers_of(precision_map(result))
    assert list(table.columns) == ["module", "0", "1", "2", "all"]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["transformer.layers.*.attention.qkv"] == ["float16", "float16", "float16", ""]
    assert rows["lm_head"] == ["", "", "", "float32"]


def test_figures_say_why_they_are_empty(inspector: Path, tmp_path: Path) -> None:
    untimed = explore(inspector)
    assert "--profile" in caption_of(time_by_module(untimed))
    assert "Times and sizes" in caption_of(roofline(untimed))
    pair = compare_explorations(untimed, untimed)
    assert "Neither side" in caption_of(engines_by_module(pair))
    nothing = explore(_written(tmp_path / "empty.json", {"Layers": []}))
    assert nothing.metrics["attributed_percent"] is None
    assert all(caption_of(figure) for figure in figures_for(nothing))
    assert "verbosity none" in repr(nothing)


def test_mistakes_are_told_before_any_work(inspector: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"not as '\.pdf'"):
        workbench.explore(ExploreSpec(engine_dir="nowhere", output="x.pdf"))
    with pytest.raises(SpecError, match="without --profile"):
        workbench.explore(ExploreSpec(engine_dir=str(inspector), trace="t.json"))
    with pytest.raises(SpecError, match="Two positive numbers"):
        workbench.explore(ExploreSpec(engine_dir=str(inspector), ceilings=(1.0,)))
    assert main(["explore", str(tmp_path / "nothing")]) == 1


def test_ceilings_of_another_machine(inspector: Path, times: Path) -> None:
    result = workbench.explore(
        ExploreSpec(engine_dir=str(inspector), times=str(times), ceilings=(4330.0, 767.0), name="H200")
    )
    assert result.ceilings.read_bytes_per_s == pytest.approx(4.33e12)
    assert result.ceilings.flops_per_s == pytest.approx(7.67e14)


def test_magic_stores_and_writes(inspector: Path, tmp_path: Path) -> None:
    from IPython.testing.globalipapp import get_ipython, start_ipython

    shell = start_ipython() or get_ipython()
    shell.run_line_magic("load_ext", "trtbench_lab")
    page = tmp_path / "report.html"
    shell.run_line_magic("trt_explore", f"{inspector} -o {page}")
    assert page.is_file()
    shell.run_line_magic("trt_explore", f"{inspector} -o found")
    assert shell.user_ns["found"].kind == "explore"
    assert "By module" in shell.user_ns["found"]._repr_html_()


def _written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path
