"""What a comparison layer by layer leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import EvaluationError
from ..results import Result, Table


@dataclass(frozen=True, kw_only=True)
class LayerDifference:
    """How far one layer's output is from the reference's, over all compared tokens.

    Attributes
    ----------
    name
        ``"embedding"``, ``"transformer.layers.0"`` …, ``"transformer.layers.0.mlp"`` …, ``"logits"``.
    layer
        Number of the decoder layer; None for embedding and logits.
    part
        What of the layer: ``"output"`` (of the whole layer), ``"attention"``, ``"mlp"``; or the name itself.
    relative_error
        ``‖a − b‖ / ‖b‖`` over all tokens and features.
    max_abs, mean_abs
        Largest and mean |a − b|.
    reference_largest
        Largest |b|, to judge them by.
    worst_token
        Index, over all compared tokens in their order, of the one with the largest ``‖a − b‖ / ‖b‖``.
    """

    name: str
    layer: int | None
    part: str
    relative_error: float
    max_abs: float
    mean_abs: float
    reference_largest: float
    worst_token: int


@dataclass(frozen=True, kw_only=True)
class LayersResult(Result):
    """Hidden states of a model against those of a reference; `backend` is the model's.

    Attributes
    ----------
    layers
        In the order of the network. After a bisection only those that were looked at.
    reference
        Label and backend of the other side.
    tolerance
        Largest relative error that counts as equal.
    first_beyond
        Name of the first entry beyond the tolerance; None when all are within.
    bisected
        Whether layers were searched by halving rather than all compared.
    passes
        Times that each side ran over the tokens.
    num_tokens
        Compared tokens.
    peak_capture_bytes
        Most bytes of captured hidden states held at a time.
    deterministic
        Whether a second pass of the model gave the same bits; None where that was not tried.
    notes
        Sentences a person should read.
    """

    kind: ClassVar[str] = "layers"

    layers: list[LayerDifference]
    reference: str
    tolerance: float
    first_beyond: str | None
    bisected: bool = False
    passes: int = 1
    num_tokens: int = 0
    peak_capture_bytes: int = 0
    deterministic: bool | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every entry is within the tolerance."""
        return self.first_beyond is None

    @property
    def exit_code(self) -> int:
        """0 where all entries are within the tolerance, 1 otherwise."""
        return 0 if self.passed else 1

    @property
    def verdict(self) -> str:
        """The outcome as a sentence."""
        worst = max(self.layers, key=lambda entry: entry.relative_error)
        if self.first_beyond is None:
            return (
                f"PASSED: all {len(self.layers)} compared outputs are within {self.tolerance:g} of the reference; the "
                f"largest relative error is {worst.relative_error:.3g} ({worst.name})."
            )
        found = next(entry for entry in self.layers if entry.name == self.first_beyond)
        return (
            f"FAILED: {found.name} is the first output beyond {self.tolerance:g}: its relative error is "
            f"{found.relative_error:.3g}."
        )

    def check(self) -> None:
        """Raise `EvaluationError` with the verdict unless every entry is within the tolerance."""
        if not self.passed:
            raise EvaluationError(self.verdict, where=self.first_beyond, remedy="Look at that layer's weights.")

    @property
    def metrics(self) -> dict[str, int | float | None]:
        return {
            "compared_outputs": len(self.layers),
            "largest_relative_error": max((entry.relative_error for entry in self.layers), default=None),
            "num_tokens": self.num_tokens,
            "passes": self.passes,
            "peak_capture_bytes": self.peak_capture_bytes,
        }

    def tables(self) -> list[Table]:
        """The verdict, then one row an entry."""
        rows = [
            (entry.name, entry.relative_error, entry.max_abs, entry.mean_abs, entry.reference_largest)
            for entry in self.layers
        ]
        how = "searched by halving" if self.bisected else "all compared"
        note = (
            f"Against {self.reference}, {self.num_tokens:,} tokens, {self.passes} pass(es) of each side, {how}; "
            f"at most {self.peak_capture_bytes:,} bytes of hidden states at a time."
        )
        if self.deterministic is not None:
            note += f" A second pass gave {'the same bits' if self.deterministic else 'other bits'}."
        columns = ("output", "‖a − b‖ / ‖b‖", "max |a − b|", "mean |a − b|", "max |b|")
        return [
            Table(columns=("verdict",), rows=[(self.verdict,)]),
            Table(columns=columns, rows=rows, note=note),
            *([Table(columns=("notes",), rows=[(text,) for text in self.notes])] if self.notes else []),
        ]
