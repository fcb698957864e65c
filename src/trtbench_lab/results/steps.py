"""Results of the steps that make something: download, convert, quantize, build, run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from .base import Number, Result
from .render import Table

_WORST_LAYERS = 5
_SHOWN_PROMPTS = 20


@dataclass(frozen=True, kw_only=True)
class StepResult(Result):
    """Base of a step's result: where its output is, how long it took, and what it has to say.

    Attributes
    ----------
    output_dir
        The folder that now holds the output.
    seconds
        Wall time of the step.
    notes
        Sentences a person should read: choices made, options that do nothing here.
    """

    output_dir: str
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        words = [self.name, self.model, self.output_dir]
        return f"{self.kind.capitalize()}: " + " · ".join(word for word in words if word)

    def facts(self) -> list[tuple[str, Any]]:
        """Rows that say what the output is, beside the numbers."""
        return []

    def tables(self) -> list[Table]:
        rows = [*self.facts(), *self.metrics.items()]
        tables = [Table(columns=("what", "value"), rows=rows)]
        if self.notes:
            tables.append(Table(columns=("notes",), rows=[(note,) for note in self.notes]))
        return tables


@dataclass(frozen=True, kw_only=True)
class DownloadStep(StepResult):
    """A model folder fetched from a hub, at one commit."""

    kind: ClassVar[str] = "download"

    revision: str
    files: dict[str, int]
    transferred_bytes: int
    reused_bytes: int

    @property
    def metrics(self) -> dict[str, Number | None]:
        return {
            "files": len(self.files),
            "total_bytes": sum(self.files.values()),
            "transferred_bytes": self.transferred_bytes,
            "reused_bytes": self.reused_bytes,
            "seconds": self.seconds,
        }

    def facts(self) -> list[tuple[str, Any]]:
        return [("folder", self.output_dir), ("commit", self.revision)]


@dataclass(frozen=True, kw_only=True)
class ConvertStep(StepResult):
    """A checkpoint written from a source model.

    Attributes
    ----------
    layers
        What quantizing did to each layer, in the order of the network; empty without quantization.
    calibration
        Source, size, length, seed and digest of the calibration tokens; empty where nothing was calibrated.
    """

    kind: ClassVar[str] = "convert"

    architecture: str
    dtype: str
    tp_size: int
    pp_size: int
    quantization: str = "none"
    tensors: int
    written_bytes: int
    bytes_by_rank: list[int]
    layers: list[dict[str, Any]] = field(default_factory=list)
    calibration: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, Number | None]:
        return {
            "ranks": len(self.bytes_by_rank),
            "tensors": self.tensors,
            "written_bytes": self.written_bytes,
            "largest_rank_bytes": max(self.bytes_by_rank, default=0),
            "seconds": self.seconds,
            "megabytes_per_second": self.written_bytes / 1e6 / self.seconds if self.seconds else None,
        }

    def facts(self) -> list[tuple[str, Any]]:
        facts: list[tuple[str, Any]] = [
            ("checkpoint", self.output_dir),
            ("architecture", self.architecture),
            ("dtype", self.dtype),
            ("quantization", self.quantization),
            ("tp × pp", f"{self.tp_size} × {self.pp_size}"),
        ]
        if self.calibration:
            text = "{source}: {size} × {length} tokens, seed {seed}".format(**self.calibration)
            facts.append(("calibrated on", text))
        return facts

    def tables(self) -> list[Table]:
        tables = super().tables()
        if self.layers:
            measured = self.layers[0].get("output_relative_error") is not None
            by = "output_relative_error" if measured else "relative_rms_error"
            columns: tuple[str, ...] = ("relative_rms_error", "max_abs_error", "clipped_share")
            if measured:
                columns = ("output_relative_error", "relative_rms_error", "weight_largest", "inputs_largest")
                columns = (*columns, "clipped_share", "outlier_channels")
            columns = ("module", *columns, "bytes_before", "bytes_after")
            worst = sorted(self.layers, key=lambda layer: -float(layer[by]))[:_WORST_LAYERS]
            rows = [tuple(layer[column] for column in columns) for layer in worst]
            title = f"Layers that lost most ({len(rows)} of {len(self.layers)}; all are in .layers)"
            tables.insert(1, Table(columns=columns, rows=rows, title=title))
        return tables


@dataclass(frozen=True, kw_only=True)
class QuantizeStep(ConvertStep):
    """A quantized checkpoint written from a source model.

    Attributes
    ----------
    search
        How a mixed recipe was found (`calibration.search_report.SearchReport`), with a sentence for every layer; empty
        without a search.
    quality
        The data of a `QualityResult` against the source; empty without a report.
    """

    kind: ClassVar[str] = "quantize"

    search: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)

    @property
    def quality_result(self) -> Any:
        """The report on quality as a result of its own; None without one."""
        return Result.from_dict(self.quality) if self.quality else None

    @property
    def exit_code(self) -> int:
        """1 where a limit on quality is not shown to be kept."""
        return int(self.quality_result.exit_code) if self.quality else 0

    def tables(self) -> list[Table]:
        tables = super().tables()
        if self.search:
            tables[1:1] = _search_tables(self.search)
        # The report's own table of layers would say the same once more.
        quality = self.quality_result.replace(layers=[]).tables() if self.quality else []
        return tables + quality


def _search_tables(search: dict[str, Any]) -> list[Table]:
    share = search["size_bytes"] / search["plain_bytes"]
    best = (
        "the best there is" if search["is_exact"] else f"no mix sums up to less than {search['lower_bound']:.4g} nats"
    )
    note = (
        f"{search['size_bytes']:,} of {search['plain_bytes']:,} bytes ({share:.3f}; at most {search['budget']:g}): "
        f"{best}. {search['metric']} of the layers one by one adds up to {search['predicted_loss']:.4g} nats a token; "
        f"all together lose {search['measured_loss']:.4g}, on {search['tokens']:,} tokens."
    )
    fields = ("module", "chosen", "loss", "size_bytes", "why")
    rows = [tuple(layer[name] for name in fields) for layer in search["layers"]]
    columns = ("layer", "format", f"{search['metric']} (nats)", "bytes", "why not another")
    return [Table(columns=columns, rows=rows, title="The mix", note=note)]


@dataclass(frozen=True, kw_only=True)
class BuildStep(StepResult):
    """An engine folder, built or taken from the cache."""

    kind: ClassVar[str] = "build"

    key: str
    from_cache: bool
    engine_bytes: int
    peak_bytes: int | None = None
    phases: list[tuple[str, float]] = field(default_factory=list)
    quantization: str = "none"

    @property
    def metrics(self) -> dict[str, Number | None]:
        return {
            "seconds": self.seconds,
            "engine_bytes": self.engine_bytes,
            "build_peak_bytes": self.peak_bytes,
        }

    def facts(self) -> list[tuple[str, Any]]:
        return [
            ("backend", self.backend),
            ("engine", self.output_dir),
            ("quantization", self.quantization),
            ("from cache", self.from_cache),
            ("key", self.key),
        ]

    def tables(self) -> list[Table]:
        tables = super().tables()
        if self.phases:
            title = "Phases of the build that made the cached engine" if self.from_cache else "Phases"
            tables.insert(1, Table(columns=("phase", "seconds"), rows=self.phases, title=title))
        return tables


@dataclass(frozen=True, kw_only=True)
class RunStep(Result):
    """Text that an engine generated for some prompts.

    Attributes
    ----------
    prompts, texts
        Prompt texts (None for prompts given as tokens) and, for each prompt, one text a beam.
    output_ids
        For each prompt and beam the new tokens.
    ttft_ms
        Time to first token of the batch, in milliseconds; None when nothing was generated.
    """

    kind: ClassVar[str] = "run"

    engine_dir: str
    prompts: list[str | None]
    texts: list[list[str]]
    output_ids: list[list[list[int]]]
    input_lengths: list[int]
    ttft_ms: float | None
    latency_ms: float
    notes: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, Number | None]:
        new_tokens = sum(len(beams[0]) for beams in self.output_ids if beams)
        return {
            "batch_size": len(self.prompts),
            "input_tokens": sum(self.input_lengths),
            "output_tokens": new_tokens,
            "ttft_ms": self.ttft_ms,
            "latency_ms": self.latency_ms,
            "tokens_per_sec": new_tokens / self.latency_ms * 1e3 if self.latency_ms else None,
        }

    def tables(self) -> list[Table]:
        rows = []
        shown = list(zip(self.prompts, self.texts, strict=True))[:_SHOWN_PROMPTS]
        for index, (prompt, beams) in enumerate(shown):
            for beam, text in enumerate(beams):
                label = f"output {index}" if len(beams) == 1 else f"output {index}, beam {beam}"
                if beam == 0:
                    rows.append((f"input {index}", prompt if prompt is not None else "(tokens)"))
                rows.append((label, text))
        rest = len(self.prompts) - len(shown)
        more = f"{rest} more are in .prompts and .texts." if rest else None
        tables = [Table(columns=("", "text"), rows=rows, note=more), Table.of_metrics(self.metrics)]
        if self.notes:
            tables.append(Table(columns=("notes",), rows=[(note,) for note in self.notes]))
        return tables
