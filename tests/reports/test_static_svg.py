"""Still pictures: well-formed, with the figure's own values in place, and described for screen readers."""

from __future__ import annotations

import base64
import re
from xml.etree import ElementTree

import pytest
from tests.engine.conftest import tiny_config
from tests.reports.samples import bench
from tests.reports.test_figures import ALL

from trtbench_lab.checkpoint.plan import shard_plan
from trtbench_lab.reports.figures import memory, shard_balance, shard_treemap, throughput_latency
from trtbench_lab.reports.static_svg import figure_image, figure_svg
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
