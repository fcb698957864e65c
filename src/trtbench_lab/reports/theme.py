"""The look of every figure: colours that colour-blind people tell apart, on light, dark or unknown backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import SpecError, did_you_mean, require

if TYPE_CHECKING:
    import plotly.graph_objects as go

PURPOSE = "draw figures"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"

# Okabe and Ito's palette without its yellow (too pale on white) and black (gone on dark).
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
REFERENCE = "#868D98"  # Hugging Face is what others are measured against: grey beside their colours
BETTER, WORSE = "#009E73", "#D55E00"
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Theme:
    """Colours of one background."""

    text: str
    muted: str
    grid: str
    axis: str


THEMES = {
    "light": Theme(text="#1F2430", muted="#5B6472", grid="#E8EAEE", axis="#B9BFC9"),
    "dark": Theme(text="#E8EAEE", muted="#A3ABB8", grid="#2B313B", axis="#525B69"),
    # For notebooks, whose background is not known: greys with a contrast of about 4:1 on white and on near-black.
    "auto": Theme(text="#7B828E", muted="#7B828E", grid="rgba(128,134,144,.22)", axis="rgba(128,134,144,.6)"),
}


def plotly_graph_objects() -> Any:
    """Return ``plotly.graph_objects``, or say which extra brings it."""
    return require("plotly.graph_objects", extra="lab", purpose=PURPOSE)


def theme_named(name: str) -> Theme:
    """Return a theme by name."""
    if name not in THEMES:
        raise SpecError(f"There is no theme {name!r}.", where="theme", remedy=did_you_mean(name, list(THEMES)))
    return THEMES[name]


def template(name: str = "auto") -> go.layout.Template:
    """Return the Plotly template of a theme; backgrounds are transparent, so the page shows through."""
    theme, go = theme_named(name), plotly_graph_objects()
    axis = {
        "gridcolor": theme.grid,
        "linecolor": theme.axis,
        "zerolinecolor": theme.axis,
        "tickcolor": theme.axis,
        "zeroline": False,
        "ticks": "",
        "ticklabelstandoff": 6,
        "automargin": True,
        "title": {"standoff": 10, "font": {"size": 12, "color": theme.muted}},
        "tickfont": {"size": 12, "color": theme.muted},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": theme.text},
            "title": {
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 10},
                "font": {"size": 15, "weight": 600, "color": theme.text},
                "subtitle": {"font": {"size": 12, "color": theme.muted}},
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(OKABE_ITO),
            "xaxis": axis,
            "yaxis": axis,
            "legend": {
                "orientation": "h",
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 0,
                "yref": "container",
                "yanchor": "bottom",
                "font": {"size": 12, "color": theme.text},
                "bgcolor": "rgba(0,0,0,0)",
            },
            "margin": {"l": 64, "r": 24, "t": 72, "b": 48},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": theme.axis, "activecolor": theme.muted},
            "hoverlabel": {"font": {"family": FONT, "size": 12}},
            "bargap": 0.28,
            "annotationdefaults": {"font": {"size": 12, "color": theme.muted}},
            "shapedefaults": {"line": {"color": theme.axis}},
        }
    )


def colours(backends: Sequence[str]) -> list[str]:
    """Return one colour a series: grey for Hugging Face, the palette in order for the others."""
    chosen, used = [], 0
    for backend in backends:
        if backend == "huggingface":
            chosen.append(REFERENCE)
        else:
            chosen.append(OKABE_ITO[used % len(OKABE_ITO)])
            used += 1
    return chosen


def translucent(colour: str, alpha: float) -> str:
    """Return ``rgba(…)`` of a ``#RRGGBB`` colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"
