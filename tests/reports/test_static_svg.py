"""Still pictures: well-formed, with the figure's own values in place, and described for screen readers."""

from __future__ import annotations

import base64
import html
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from tests.engine.conftest import tiny_config
from tests.reports.samples import bench
from tests.reports.test_figures import ALL

from trtbench_lab.checkpoint.plan import shard_plan
from trtbench_lab.evaluation.layers_result import LayerDifference, LayersResult
from trtbench_lab.reports.figure import new_figure
from trtbench_lab.reports.figures import comparison_view, memory, shard_balance, shard_treemap, throughput_latency
from trtbench_lab.reports.layer_errors import layer_errors
from trtbench_lab.reports.static_svg import figure_image, figure_svg
from trtbench_lab.results import compare_results
from trtbench_lab.specs import Mapping

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
def test_every_figure_has_a_still_picture_with_title_and_description(make):
    root = ElementTree.fromstring(figure_svg(make("auto")))
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title")
    assert len(root.findtext(f"{SVG}desc") or "") > 20
    drawn = [tag for tag in root.iter() if tag.tag.removeprefix(SVG) in ("polyline", "circle", "rect", "polygon")]
    assert drawn


def test_bars_are_as_long_as_their_values():
    figure = memory([bench(weights_bytes=100 << 20), bench("huggingface", weights_bytes=200 << 20)])
    root = ElementTree.fromstring(figure_svg(figure))
    widths = [
        float(rect.get("width")) for rect in root.iter(f"{SVG}rect") if rect.get("fill") in ("#0072B2", "#868D98")
    ]
    assert widths[2] == pytest.approx(2 * widths[0], abs=0.2)  # weights of the second and of the first


def test_dots_keep_their_order_on_both_axes():
    figure = throughput_latency(bench(batch_size="1;2;4"))
    root = ElementTree.fromstring(figure_svg(figure))
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter(f"{SVG}circle")]
    (trace,) = figure.data
    assert [sorted(range(3), key=lambda i: x[i]) for x in (trace.x, [a for a, _ in dots])] == [
        sorted(range(3), key=lambda i: trace.x[i])
    ] * 2
    assert [b for _, b in dots] == sorted((b for _, b in dots), reverse=True)  # more tokens a second stand higher


def test_the_shard_plan_is_drawn_too():
    plan = shard_plan(tiny_config(mapping=Mapping(tp_size=2)))
    for make in (shard_treemap, shard_balance):
        root = ElementTree.fromstring(figure_svg(make(plan)))
        assert "rank 1" in {text.text for text in root.iter(f"{SVG}text")}


def test_stacked_bars_stay_inside_the_picture():
    root = ElementTree.fromstring(figure_svg(shard_balance(shard_plan(tiny_config(mapping=Mapping(tp_size=2))))))
    width = float(root.get("viewBox").split()[2])
    assert all(float(rect.get("x")) + float(rect.get("width")) < width for rect in root.iter(f"{SVG}rect"))


def test_the_image_holds_its_data_and_its_words():
    image = figure_image(ALL["side_by_side"]("auto"))
    data = re.search(r'base64,([^"]+)"', image)
    assert data
    assert base64.b64decode(data[1]).startswith(b"<svg")
    assert 'alt="Side by side.' in image


def names_at_the_left(root):
    return [text for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "end"]


def test_no_name_at_the_left_is_cut_or_out_of_sight():
    rows = comparison_view(compare_results([bench("huggingface"), bench()]))
    told = {html.unescape(name) for trace in rows.data for name in trace.y}
    for figure, names in ((rows, told), (layer_errors(odd_layers()), {"layer 0", "layer 1", "outside the layers"})):
        texts = names_at_the_left(ElementTree.fromstring(figure_svg(figure)))
        assert {text.text for text in texts} == names
        # A letter of 12 px takes less than 6.6 px on average, as the picture counts.
        assert all(float(text.get("x")) - 6.6 * len(text.text) > 0 for text in texts)


def odd_layers():
    """Errors of two layers and of the norm behind them."""
    entries = [
        LayerDifference(
            name=f"{part} {layer}", layer=layer, part=part, relative_error=error, max_abs=error, mean_abs=error,
            reference_largest=4.0, worst_token=0,
        )
        for layer, part, error in ((0, "attention", 1e-4), (1, "attention", 1e-2), (None, "final norm", 3e-2))
    ]  # fmt: skip
    return LayersResult(
        backend="torch", model="gpt2", layers=entries, reference="gpt2 [huggingface]", tolerance=1.0, first_beyond=None,
        bisected=False, passes=1, num_tokens=4, peak_capture_bytes=1,
    )  # fmt: skip


def test_cells_hold_their_numbers_in_an_ink_that_stands_out():
    root = ElementTree.fromstring(figure_svg(layer_errors(odd_layers())))
    cells = {text.text: text.get("fill") for text in root.iter(f"{SVG}text") if text.get("fill")}
    assert cells == {"0.0001": "#fff", "0.01": "#111", "0.03": "#111"}  # the scale goes from dark to light


def test_colours_that_stand_for_words_are_named_and_columns_of_many_layers_can_be_read():
    figure = new_figure("Types of the layers", "a model")
    figure.add_trace({"type": "scatter", "x": [None], "y": [None], "name": "int8", "marker": {"color": "#009E73"}})
    columns = [str(layer) for layer in range(80)]
    figure.add_trace({"type": "heatmap", "x": columns, "y": ["mlp"], "z": [[0.0] * 80], "colorscale": [[0, "#009E73"]]})
    root = ElementTree.fromstring(figure_svg(figure))
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert "int8" in words
    shown = [int(word) for word in words if word.isdigit()]
    steps = {b - a for a, b in pairwise(shown)}
    assert len(shown) >= 10
    assert len(steps) == 1  # every so many, none cut to its first figure
