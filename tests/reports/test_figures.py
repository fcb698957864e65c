"""Figures show what the results say: their numbers are those of the results, backends and units are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.reports.samples import bench, comparison, serving, summary

from trtbench_lab.benchmark.result import MEMORY_OVER_TIME
from trtbench_lab.errors import ResultsError, SpecError
from trtbench_lab.reports import figures_for
from trtbench_lab.reports.figure import MAX_POINTS, buckets, caption_of, evenly, numbers_of, scaled_bytes
from trtbench_lab.reports.figures import (
    QuantizedRun,
    compare_memory,
    compare_speed,
    comparison_view,
    itl_over_position,
    latency_distribution,
    memory,
    memory_over_time,
    quantization_tradeoff,
    rouge_bars,
    serving_latency,
    serving_throughput,
    serving_throughput_latency,
    serving_timeline,
    share_of_limit,
    side_by_side,
    summarize_speed,
    throughput_latency,
    throughput_over_batch,
)
from trtbench_lab.reports.theme import OKABE_ITO, REFERENCE
from trtbench_lab.results import METRICS, compare_results, percentile


def pair() -> list[Any]:
    hf = bench("huggingface", itl_ms=4.0, weights_bytes=200 << 20)
    return [hf, bench(name="fp32", itl_ms=2.0, weights_bytes=100 << 20)]


def limited() -> list[Any]:
    """Benchmarks that know how fast their machine reads."""
    facts = {"decode_read_bytes": 10_000_000, "read_bandwidth_bytes_per_s": 1e10}
    return [bench(itl_ms=2.0, **facts), bench(name="slow", itl_ms=4.0, **facts)]


def with_timeline(result: Any) -> Any:
    """A result with a timeline of memory as a GPU gives it."""
    kinds = ("process_rss", "process_gpu", "device_gpu", "allocator_reserved", "allocator_allocated")
    columns = {f"{kind}_bytes": [(i + 1) << 20, (i + 2) << 20, (i + 1) << 20] for i, kind in enumerate(kinds)}
    return result.replace(samples={MEMORY_OVER_TIME: {"serving": {"time_ms": [0.0, 5.0, 10.0], **columns}}})


ALL: dict[str, Callable[[str], Any]] = {
    "latency_distribution": lambda theme: latency_distribution(pair(), theme=theme),
    "itl_over_position": lambda theme: itl_over_position(pair(), theme=theme),
    "itl of a comparison": lambda theme: itl_over_position(comparison(), theme=theme),
    "side_by_side": lambda theme: side_by_side(pair(), theme=theme),
    "throughput_over_batch": lambda theme: throughput_over_batch(pair(), theme=theme),
    "throughput_latency": lambda theme: throughput_latency(pair(), theme=theme),
    "serving_throughput_latency": lambda theme: serving_throughput_latency([serving()], theme=theme),
    "share_of_limit": lambda theme: share_of_limit(limited(), theme=theme),
    "memory_over_time": lambda theme: memory_over_time(pair(), theme=theme),
    "memory_over_time of serving": lambda theme: memory_over_time(with_timeline(serving()), theme=theme),
    "memory": lambda theme: memory(pair(), theme=theme),
    "serving_timeline": lambda theme: serving_timeline(serving(), theme=theme),
    "serving_latency": lambda theme: serving_latency([serving(), serving(policy="static batches")], theme=theme),
    "serving_throughput": lambda theme: serving_throughput([serving(), serving("tensorrt")], theme=theme),
    "compare_speed": lambda theme: compare_speed(comparison(), theme=theme),
    "compare_memory": lambda theme: compare_memory(comparison(), theme=theme),
    "rouge_bars": lambda theme: rouge_bars(summary(), theme=theme),
    "summarize_speed": lambda theme: summarize_speed(summary(), theme=theme),
    "comparison_view": lambda theme: comparison_view(compare_results(pair()), theme=theme),
    "quantization_tradeoff": lambda theme: quantization_tradeoff(
        [QuantizedRun(label="W8A16", bench=pair()[1], score=summary())], theme=theme
    ),
}


@pytest.fixture(params=ALL.values(), ids=ALL.keys())
def drawn(request: pytest.FixtureRequest) -> Any:
    return request.param("light")


def words_of(figure: Any) -> str:
    """Everything that a person can read in a figure."""
    return json.dumps(figure.to_plotly_json()["layout"], ensure_ascii=False) + " ".join(
        f"{trace.name} {trace.y}" for trace in figure.data
    )


def test_every_figure_names_its_backend(drawn: Any):
    assert "onnxruntime" in words_of(drawn)


def test_every_figure_has_a_caption_and_its_numbers(drawn: Any):
    assert caption_of(drawn).endswith((".", ")."))
    numbers = numbers_of(drawn)
    assert numbers is not None
    assert len(numbers.rows) > 0
    assert all(len(row) == len(numbers.columns) for row in numbers.rows)


def test_every_axis_of_numbers_has_a_title(drawn: Any):
    for trace in drawn.data:
        for letter in ("x", "y"):
            if any(isinstance(value, int | float) for value in trace[letter]):
                number = (trace[f"{letter}axis"] or letter)[1:]
                assert drawn.layout[f"{letter}axis{number}"].title.text


def test_figures_are_pure(drawn: Any, request: pytest.FixtureRequest):
    import plotly.io

    before = (plotly.io.renderers.default, plotly.io.templates.default)
    result = bench()
    payload = result.to_dict()
    first, second = latency_distribution(result).to_json(), latency_distribution(result).to_json()
    assert first == second
    assert result.to_dict() == payload
    assert (plotly.io.renderers.default, plotly.io.templates.default) == before


@pytest.mark.parametrize("theme", ["light", "dark", "auto"])
def test_every_theme_has_its_own_text_on_a_transparent_ground(theme: str):
    figure = memory(pair(), theme=theme)
    layout = figure.layout.template.layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert layout.font.color == {"light": "#1F2430", "dark": "#E8EAEE", "auto": "#7B828E"}[theme]


def test_an_unknown_theme_is_a_plain_error():
    with pytest.raises(SpecError, match=r"no theme 'drak'.*\n.*'dark'"):
        memory(pair(), theme="drak")


def contrast(first: str, second: str) -> float:
    """WCAG's contrast ratio of two #RRGGBB colours."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("ground", ["#FFFFFF", "#12151A"])
