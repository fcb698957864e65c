"""Streams beside each other: who had made how many tokens when, and the gaps between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import SpecError
from ..evaluation.streams_result import MODES, Streamed, StreamsResult
from ..results import METRICS, Table
from .figure import axis, described, empty_figure, escaped, evenly, new_figure
from .theme import colours, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go


def stream_race(result: StreamsResult, *, prompt: int = 0, theme: str = "auto") -> go.Figure:
    """Tokens over time, a staircase a side, from each side's own call; a cross marks the first that differs."""
    title = "Tokens over time"
    drawn = _drawn(result, prompt)
    if not drawn:
        return empty_figure(title, [result], "No side gave a token.", theme=theme)
    figure = new_figure(title, MODES[result.mode], theme=theme)
    go, rows = plotly_graph_objects(), []
    for label, stream, colour in drawn:
        places = evenly(len(stream.token_ns))
        figure.add_trace(
            go.Scatter(
                x=[0.0, *(stream.token_ns[i] / 1e6 for i in places)],
                y=[0, *(i + 1 for i in places)],
                mode="lines",
                name=label,
                legendgroup=label,
                line={"color": colour, "width": 2, "shape": "hv"},
                hovertemplate="%{y} tokens at %{x:.1f} ms<extra>" + label + "</extra>",
            )
        )
        where = stream.divergence
        if where is not None and where.position < len(stream.token_ns):
            figure.add_trace(
                go.Scatter(
                    x=[stream.token_ns[where.position] / 1e6],
                    y=[where.position + 1],
                    mode="markers",
                    showlegend=False,
                    legendgroup=label,
                    marker={"symbol": "x", "size": 11, "color": colour},
                    hovertemplate="first differing token<extra>" + label + "</extra>",
                )
            )
        rows.append((label, len(stream.tokens), stream.ttft_ms, stream.tpot_ms, stream.latency_ms))
    figure.update_layout(
        showlegend=True,
        xaxis=axis("time since the side was called (ms)", rangemode="tozero"),
        yaxis=axis("new tokens", rangemode="tozero"),
        hovermode="closest",
    )
    caption = "Steeper is faster; the first step is the time to first token. A cross marks the first differing token."
    columns = ("side", "tokens", "TTFT (ms)", "TPOT (ms)", "latency (ms)")
    return described(figure, caption, Table(columns, rows))


def stream_gaps(result: StreamsResult, *, prompt: int = 0, theme: str = "auto") -> go.Figure:
    """The gap before each token, a line a side."""
    title = "Inter-token latency along the output"
    drawn = [item for item in _drawn(result, prompt) if item[1].gaps_ms]
    if not drawn:
        return empty_figure(title, [result], "No side gave two tokens, so there is no gap to show.", theme=theme)
    figure = new_figure(title, MODES[result.mode], theme=theme)
    go, rows = plotly_graph_objects(), []
    for label, stream, colour in drawn:
        gaps = stream.gaps_ms
        places = evenly(len(gaps))
        figure.add_trace(
            go.Scatter(
                x=[i + 2 for i in places],  # gap 0 lies before the second token
                y=[gaps[i] for i in places],
                mode="lines+markers" if len(gaps) <= 60 else "lines",
                name=label,
                line={"color": colour, "width": 2},
                marker={"size": 5},
                hovertemplate="before token %{x}: %{y:.2f} ms<extra>" + label + "</extra>",
            )
        )
        rows.append((label, len(gaps), min(gaps), sum(gaps) / len(gaps), max(gaps)))
    figure.update_layout(
        showlegend=True,
        xaxis=axis("position of the token in the output"),
        yaxis=axis(METRICS["itl_ms"].label, rangemode="tozero"),
        hovermode="x unified",
    )
    caption = "One run; a token counts once it is in the reader's hands. Use %trt_bench for distributions over runs."
    return described(figure, caption, Table(("side", "gaps", "least (ms)", "mean (ms)", "most (ms)"), rows))


def _drawn(result: StreamsResult, prompt: int) -> list[tuple[str, Streamed, str]]:
    """Return label, stream and colour of each side that gave a token to a prompt."""
    if not 0 <= prompt < max(len(result.prompts), 1):
        raise SpecError(
            f"There is no prompt {prompt}.", where="prompt", remedy=f"Choose 0 to {len(result.prompts) - 1}."
        )
    if not result.prompts:
        return []
    streams = result.prompts[prompt].streams
    fills = colours([side.backend for side in result.sides])
    return [
        (escaped(f"{side.label} [{side.backend}]"), stream, fill)
        for side, stream, fill in zip(result.sides, streams, fills, strict=True)
        if stream.token_ns
    ]
