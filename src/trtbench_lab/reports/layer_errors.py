"""Heat map of what each layer lost: of a quantization, or of hidden states against a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ResultsError
from ..evaluation.layers_result import LayersResult
from ..evaluation.quality_result import QualityResult
from ..network.node_names import layer_number
from ..results import Result, Table
from ..results.render import format_value
from ..results.steps import ConvertStep
from .figure import axis, described, empty_figure, escaped, names_of, new_figure
from .theme import plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ROW_PX = 24
_OUTSIDE = "outside the layers"
_TITLES = {
    "output_relative_error": "Relative error of the outputs, ‖y′ − y‖ / ‖y‖",
    "relative_rms_error": "Relative error of the weights, ‖w′ − w‖ / ‖w‖",
    "relative_error": "Relative error of hidden states, ‖a − b‖ / ‖b‖",
    "max_abs": "Largest difference of hidden states",
    "mean_abs": "Mean difference of hidden states",
    "max_abs_error": "Largest error of a weight",
    "clipped_share": "Share beyond the range",
    "outlier_channels": "Outlier channels",
    "weight_largest": "Largest weight",
    "inputs_largest": "Largest input",
    "bytes_after": "Bytes after",
}
# Magma without its ends, which vanish on dark and on light backgrounds; steady in lightness, so it reads in grey too.
_SCALE = ("#3B0F70", "#8C2981", "#DE4968", "#FE9F6D", "#FCFDBF")


def layer_errors(result: Result, *, value: str | None = None, theme: str = "auto") -> go.Figure:
    """A cell for each part of each decoder layer, coloured by how far it is from the original.

    Parameters
    ----------
    result
        A quantization (`QuantizeStep`, or a `QualityResult` with its layers), or hidden states against a reference
        (`LayersResult`).
    value
        What is shown, see `layer_error_values`; None takes the error of the outputs where it is known.

    Raises
    ------
    ResultsError
        For another kind of result, or a value that its layers do not have.
    """
    title = "What each layer lost"
    rows = _rows(result)
    if not rows:
        return empty_figure(title, [result], "The result has no layers: nothing was quantized.", theme=theme)
    known = layer_error_values(result)
    value = value or known[0]
    if value not in known:
        raise ResultsError(
            f"The layers have no value {value!r}.", where=result.id, remedy=f"Choose one of {', '.join(known)}."
        )
    cells = {(layer, part): row[value] for layer, part, row in rows if row.get(value) is not None}
    layers = sorted({layer for layer, _, _ in rows if layer is not None})
    lines: list[int | None] = [*layers, *([None] if any(layer is None for layer, _, _ in rows) else [])]
    parts = list(dict.fromkeys(part for _, part, _ in rows))
    grid = [[cells.get((line, part)) for part in parts] for line in lines]
    label = _TITLES.get(value, value)
    figure = new_figure(title, f"{label} · {names_of([result])}", theme=theme, height=190 + _ROW_PX * len(lines))
    go = plotly_graph_objects()
    names = [_OUTSIDE if line is None else f"layer {line}" for line in lines]
    logarithmic = _spread(cells.values()) > 30
    shown = [[_height(cell, logarithmic) for cell in row] for row in grid]
    figure.add_trace(
        go.Heatmap(
            x=[escaped(part) for part in parts],
            y=names,
            z=shown,
            customdata=[[format_value(cell) for cell in row] for row in grid],
            text=[["" if cell is None else f"{cell:.2g}" for cell in row] for row in grid],
            texttemplate="%{text}" if len(lines) * len(parts) <= 400 else None,
            colorscale=[[i / (len(_SCALE) - 1), colour] for i, colour in enumerate(_SCALE)],
            colorbar={
                "title": {"text": "log₁₀" if logarithmic else "", "font": {"size": 12}},
                "tickfont": {"size": 11},
                "thickness": 12,
            },
            xgap=2,
            ygap=2,
            hoverongaps=False,
            hovertemplate="%{y}, %{x}: %{customdata}<extra></extra>",
        )
    )
    figure.update_layout(
        xaxis=axis("part", side="top", showgrid=False),
        yaxis={"autorange": "reversed", "showgrid": False, "title": None},
    )
    caption = f"{label}; darker is smaller. "
    caption += "Colours follow the logarithm. " if logarithmic else ""
    if isinstance(result, LayersResult):
        caption += f"Against {result.reference}. {result.verdict}"
    table = Table(("layer", *parts), [(name, *row) for name, row in zip(names, grid, strict=True)])
    return described(figure, caption.strip(), table, min_width_px=120 + 90 * len(parts))


def layer_error_values(result: Result) -> tuple[str, ...]:
    """Return the values that `layer_errors` can show of a result, the one it shows first in front."""
    rows = _rows(result)
    return tuple(name for name in _TITLES if any(row.get(name) is not None for _, _, row in rows))


def _rows(result: Result) -> list[tuple[int | None, str, Mapping[str, Any]]]:
    """Return (layer, part, values) of each entry."""
    if isinstance(result, LayersResult):
        return [(entry.layer, entry.part, vars(entry)) for entry in result.layers]
    if isinstance(result, ConvertStep | QualityResult):
        return [(layer_number(row["module"]), _part(row["module"]), row) for row in result.layers]
    raise ResultsError(
        f"A result of kind {result.kind!r} has no layers to compare.",
        where=result.id,
        remedy="Give the result of %trt_quantize, or of %trt_compare --per_layer.",
    )


def _part(module: str) -> str:
    number = layer_number(module)
    return module if number is None else module.partition(f"layers.{number}.")[2]


def _spread(values: Sequence[float] | Any) -> float:
    """Largest over smallest positive value."""
    positive = [float(value) for value in values if value and value > 0]
    return max(positive) / min(positive) if positive else 1.0


def _height(cell: float | None, logarithmic: bool) -> float | None:
    if cell is None or not logarithmic:
        return cell
    return math.log10(cell) if cell > 0 else None