def test_text_and_lines_can_be_seen_on_white_and_on_black(ground: str):
    # 3:1 is WCAG's bound for graphics; light orange and sky blue reach 2:1 on white and stand last for that reason.
    assert contrast("#7B828E", ground) >= 3.5
    assert contrast(REFERENCE, ground) >= 3
    assert all(contrast(colour, ground) >= 2.8 for colour in OKABE_ITO[:4])


def test_hugging_face_is_grey_and_engines_are_not():
    figure = throughput_over_batch(pair())
    assert [trace.line.color for trace in figure.data] == [REFERENCE, OKABE_ITO[0]]


# ---- the numbers -----------------------------------------------------------------------------------------------------


def test_the_latency_curve_is_the_percentile_function():
    result = bench(runs=11, batch_size="1")
    samples = result.points[0].series("latency_ms")
    curve, marks = latency_distribution(result).data
    for x, share in zip(curve.x, curve.y, strict=True):
        assert x == pytest.approx(float(np.percentile(samples, share)))
    assert list(marks.x) == pytest.approx(list(np.percentile(samples, [50, 90, 95, 99])))
    assert list(marks.y) == [50, 90, 95, 99]


def test_distributions_of_other_metrics_and_unknown_ones():
    figure = latency_distribution(bench(), metric="itl_ms")
    assert figure.layout.xaxis.title.text == "Inter-token latency (ms)"
    with pytest.raises(SpecError, match=r"'itl'.*\n.*'itl_ms'"):
        latency_distribution(bench(), metric="itl")


def test_itl_bands_hold_median_and_extremes_of_the_runs():
    result = bench(runs=7, batch_size="1")
    gaps = np.array([timing.inter_token_ms for timing in result.points[0].timings])
    band, line = itl_over_position(result).data
    assert list(line.x) == list(range(2, 9))
    assert list(line.y) == pytest.approx(list(np.median(gaps, axis=0)))
    assert list(band.y) == pytest.approx([*gaps.max(axis=0), *gaps.min(axis=0)[::-1]])


def test_itl_of_a_comparison_shows_both_sides():
    figure = itl_over_position(comparison())
    lines = [trace for trace in figure.data if trace.fill is None]
    assert [set(trace.y) for trace in lines] == [{6.0}, {3.0}]
    assert [trace.name for trace in lines] == ["Hugging Face float32 [huggingface]", "gpt2 [onnxruntime]"]


