"""Quality over cost: which quantization no other beats is counted by hand."""

from __future__ import annotations

import pytest
from tests.reports.test_dashboard import quality

from trtbench_lab.errors import ResultsError
from trtbench_lab.reports.figures import quality_pareto

MIB = 1 << 20


def reports() -> list:
    """int8 is better and larger than int4; "both worse" is larger and worse than int8."""
    return [
        quality("int8", weights=200 * MIB, tpot_ms=5.0, perplexity=12.1),
        quality("both worse", weights=250 * MIB, tpot_ms=6.0, perplexity=12.5),
        quality("int4", weights=100 * MIB, tpot_ms=4.0, perplexity=13.0),
    ]


def dots(figure) -> dict:
    return {trace.name.partition(" ")[0]: trace for trace in figure.data if trace.mode == "markers+text"}


@pytest.mark.parametrize("across", ["size", "speed"])
def test_the_front_joins_those_that_no_other_beats(across: str) -> None:
    figure = quality_pareto(reports(), quality="perplexity", across=across)
    found = dots(figure)
    assert {name: trace.marker.symbol for name, trace in found.items()} == {
        "int8": "circle", "both": "circle-open", "int4": "circle",
    }  # fmt: skip
    (line,) = [trace for trace in figure.data if trace.mode == "lines"]
    assert list(line.y) == [13.0, 12.1]  # from the smallest, or quickest
    wanted = {"size": {"int8": 200, "int4": 100}, "speed": {"int8": 5.0, "int4": 4.0}}[across]
    assert {name: found[name].x[0] for name in wanted} == pytest.approx(wanted)


def test_bars_are_the_intervals() -> None:
    bar = dots(quality_pareto(reports()))["int4"].error_y
    assert (bar.array[0], bar.arrayminus[0]) == (pytest.approx(0.3), pytest.approx(0.2))


def test_what_cannot_be_drawn_says_why() -> None:
    with pytest.raises(ResultsError, match="no axis 'bytes'"):
        quality_pareto(reports(), across="bytes")
    other = quality("other", weights=MIB, tpot_ms=1.0, perplexity=12.0, measures=("kl",))
    with pytest.raises(ResultsError, match="Not every report has the measure 'perplexity'"):
        quality_pareto([*reports(), other], quality="perplexity")
    assert not dots(quality_pareto([]))
