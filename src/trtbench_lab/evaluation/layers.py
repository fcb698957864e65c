"""Compare hidden states layer by layer in bounded memory, or search the first layer beyond a tolerance by halving."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import EvaluationError
from ..network.node_names import layer_number
from ..progress import ProgressSink, phase
from ..runtime import HFRunner, ModelRunner
from .layers_result import LayerDifference, LayersResult
from .repeat import repeats_bit_for_bit
from .taps import Tap, tap_of

CAPTURE_BYTES = 256 << 20
"""Most hidden states held at a time, of both sides."""
TOLERANCE = 1e-3


def compare_layers(
    side: ModelRunner | HFRunner,
    reference: ModelRunner | HFRunner,
    sequences: Sequence[Sequence[int]],
    *,
    tolerance: float = TOLERANCE,
    bisect: bool = False,
    capture_bytes: int = CAPTURE_BYTES,
    check_repeats: bool = True,
    model: str | None = None,
    name: str | None = None,
    progress: ProgressSink | None = None,
) -> LayersResult:
    """Compare every output that both sides give, or halve the layers until the first beyond `tolerance` is found.

    Layers are captured in groups of at most `capture_bytes`, a pass of both sides over the tokens for each; only sums
    are kept. Halving captures one layer a pass: ⌈log₂ L⌉ + 2 passes. It finds an output beyond the tolerance whose
    predecessor is within, which is the first one where errors grow with depth.

    Parameters
    ----------
    side, reference
        What is judged, and by what; each sees the same tokens.
    sequences
        Token ids; each is run on its own.
    tolerance
        Largest ``‖a − b‖ / ‖b‖`` over all tokens that counts as equal.
    bisect
        Search rather than compare all.
    capture_bytes
        Most bytes of hidden states at a time.
    check_repeats
        Also run `side` twice over the first sequence and compare the bits.
    model, name, progress
        Labels of the result; told after every pass.

    Raises
    ------
    EvaluationError
        When the sides have different depths, nothing in common, or no tokens are given.
    """
    if not sequences or not all(len(ids) for ids in sequences):
        raise EvaluationError("There are no tokens to compare over.", where="sequences", remedy="Give a prompt.")
    if tolerance <= 0 or capture_bytes <= 0:
        raise EvaluationError("Tolerance and memory must be above 0.", where="tolerance", remedy="Give 1e-3, say.")
    ours, theirs = tap_of(side), tap_of(reference)
    if ours.num_layers != theirs.num_layers:
        raise EvaluationError(
            f"The sides have {ours.num_layers} and {theirs.num_layers} layers.",
            where=f"{ours.label}, {theirs.label}",
            remedy="Compare two forms of one model.",
        )
    names = [output for output in ours.names if output in theirs.names]
    run = _Comparison(ours, theirs, sequences, capture_bytes)
    if bisect:
        layers = [output for output in names if output.count(".") in (0, 2)]  # embedding, whole layers, logits
        found = _halved(run, layers, tolerance, progress)
    else:
        found = run.compared(names, progress)
    first = next((entry.name for entry in found if not entry.relative_error <= tolerance), None)
    return LayersResult(
        backend=side.backend,
        model=model or side.name,
        name=name,
        spec={"tolerance": tolerance, "bisect": bisect, "sequences": len(sequences)},
        layers=found,
        reference=theirs.label,
        tolerance=tolerance,
        first_beyond=first,
        bisected=bisect,
        passes=run.passes,
        num_tokens=sum(len(ids) for ids in sequences),
        peak_capture_bytes=run.peak_bytes,
        deterministic=repeats_bit_for_bit(side, sequences[0]) if check_repeats else None,
    )


def _halved(
    run: _Comparison, names: Sequence[str], tolerance: float, progress: ProgressSink | None
) -> list[LayerDifference]:
    """Compare the last output, then halve towards the first beyond the tolerance; return those looked at, in order."""
    seen = {len(names) - 1: run.compared(names[-1:], progress)[0]}
    low, high = -1, len(names) - 1  # low is within (or before all), high is beyond
    if seen[high].relative_error <= tolerance:
        return [seen[high]]
    while high - low > 1:
        middle = (low + high) // 2
        seen[middle] = run.compared(names[middle : middle + 1], progress)[0]
        low, high = (middle, high) if seen[middle].relative_error <= tolerance else (low, middle)
    return [seen[place] for place in sorted(seen)]


class _Comparison:
    """Passes of both sides over the tokens."""

    def __init__(self, ours: Tap, theirs: Tap, sequences: Sequence[Sequence[int]], capture_bytes: int):
        self._ours, self._theirs, self._sequences = ours, theirs, sequences
        self._limit = capture_bytes
        self._width = 0
        self.passes = self.peak_bytes = 0

    def compared(self, names: Sequence[str], progress: ProgressSink | None) -> list[LayerDifference]:
        """Compare the outputs `names`, as many at a time as the memory allows."""
        sums = {name: _Sums() for name in names}
        left = list(names)
        with phase("compare layers", progress, total=len(names), unit="output") as current:
            while left:
                group, left = self._group(left)
                for ids in self._sequences:
                    a, b = self._ours.read(ids, group), self._theirs.read(ids, group)
                    for name in group:
                        sums[name].add(a[name], b[name], name)
                    held = sum(tensor.nbytes for side in (a, b) for tensor in side.values())
                    self.peak_bytes = max(self.peak_bytes, held)
                    self._width = max([self._width, *(tensor.shape[-1] for tensor in a.values())])
                self.passes += 1
                current.advance(len(group))
        return [sums[name].difference(name) for name in names]

    def _group(self, names: list[str]) -> tuple[list[str], list[str]]:
        """Part `names` into those of the next pass and the others; the first pass takes one, to learn the width."""
        longest = max(len(ids) for ids in self._sequences)
        each = 2 * 4 * longest * self._width
        count = max(1, self._limit // each) if each else 1
        return names[:count], names[count:]


class _Sums:
    """Sums over tokens of one output's difference."""

    def __init__(self) -> None:
        self.squared = self.reference_squared = self.absolute = self.largest = self.reference_largest = 0.0
        self.count = self.tokens = self.worst_token = 0
        self._worst = -1.0

    def add(self, a: torch.Tensor, b: torch.Tensor, name: str) -> None:
        """Take in (tokens, width) of both sides."""
        if a.shape != b.shape:
            raise EvaluationError(
                f"The sides give {tuple(a.shape)} and {tuple(b.shape)}.",
                where=name,
                remedy="Compare two forms of one model.",
            )
        difference = a.double() - b.double()
        by_token = difference.square().sum(-1)
        reference = b.double().square().sum(-1)
        self.squared += float(by_token.sum())
        self.reference_squared += float(reference.sum())
        self.absolute += float(difference.abs().sum())
        self.largest = max(self.largest, float(difference.abs().max()))
        self.reference_largest = max(self.reference_largest, float(b.abs().max()))
        self.count += a.numel()
        share = (by_token / reference.clamp_min(1e-30)).sqrt()
        if float(share.max()) > self._worst:
            self._worst, self.worst_token = float(share.max()), self.tokens + int(share.argmax())
        self.tokens += len(a)

    def difference(self, name: str) -> LayerDifference:
        """Return what was summed up."""
        number = layer_number(name)
        part = name if number is None else name.partition(f"layers.{number}")[2].lstrip(".") or "output"
        scale = max(self.reference_squared, 1e-300)
        return LayerDifference(
            name=name,
            layer=number,
            part=part,
            relative_error=(self.squared / scale) ** 0.5,
            max_abs=self.largest,
            mean_abs=self.absolute / max(1, self.count),
            reference_largest=self.reference_largest,
            worst_token=self.worst_token,
        )
