"""What looking into an engine gives: layers, their tables, the patterns that are slow; and two engines aligned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..network.node_names import module_group
from ..results import Result, Table
from ..results.base import Number
from .kinds import KINDS
from .layer import Layer, TensorFacts
from .tensors import MOST_SAMPLES, TensorSummary, differences

_TOP = 12
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class SlowPattern:
    """Something in an engine that costs time and could be otherwise.

    Attributes
    ----------
    rule
        Short name.
    where
        The part of the model, layers' numbers left out.
    layers
        Names of the layers concerned.
    reason, remedy
        Why it costs; what to do.
    time_ms, share
        Time of these layers in one run, and their share of it in percent; None without recorded times.
    """

    rule: str
    where: str
    layers: tuple[str, ...]
    reason: str
    remedy: str
    time_ms: float | None = None
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the machine can do at most, measured there: bytes read a second, floating-point operations a second."""

    read_bytes_per_s: float | None = None
    flops_per_s: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Group:
    """Layers that belong together, and what they come to."""

    name: str
    layers: int
    time_ms: float | None
    weights_bytes: int
    activation_bytes: int


@dataclass(frozen=True, kw_only=True)
class ExploreResult(Result):
    """One engine, looked into.

    Attributes
    ----------
    source
        The folder or file.
    form
        What was read, in words: ``"ONNX Runtime profile of an engine folder"``.
    layers
        In the order of execution.
    io
        Inputs and outputs of the engine.
    phase, batch_size, input_length
        What was run: ``"decode"`` (one new token a row after `input_length` others) or ``"prompt"`` (`input_length`
        new tokens); None where nothing was run or the file does not tell.
    run_ms
        Time of whole runs without the profiler, which slows small layers down.
    ceilings
        Of the machine that ran it, measured.
    patterns
        What is slow.
    notes
        What a reader of the numbers must know.
    tensors
        What the parts of the model gave in one run, where that was asked for.
    """

    kind: ClassVar[str] = "explore"

    source: str
    form: str
    layers: tuple[Layer, ...]
    io: tuple[TensorFacts, ...] = ()
    phase: str | None = None
    batch_size: int | None = None
    input_length: int | None = None
    run_ms: tuple[float, ...] = ()
    ceilings: Ceilings = field(default_factory=Ceilings)
    patterns: tuple[SlowPattern, ...] = ()
    notes: list[str] = field(default_factory=list)
    tensors: tuple[TensorSummary, ...] = ()

    @property
    def total_ms(self) -> float | None:
        """Sum of the layers' median times; None without recorded times."""
        times = [layer.time_ms for layer in self.layers if layer.time_ms is not None]
        return sum(times) if times else None

    @property
    def metrics(self) -> dict[str, Number | None]:
        from statistics import median

        timed = self.total_ms
        attributed = [layer for layer in self.layers if layer.module is not None]
        part = sum(layer.time_ms or 0.0 for layer in attributed)
        return {
            "layers": len(self.layers),
            "layers_ms": timed,
            "run_ms": median(self.run_ms) if self.run_ms else None,
            "attributed_percent": (100 * part / timed)
            if timed
            else (100 * len(attributed) / len(self.layers) if self.layers else None),
            "weights_bytes": sum(layer.weights_bytes or 0 for layer in self.layers) or None,
            "slow_patterns": len(self.patterns),
        }

    @property
    def title(self) -> str:
        words = [self.name, self.model or self.source, self.form, self._what, f"backend {self.backend}"]
        return "Explore: " + " · ".join(word for word in words if word)

    @property
    def _what(self) -> str:
        if self.phase is None:
            return ""
        rows = f"batch {self.batch_size}, " if self.batch_size else ""
        length = f"{self.input_length} tokens" if self.input_length is not None else ""
        return f"{self.phase}, {rows}{length}".rstrip(", ")

    # ---- views ------------------------------------------------------------------------------------------------

    def by_group(self) -> list[Group]:
        """Return the parts of the model, the same part of all decoder layers together, in the order of execution."""
        return grouped(self.layers, lambda layer: module_group(layer.module))

    def by_kind(self) -> list[Group]:
        """Return the layers by the sort of their work."""
        found = {group.name: group for group in grouped(self.layers, lambda layer: layer.kind)}
        return [found[kind] for kind in KINDS if kind in found]

    def slowest(self, count: int = _TOP) -> list[Layer]:
        """Return the layers with the most time."""
        timed = [layer for layer in self.layers if layer.time_ms is not None]
        return sorted(timed, key=lambda layer: -(layer.time_ms or 0.0))[:count]

    def tables(self) -> list[Table]:
        tables = [Table(columns=("what", "value"), rows=self._facts())]
        if self.patterns:
            rows = [
                (p.rule, p.where, len(p.layers), p.time_ms, p.share, f"{p.reason} → {p.remedy}") for p in self.patterns
            ]
            columns = ("pattern", "where", "layers", "time (ms)", "share (%)", "why, and what to do")
            tables.append(_without_empty(Table(columns, rows, title="Slow patterns")))
        tables.append(self._groups_table("By module", "module", self.by_group()))
        tables.append(self._groups_table("By type of work", "type of work", self.by_kind()))
        if self.slowest():
            tables.append(layer_table(self.slowest(), "Slowest layers", total_ms=self.total_ms))
        if self.tensors:
            tables.append(self._tensor_table())
        if self.notes:
            tables.append(Table(columns=("notes",), rows=[(note,) for note in self.notes]))
        return tables

    def _tensor_table(self) -> Table:
        rows = [
            (t.part, t.dtype, " × ".join(map(str, t.shape)), t.minimum, t.maximum, t.mean, t.rms, t.not_finite or None)
            for t in self.tensors
        ]
        columns = ("output of", "type", "shape", "minimum", "maximum", "mean", "rms", "not finite")
        return _without_empty(Table(columns, rows, title="Intermediate tensors"))

    def all_layers(self) -> Table:
        """Return the table of every layer."""
        return layer_table(self.layers, "Every layer, in the order of execution", total_ms=self.total_ms)

    def _facts(self) -> list[tuple[str, Any]]:
        numbers = self.metrics
        rows: list[tuple[str, Any]] = [("source", self.source), ("form", self.form), ("backend", self.backend)]
        if self._what:
            rows.append(("run", self._what))
        rows.append(("layers", numbers["layers"]))
        if self.total_ms is not None:
            rows.append(("time of all layers (ms)", self.total_ms))
            rows.append(("time of a run without the profiler (ms)", numbers["run_ms"]))
        share = "of the time" if self.total_ms is not None else "of the layers"
        rows.append((f"attributed to our modules (% {share})", numbers["attributed_percent"]))
        if numbers["weights_bytes"]:
            rows.append(("weights (MiB)", numbers["weights_bytes"] / _MIB))
        if self.ceilings.read_bytes_per_s:
            rows.append(("read ceiling (GB/s)", self.ceilings.read_bytes_per_s / 1e9))
        if self.ceilings.flops_per_s:
            rows.append(("arithmetic ceiling (GFLOP/s)", self.ceilings.flops_per_s / 1e9))
        if not self.patterns:
            rows.append(("slow patterns", "none found"))
        return rows

    def _groups_table(self, title: str, column: str, groups: Iterable[Group]) -> Table:
        total = self.total_ms
        rows = [
            (
                group.name,
                group.layers,
                group.time_ms,
                100 * group.time_ms / total if total and group.time_ms is not None else None,
                group.weights_bytes / _MIB if group.weights_bytes >= 1024 else None,
            )
            for group in groups
        ]
        return _without_empty(Table((column, "layers", "time (ms)", "share (%)", "weights (MiB)"), rows, title=title))


