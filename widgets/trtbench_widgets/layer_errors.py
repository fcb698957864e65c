"""`LayerErrors`: what each layer lost, as a heat map, of stored comparisons and quantizations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trtbench_lab.errors import ResultsError
from trtbench_lab.reports.layer_errors import layer_error_values, layer_errors
from trtbench_lab.results import Result, ResultsDatabase
from trtbench_lab.results.comparison import label_of

from .board import Board

KINDS = ("layers", "quantize", "quality")
_WORDS = {
    "output_relative_error": "outputs, relative error",
    "relative_rms_error": "weights, relative error",
    "relative_error": "hidden states, relative error",
    "max_abs": "hidden states, largest difference",
    "mean_abs": "hidden states, mean difference",
    "max_abs_error": "weights, largest error",
    "clipped_share": "share beyond the range",
    "outlier_channels": "outlier channels",
    "weight_largest": "largest weight",
    "inputs_largest": "largest input",
    "bytes_after": "bytes after",
}


class LayerErrors(Board):
    """A heat map of per-layer difference between two engines, an engine and Hugging Face, or before and after.

    Parameters
    ----------
    results
        What was compared: results of kind ``layers``, ``quantize`` or ``quality``, one or several to switch between;
        None: those of the history.
    database
        Path of the history; None for the person's own.
    theme
        ``"auto"``, ``"light"`` or ``"dark"``.

    Raises
    ------
    ResultsError
        For a result without layers, or when nothing in the history has any.
    """

    def __init__(
        self,
        results: Result | Iterable[Result] | None = None,
        *,
        database: Path | str | None = None,
        theme: str = "auto",
    ) -> None:
        found = _listed(results, database)
        self._results = {result.id: result for result in found}
        first = found[0]
        super().__init__(heading="Layer errors", theme=theme, values={"result": first.id, "value": ""})
        self.refresh()

    @property
    def result(self) -> Result:
        """The result that is shown."""
        return self._results[self.values["result"]]

    def redraw(self) -> None:
        result = self.result
        known = layer_error_values(result)
        value = self.values["value"] if self.values["value"] in known else None
        self.show([("layers", "", layer_errors(result, value=value))])
        self.summary = result.title
        options = [["", _WORDS.get(known[0], known[0])], *([name, _WORDS.get(name, name)] for name in known[1:])]
        controls: list[dict[str, Any]] = [{"name": "value", "label": "Shown", "kind": "select", "options": options}]
        if len(self._results) > 1:
            names = [[id, f"{label_of(one)}, {one.kind}"] for id, one in self._results.items()]
            controls.insert(0, {"name": "result", "label": "Comparison", "kind": "select", "options": names})
        self.controls = controls


def _listed(results: Result | Iterable[Result] | None, database: Path | str | None) -> list[Result]:
    if results is not None:
        given = [results] if isinstance(results, Result) else list(results)
        found = [result for result in given if layer_error_values(result)]  # raises for a kind without layers
    else:
        store = ResultsDatabase(database)
        loaded = [store.get(row.id) for kind in KINDS for row in store.query(kind=kind, limit=20)]
        found = [result for result in loaded if getattr(result, "layers", None)]
    if not found:
        raise ResultsError(
            "No stored run has layers to compare.",
            where="LayerErrors",
            remedy="Compare with %trt_compare --per_layer, or quantize with a report, and open this again.",
        )
    return found
