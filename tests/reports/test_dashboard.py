"""The dashboard's figures: three groups that never share one, and streams beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.reports.samples import bench, comparison, serving

from trtbench_lab.errors import SpecError
from trtbench_lab.evaluation.compare_result import SideMemory
from trtbench_lab.evaluation.divergence import Alternative, Divergence
from trtbench_lab.evaluation.quality_result import QualityMetric, QualityResult, SideCost
from trtbench_lab.evaluation.streams_result import Streamed, StreamedPrompt, StreamSide, StreamsResult
from trtbench_lab.reports.dashboard import GROUPS, MAX_TIMELINES, dashboard_panels, shared_measures
from trtbench_lab.reports.figure import caption_of
from trtbench_lab.reports.streams import stream_gaps, stream_race


def quality(
    name: str, *, weights: int, tpot_ms: float, perplexity: float, measures=("perplexity", "kl")
) -> QualityResult:
    """A quality report of one quantization against fp32."""
    metrics = [
        QualityMetric(
            name=measure, value=perplexity, baseline=12.0, low=perplexity - 0.2, high=perplexity + 0.3,
            change=perplexity - 12.0, change_low=-0.1, change_high=0.4, relative=1.0, relative_low=0.5,
            relative_high=2.0,
            unit="", direction="lower", n=64, of="windows",
        )
        for measure in measures
    ]  # fmt: skip
    cost = {"backend": "torch", "dtype": "float32"}
    return QualityResult(
        backend="torch",
        model="gpt2",
        name=name,
        quality=metrics,
        cost=SideCost(label=name, quantization=name, weights_bytes=weights, tpot_ms=tpot_ms, **cost),
        baseline_cost=SideCost(label="fp32", weights_bytes=400 << 20, tpot_ms=8.0, **cost),
    )


def streams() -> StreamsResult:
    """Two sides of one prompt that part at the third token."""
    likely = [Alternative(token=i, text=f" {i}", logit=5.0 - i, probability=0.5 / (i + 1)) for i in range(5)]
    where = Divergence(
        position=2, engine_token=1, hf_token=0, engine_text=" 1", hf_text=" 0", engine_margin=0.1, hf_margin=0.2,
        max_abs_logit_difference=0.3, engine_alternatives=likely, hf_alternatives=likely,
    )  # fmt: skip

    def stream(gap_ms: int, **facts) -> Streamed:
        tokens = [4, 5, facts.pop("third"), 7]
        stamps = [(20 + gap_ms * i) * 1_000_000 for i in range(4)]
        return Streamed(
            tokens=tokens, pieces=[f" {t}" for t in tokens], token_ns=stamps, finish_reason="length", **facts
        )

    memory = SideMemory(weights_bytes=1, kv_cache_bytes=None, process_rss_peak_delta_bytes=None)
    return StreamsResult(
        backend="huggingface + torch",
        sides=[
            StreamSide(label="Hugging Face", backend="huggingface", memory=memory),
            StreamSide(label="int8", backend="torch", memory=memory),
        ],
        prompts=[
            StreamedPrompt(
                prompt="Once", prompt_tokens=[1], streams=[stream(4, third=0), stream(2, third=1, divergence=where)]
            )
        ],
        mode="in turn",
    )


def test_each_group_has_its_figures_and_its_own_runs_only():
    runs = [
        bench(),
        bench("torch"),
        serving(),
        quality("int8", weights=100, tpot_ms=3.0, perplexity=12.4),
        comparison(),
    ]
    panels = dashboard_panels(runs)
    assert list(dict.fromkeys(panel.group for panel in panels)) == ["engine", "serving", "quality"]
    assert len({panel.key for panel in panels}) == len(panels)
    of_group = {"engine": {runs[0].id, runs[1].id}, "serving": {runs[2].id}, "quality": {runs[3].id}}
    for panel in panels:
        owners = {trace.meta["run"] for trace in panel.figure.data if trace.meta}
        assert owners <= of_group[panel.group]
    assert set(GROUPS) == {"engine", "serving", "quality"}


def test_many_serving_runs_get_a_few_timelines():
    panels = dashboard_panels([serving(name=str(i)) for i in range(5)])
    assert sum("timeline-" in panel.key for panel in panels) == MAX_TIMELINES


def test_quality_is_drawn_over_size_and_over_speed_by_a_measure_that_all_have():
    runs = [
        quality("int8", weights=100 << 20, tpot_ms=3.0, perplexity=12.4),
        quality("int4", weights=60 << 20, tpot_ms=2.0, perplexity=13.9, measures=("perplexity",)),
    ]
    assert shared_measures(runs) == ["perplexity"]
    size, speed = dashboard_panels(runs, measure="kl")  # not every report has it: the first that all have is drawn
    assert "Weights" in size.figure.layout.xaxis.title.text
    assert "ms" in speed.figure.layout.xaxis.title.text
    assert shared_measures([]) == []


def test_unknown_metrics_are_named_with_the_nearest():
    with pytest.raises(SpecError, match=r"no figure of 'itl'.*\n.*itl_ms"):
        dashboard_panels([bench()], metric="itl")
    with pytest.raises(SpecError, match="request_metric"):
        dashboard_panels([serving()], request_metric="ttft_ms")


def test_nothing_to_draw_is_no_figure():
    assert dashboard_panels([]) == []
    assert dashboard_panels([comparison()]) == []


def test_the_race_is_each_tokens_own_moment_and_marks_the_difference():
    hf, engine, cross = stream_race(streams()).data
    assert list(hf.x) == [0, 20, 24, 28, 32]
    assert list(engine.y) == [0, 1, 2, 3, 4]
    assert (list(cross.x), list(cross.y)) == ([24], [3])
    assert "[huggingface]" in hf.name


def test_gaps_stand_at_the_token_that_they_lie_before():
    hf, engine = stream_gaps(streams()).data
    assert list(hf.x) == [2, 3, 4]
    assert (list(hf.y), list(engine.y)) == ([4, 4, 4], [2, 2, 2])


def test_streams_that_gave_nothing_say_so():
    empty = streams().replace(prompts=[])
    assert "No side gave a token" in caption_of(stream_race(empty))
    assert "no gap to show" in caption_of(stream_gaps(empty))
    with pytest.raises(SpecError, match="no prompt 3"):
        stream_race(streams(), prompt=3)


def test_a_report_of_streams_can_be_read_back(tmp_path: Path):
    from trtbench_lab.reports import read_report, write_report

    result = streams()
    page = write_report(tmp_path / "s.html", "Streams", [result])
    assert "outline:2px solid" in page.read_text(encoding="utf-8")  # the chip of the first difference
    assert page.read_text(encoding="utf-8").count("<figure data-figure") == 2
    assert read_report(page).results == [result]