@dataclass(frozen=True, kw_only=True)
class AlignedLayers:
    """What two engines do in one place; a side without it has no layers there."""

    where: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    first_ms: float | None
    second_ms: float | None
    first_precision: str
    second_precision: str


@dataclass(frozen=True, kw_only=True)
class ExplorationPair(Result):
    """Two engines, aligned by the modules that their layers compute.

    Attributes
    ----------
    first, second
        Both explorations, whole.
    layers
        Aligned layer by layer: equal nodes of our network, else equal work in the same module.
    modules
        Aligned by module.
    notes
        What makes the two hard to compare.
    """

    kind: ClassVar[str] = "explore_pair"

    first: ExploreResult
    second: ExploreResult
    layers: tuple[AlignedLayers, ...]
    modules: tuple[AlignedLayers, ...]
    notes: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, Number | None]:
        both = [row for row in self.layers if row.first and row.second]
        a, b = self.first.total_ms, self.second.total_ms
        return {
            "first_layers": len(self.first.layers),
            "second_layers": len(self.second.layers),
            "aligned_rows": len(both),
            "first_layers_ms": a,
            "second_layers_ms": b,
            "ratio": b / a if a and b is not None else None,
        }

    @property
    def title(self) -> str:
        return f"Explore: {self.labels[0]} against {self.labels[1]}"

    @property
    def labels(self) -> tuple[str, str]:
        """Names of the two sides, each with its backend."""
        names = [f"{side.name or side.model or side.source} [{side.backend}]" for side in (self.first, self.second)]
        if names[0] == names[1]:
            names = [f"{side.source} [{side.backend}]" for side in (self.first, self.second)]
        return names[0], names[1]

    def by_group(self) -> list[tuple[str, float | None, float | None]]:
        """Return part of the model, and its time in each of the two."""
        sides = [{group.name: group.time_ms for group in side.by_group()} for side in (self.first, self.second)]
        names = dict.fromkeys([*sides[0], *sides[1]])
        return [(name, sides[0].get(name), sides[1].get(name)) for name in names]

    def tables(self) -> list[Table]:
        a, b = self.labels
        groups = [(name, x, y, _ratio(x, y)) for name, x, y in self.by_group()]
        tables = [Table(("metric", "value"), [(name, value) for name, value in self.metrics.items()])]
        if any(x is not None or y is not None for _, x, y, _ in groups):  # neither has times unless it was profiled
            headings = ("module", f"{a} (ms)", f"{b} (ms)", "ratio")
            tables.append(_without_empty(Table(headings, groups, title="Time by module")))
        differing = [row for row in self.layers if _differs(row)]
        differing.sort(key=lambda row: -abs((row.second_ms or 0.0) - (row.first_ms or 0.0)))
        rows = [
            (r.where, " + ".join(r.first) or "none", " + ".join(r.second) or "none", r.first_ms, r.second_ms, _types(r))
            for r in differing[:_TOP]
        ]
        if rows:
            columns = ("where", a, b, "first (ms)", "second (ms)", "precision")
            title = f"Largest differences ({len(differing)} of {len(self.layers)} places differ)"
            tables.append(_without_empty(Table(columns, rows, title=title)))
        if gaps := differences(self.first.tensors, self.second.tensors):
            rows_of = [(part, one.rms, other.rms, None if gap is None else 100 * gap) for part, one, other, gap in gaps]
            names = ("output of", f"{a}, rms", f"{b}, rms", "largest difference (% of rms)")
            note = f"Differences are of {MOST_SAMPLES} values, spread evenly over the tensor."
            tables.append(Table(names, rows_of, title="Intermediate tensors", note=note))
        if self.notes:
            tables.append(Table(columns=("notes",), rows=[(note,) for note in self.notes]))
        return tables


