"""Look into an engine, or hold two against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..explore import ExplorationPair, ExploreResult, compare_explorations
from ..explore import explore as explore_source
from ..explore import profile as profile_source
from ..explore.result import Ceilings
from ..progress import ProgressSink
from ..specs.requests import ExploreSpec
from .keeping import keep
from .written import check_ending, write_result


def explore(spec: ExploreSpec, *, progress: ProgressSink | None = None) -> ExploreResult | ExplorationPair:
    """Return the layers of an engine or file, with times where they were recorded; with `against` both, aligned."""
    output = Path(spec.output).expanduser() if spec.output is not None else None
    if output is not None:
        check_ending(output)
    if spec.trace is not None and not spec.profile:
        raise SpecError(
            "Nothing is recorded without --profile.", where="trace", remedy="Add --profile, or leave --trace out."
        )
    ceilings = _ceilings(spec)
    first = _one(spec, spec.engine_dir, ceilings, progress, trace=spec.trace)
    result: ExploreResult | ExplorationPair = keep(first)
    if spec.against is not None:
        second = keep(_one(spec, spec.against, ceilings, progress, trace=None))
        result = keep(compare_explorations(first, second, name=spec.name))
    if output is not None:
        _write(output, result)
    return result


def _one(
    spec: ExploreSpec, source: str, ceilings: Ceilings, progress: ProgressSink | None, *, trace: str | None
) -> ExploreResult:
    step: dict[str, Any] = {"phase_name": spec.phase, "batch_size": spec.batch_size, "input_length": spec.input_length}
    if spec.profile and Path(source).expanduser().is_dir():
        return profile_source(
            source,
            rank=spec.rank,
            num_runs=spec.num_runs,
            warm_up=spec.warm_up,
            trace=trace,
            tensors=spec.tensors,
            name=spec.name,
            progress=progress,
            **step,
        )
    if spec.profile and spec.against is None:
        return profile_source(source, **step)  # says why a file cannot be run
    return explore_source(
        source, rank=spec.rank, times=spec.times, ceilings=ceilings, tensors=spec.tensors, name=spec.name, **step
    )


def _ceilings(spec: ExploreSpec) -> Ceilings:
    if not spec.ceilings:
        return Ceilings()
    if len(spec.ceilings) != 2 or min(spec.ceilings) <= 0:
        raise SpecError(
            "Two positive numbers are needed.",
            where="ceilings",
            remedy="Write --ceilings 4330 767: GB/s read, TFLOP/s.",
        )
    gigabytes, teraflops = spec.ceilings
    return Ceilings(read_bytes_per_s=gigabytes * 1e9, flops_per_s=teraflops * 1e12, source="as given")


def _write(path: Path, result: ExploreResult | ExplorationPair) -> None:
    def html(target: Path) -> None:
        from ..reports import write_report
        from ..reports.exploration import exploration_sections

        write_report(
            target, result.title, exploration_sections(result), subtitle="What the engine does, layer by layer"
        )

    write_result(path, result, html)