def test_side_by_side_states_values_and_ratios():
    results = pair()
    figure = side_by_side(results)
    latency, ttft, rate = figure.data
    points = [result.points[0] for result in results]
    assert list(latency.x) == [point.distributions["latency_ms"].mean for point in points]
    assert list(ttft.x) == [point.distributions["ttft_ms"].p50 for point in points]
    assert list(rate.x) == [point.tokens_per_sec for point in points]
    assert "×0.50" in ttft.text[1]
    assert side_by_side(results, batch_size=4).layout.title.subtitle.text == "engine-only · batch 4, 16 in, 8 out"


def test_side_by_side_without_a_common_configuration_says_so():
    figure = side_by_side([bench(batch_size="1"), bench(batch_size="2")])
    assert "no configuration in common" in figure.layout.annotations[0].text
    assert "no configuration in common" in side_by_side([]).layout.annotations[0].text


def test_throughput_is_that_of_each_batch():
    result = bench(batch_size="4;1;16")
    trace = throughput_over_batch(result).data[0]
    assert list(trace.x) == [1, 4, 16]
    rates = {point.batch_size: point.tokens_per_sec for point in result.points}
    assert list(trace.y) == [rates[1], rates[4], rates[16]]


def test_memory_kinds_stay_apart_and_unknown_ones_are_left_out():
    figure = memory(pair())
    kinds = list(figure.data[0].y)
    assert kinds == [METRICS["weights_bytes"].title, METRICS["process_rss_peak_bytes"].title]
    assert figure.data[0].x[0] == 200
    assert "(MiB)" in figure.layout.xaxis.title.text
    both = compare_memory(comparison())
    assert list(both.data[0].text)[1] == "n/a"  # Hugging Face's cache has no figure of its own


def test_rouge_whiskers_are_the_interval():
    hf, engine = rouge_bars(summary(rouge1=60.0)).data
    assert (hf.name, engine.name) == ("Hugging Face [huggingface]", "gpt2 [onnxruntime]")
    assert list(engine.y) == [60.0, 60.0]
    assert list(engine.error_y.array) == [3.0, 3.0]
    assert list(engine.error_y.arrayminus) == [4.0, 4.0]


def test_rouge_of_several_engines_shows_hugging_face_once():
    figure = rouge_bars([summary(name="fp32"), summary(name="int8", rouge1=58.0)])
    assert [trace.name for trace in figure.data] == [
        "Hugging Face [huggingface]",
        "fp32 [onnxruntime]",
        "int8 [onnxruntime]",
    ]


def test_comparisons_are_drawn_as_ratios_in_the_better_ones_colour():
    figure = comparison_view(compare_results(pair(), ["latency_ms_mean", "tokens_per_sec"]))
    dots = figure.data[0]
    assert set(dots.marker.color) == {"#009E73"}
    assert dots.x[0] == pytest.approx(0.5, rel=0.1)
    assert dots.x[-1] == pytest.approx(2.0, rel=0.1)
    assert dots.y[0] == "batch 1, 16 in, 8 out · Latency, mean"


def test_the_tradeoff_has_size_quality_and_speed():
    runs = [
        QuantizedRun(label="none", bench=bench(weights_bytes=400 << 20, itl_ms=8.0), score=summary(rouge1=60)),
        QuantizedRun(label="W4A16", bench=bench(weights_bytes=60 << 20, itl_ms=2.0), score=summary(rouge1=58)),
    ]
    slow, fast = quantization_tradeoff(runs).data
    assert (slow.x[0], fast.x[0]) == (400, 60)
    assert (slow.y[0], fast.y[0]) == (60, 58)
    # Four times the speed is four times the area, so twice the diameter.
    assert fast.marker.size / slow.marker.size == pytest.approx(2.0, rel=0.1)


def test_a_tradeoff_without_its_numbers_is_a_plain_error():
    with pytest.raises(ResultsError, match=r"W8A16: The benchmark does not know the size"):
        quantization_tradeoff([QuantizedRun(label="W8A16", bench=bench(), score=summary())])
    run = QuantizedRun(label="W8A16", bench=bench(weights_bytes=1 << 20), score=summary())
    with pytest.raises(ResultsError, match="no metric 'bleu'"):
        quantization_tradeoff([run], quality="bleu")


# ---- odd data --------------------------------------------------------------------------------------------------------