def grouped(layers: Iterable[Layer], key: Callable[[Layer], str]) -> list[Group]:
    """Return layers by `key`, each group with its sums, in the order of its first layer."""
    members: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        members[key(layer)].append(layer)
    groups = []
    for name, found in members.items():
        times = [layer.time_ms for layer in found if layer.time_ms is not None]
        groups.append(
            Group(
                name,
                len(found),
                sum(times) if times else None,
                sum(layer.weights_bytes or 0 for layer in found),
                sum(layer.activation_bytes or 0 for layer in found),
            )
        )
    return groups


def layer_table(layers: Iterable[Layer], title: str, *, total_ms: float | None = None) -> Table:
    """Return a table of layers; columns that say nothing are left out."""
    rows = [
        (
            layer.name,
            layer.type,
            layer.kind,
            (layer.module or "") + (" (inferred)" if layer.inferred else ""),
            layer.dtype_in,
            layer.weights_dtype or "",
            layer.dtype_out,
            layer.tactic or "",
            layer.time_ms,
            100 * layer.time_ms / total_ms if total_ms and layer.time_ms is not None else None,
            layer.weights_bytes / 1024 if layer.weights_bytes else None,
            layer.activation_bytes / 1024 if layer.activation_bytes is not None else None,
        )
        for layer in layers
    ]
    columns = (
        "layer", "type", "work", "module", "in", "weights", "out", "tactic", "time (ms)", "share (%)",
        "weights (KiB)", "activations (KiB)",
    )  # fmt: skip
    return _without_empty(Table(columns, rows, title=title))


def _without_empty(table: Table) -> Table:
    """Leave out the columns in which no row says anything."""
    kept = [i for i in range(len(table.columns)) if any(row[i] not in (None, "") for row in table.rows)]
    rows = [[row[i] for i in kept] for row in table.rows]
    return Table([table.columns[i] for i in kept], rows, title=table.title, note=table.note)


def _differs(row: AlignedLayers) -> bool:
    if bool(row.first) != bool(row.second) or row.first_precision != row.second_precision:
        return True
    if row.first_ms is None or row.second_ms is None:
        return len(row.first) != len(row.second)
    return abs(row.second_ms - row.first_ms) > 0.1 * max(row.first_ms, row.second_ms)


def _types(row: AlignedLayers) -> str:
    if row.first_precision == row.second_precision:
        return row.first_precision
    return f"{row.first_precision or 'unknown'} → {row.second_precision or 'unknown'}"


def _ratio(first: float | None, second: float | None) -> float | None:
    return second / first if first and second is not None else None