def test_a_single_token_has_no_gap_and_the_figure_says_so():
    from tests.benchmark.fakes import FakeRunner

    from trtbench_lab.benchmark import run_static
    from trtbench_lab.specs import BenchConfig

    config = BenchConfig(batch_size="1", input_output_len="8,1", num_runs=1, duration_s=0.0)
    result = run_static(FakeRunner(), config, model="m")
    assert "no gap to show" in itl_over_position(result).layout.annotations[0].text
    assert "[fake]" in itl_over_position(result).layout.title.subtitle.text
    assert len(latency_distribution(result).data) == 2
    for figure in figures_for(result):
        figure.to_json()


def test_labels_are_shown_as_they_are_written():
    figure = throughput_over_batch(bench(name="<b>bold</b> & co"))
    assert figure.data[0].name.startswith("&lt;b&gt;bold&lt;/b&gt; &amp; co [onnxruntime]")


def test_ten_thousand_samples_are_thinned_without_losing_an_extreme():
    many = bench(runs=10_000, batch_size="1")
    samples = many.points[0].series("itl_ms")
    curve = latency_distribution(many, metric="itl_ms").data[0]
    assert len(curve.x) == MAX_POINTS
    assert (curve.x[0], curve.x[-1]) == (min(samples), max(samples))
    assert curve.x[MAX_POINTS // 2] == pytest.approx(percentile(samples, 50), rel=1e-3)


def test_long_outputs_are_gathered_and_keep_their_peak():
    from trtbench_lab.benchmark import BenchPoint, BenchResult

    stamps = np.cumsum(np.full(10_000, 2_000_000)).tolist()
    stamps[7000:] = [stamp + 500_000_000 for stamp in stamps[7000:]]
    point = BenchPoint(batch_size=1, input_length=1, output_length=10_000, token_ns=[stamps])
    band, line = itl_over_position(BenchResult(backend="torch", points=[point])).data
    assert len(line.x) <= MAX_POINTS
    assert max(band.y) == 502.0
    assert len(band.x) == 2 * len(line.x)


def test_many_configurations_are_reduced_to_those_that_can_be_told_apart():
    grid = bench(batch_size="1;2;3;4;5;6;7;8;9")
    curves = [trace for trace in latency_distribution(grid).data if trace.showlegend is not False]
    assert len(curves) == 1


def test_a_kind_without_figures_has_none():
    from tests.results.samples import school

    assert figures_for(school()) == []


@pytest.mark.parametrize(("count", "limit"), [(0, 5), (1, 5), (5, 5), (6, 5), (10_001, 100)])
def test_thinning_covers_everything(count: int, limit: int):
    indexes = evenly(count, limit)
    assert len(indexes) == min(count, limit)
    assert indexes == sorted(set(indexes))
    pieces = buckets(count, limit)
    assert [i for piece in pieces for i in piece] == list(range(count))
    assert len(pieces) == min(count, limit)
    if count:
        assert (indexes[0], indexes[-1]) == (0, count - 1)


def test_bytes_are_scaled_by_powers_of_1024():
    assert scaled_bytes([3 << 30, None]) == (2.0**30, "GiB")
    assert scaled_bytes([5 << 20]) == (2.0**20, "MiB")
    assert scaled_bytes([10]) == (1024.0, "KiB")
    assert scaled_bytes([]) == (1024.0, "KiB")


def test_serving_figures_say_what_the_result_says():
    result = serving()
    timeline, ttft, gaps, throughput = figures_for(result)
    table = numbers_of(timeline)
    assert table is not None
    assert [row[0] for row in table.rows] == ["1", "2", "3", "4", "5"]
    assert "serving" in timeline.layout.title.subtitle.text
    curve = ttft.data[0]
    assert list(curve.x) == sorted(result.series("request_ttft_ms"))
    assert list(curve.y) == [0.0, 25.0, 50.0, 75.0, 100.0]
    assert gaps.data[0].x[0] == 7.0
    assert result.output_tokens_per_second in throughput.data[0].x
    assert len({trace.xaxis for trace in throughput.data}) == 3  # goodput too, as a service level is stated
    with pytest.raises(SpecError, match="Did you mean 'request_ttft_ms'"):
        serving_latency(result, metric="request_tftt_ms")
    empty = serving(requests=1)
    assert "No request" in caption_of(serving_timeline(empty))
    assert "No request" in caption_of(serving_latency(empty))
