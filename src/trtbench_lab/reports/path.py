"""A whole path as one report: from the model over checkpoints and engines to everything that was measured of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..results import Result, Table
from .sections import Code, Folded, Highlight, Section, Untitled

MAKERS = ("plan", "download", "convert", "quantize", "build")
_SEEN = ("run", "streams", "compare", "layers", "quality", "perplexity", "summarize")
_TIMED = ("bench", "serving")
_EXPLORED = ("explore", "explore_pair")


@dataclass(frozen=True)
class ResultPath:
    """The results of one path, oldest first.

    Attributes
    ----------
    results
        Steps and measurements; where a step was repeated, the last of the same.
    model
        The model that the path began with.
    """

    results: tuple[Result, ...]
    model: str

    def of(self, *kinds: str) -> list[Result]:
        """Return the results of some kinds, oldest first."""
        return [result for result in self.results if result.kind in kinds]


def path_of(results: Iterable[Result], *, engine: str | None = None) -> ResultPath:
    """Return the path that the newest result belongs to.

    Parameters
    ----------
    results
        Candidates in any order, for example the whole history.
    engine
        Name of an engine (its folder's): the path that led to it. None for that of the newest result's model, with
        every engine that was made of it.

    Notes
    -----
    A build belongs to the conversion that wrote its checkpoint, a conversion to the model in its name, and whatever ran
    to the engine in its name. Of the same step only the last counts: the one whose output is there.
    """
    ordered = sorted(results, key=lambda result: result.created_at)
    if not ordered:
        return ResultPath((), "")
    model = _origin(ordered, engine or ordered[-1].model or "")
    checkpoints = {_place(r): r for r in ordered if r.kind in ("convert", "quantize") and r.model == model}
    builds = {r.model: r for r in ordered if r.kind == "build" and _checkpoint_of(r) in checkpoints}
    if engine is not None:
        builds = {name: build for name, build in builds.items() if name == engine}
        wanted = {_checkpoint_of(build) for build in builds.values()}
        checkpoints = {place: step for place, step in checkpoints.items() if not wanted or place in wanted}
    first = min((step.created_at for step in checkpoints.values()), default="")
    chosen: dict[tuple[Any, ...], Result] = {}
    kept = {result.id for result in (*checkpoints.values(), *builds.values())}
    for result in ordered:
        build = builds.get(result.model)
        ran = build is not None and result.kind not in MAKERS and result.created_at >= build.created_at
        before = result.model == model and result.kind in ("plan", "download")
        beside = result.model == model and result.backend == "huggingface" and result.created_at >= first
        if result.id in kept or ran or before or beside or (not builds and result.model == model):
            chosen[_same(result)] = result
    return ResultPath(tuple(sorted(chosen.values(), key=lambda result: result.created_at)), model)


def path_sections(path: ResultPath, *, theme: str = "auto") -> list[Section]:
    """Return the sections of a report: overview, commands, plan, shards, build, comparison, speed, layers."""
    from .figures import figures_for

    sections = [_overview(path), _commands(path)]
    plans = path.of("plan")
    if plans:
        sections.append(_section("Planned beforehand", plans, theme))
    made = path.of("download", "convert", "quantize", "build")
    if made:
        shards = [item for result in path.of("convert", "quantize") for item in _shards(result, theme)]
        sections.append(Section(title="Checkpoint and build", items=[*made, *shards]))
    seen = path.of(*_SEEN)
    if seen:
        sections.append(_section("Answers, and what they are worth", seen, theme))
    benches = path.of("bench")
    if benches:
        sections.append(Section(title="Speed and memory", items=[*_speed_figures(benches, theme), *benches]))
    sections += [
        Section(title=result.title, items=[Untitled(result), *figures_for(result, theme=theme)])
        for result in path.of("serving", *_EXPLORED)
    ]
    known = {*MAKERS, *_SEEN, *_TIMED, *_EXPLORED}
    rest = [result for result in path.results if result.kind not in known]
    return [*sections, *([_section("Further results", rest, theme)] if rest else [])]


def path_highlights(path: ResultPath) -> list[Highlight]:
    """Return the few numbers that a person should see first."""
    found: list[Highlight] = []
    bench = next((r for r in reversed(path.of("bench")) if r.backend != "huggingface"), None)
    if bench is not None:
        name, rate = _first(bench, "tokens_per_sec")
        found.append(Highlight(label="Output tokens per second", value=rate, note=f"{bench.backend}, {name}"))
        label, error = _first(bench, "itl_prediction_error")
        if error is not None:
            found.append(Highlight(label="The plan was off by", value=round(error, 1), unit="%", note=f"ITL, {label}"))
    for wanted, label in (
        ("speedup", "Against Hugging Face"),
        ("engine_rouge1", "ROUGE-1"),
        ("perplexity", "Perplexity"),
    ):
        for result in reversed(path.results):
            value = result.metrics.get(wanted)
            if value is not None:
                unit = "×" if wanted == "speedup" else ""
                found.append(Highlight(label=label, value=value, unit=unit, note=f"{result.model}, {result.backend}"))
                break
    build = next(iter(reversed(path.of("build"))), None)
    if build is not None:
        size = float(build.metrics["engine_bytes"] or 0) / 2**20
        found.append(Highlight(label="Engine on the disk", value=size, unit="MiB", note=build.model or ""))
    return found[:5]


def command_text(result: Result) -> str | None:
    """Return the shell line that asked for a result; None for results of scripts and of older versions."""
    words = result.samples.get("command")
    return f"trtbench {shlex.join(str(word) for word in words)}" if words else None


def _origin(ordered: Sequence[Result], name: str) -> str:
    """Return the model that a name goes back to: an engine's over its build and its checkpoint, else itself."""
    builds = [result for result in ordered if result.kind == "build" and result.model == name]
    if not builds:
        return name
    place = _checkpoint_of(builds[-1])
    made = [result for result in ordered if result.kind in ("convert", "quantize") and _place(result) == place]
    return str(made[-1].model) if made else name


def _place(result: Result) -> str:
    return Path(str(getattr(result, "output_dir", ""))).name


def _checkpoint_of(build: Result) -> str:
    """Return the name of a build's checkpoint folder; a build from a model folder wrote one of its own just before."""
    return Path(str(build.spec.get("checkpoint_dir", ""))).name


def _same(result: Result) -> tuple[Any, ...]:
    """Return what two results share that are the same step done twice."""
    command = tuple(result.samples.get("command") or ())
    return (result.kind, result.backend, result.model, result.name, command or tuple(sorted(result.metrics)))


def _section(title: str, results: Sequence[Result], theme: str) -> Section:
    from .figures import figures_for

    items = [item for result in results for item in (result, *figures_for(result, theme=theme))]
    return Section(title=title, items=items)


def _overview(path: ResultPath) -> Section:
    rows = [
        (
            number,
            result.created_at[:19].replace("T", " "),
            result.kind,
            result.name or result.model or "",
            result.backend,
            getattr(result, "quantization", None) or "",
            result.id,
        )
        for number, result in enumerate(path.results, start=1)
    ]
    columns = ("#", "when (UTC)", "step", "of", "backend", "quantization", "id")
    text = (
        f"Everything that the history holds of {path.model}: choices first, then what came of them. Predicted numbers "
        "are called so; all others were measured by the backend named beside them."
    )
    return Section(title="The path", items=[text, Table(columns, rows)])


def _commands(path: ResultPath) -> Section:
    lines = list(dict.fromkeys(line for result in path.results if (line := command_text(result))))
    if not lines:
        return Section(title="Commands", items=["These results were made from Python, which leaves no command line."])
    text = "These lines do the same again, in a shell; in a notebook write %trt_ in place of trtbench and a space."
    return Section(title="Commands", items=[text, Code(text="\n".join(lines))])


def _shards(result: Result, theme: str) -> list[Any]:
    """Return who holds what: from the checkpoint where it is still there, else the bytes by rank that were kept."""
    from ..checkpoint import shard_plan
    from ..errors import TrtbenchError
    from ..families.foreign import complete_config
    from ..intake.model_config import read_json_object
    from .shards import shard_treemap

    title = f"Shards of {_place(result)}"
    by_rank = list(getattr(result, "bytes_by_rank", ()))
    rows = [(rank, count) for rank, count in enumerate(by_rank)]
    plain = Table(("rank", "bytes"), rows, title=title)
    try:
        file = Path(str(getattr(result, "output_dir", ""))) / "config.json"
        plan = shard_plan(complete_config(read_json_object(file, what="checkpoint configuration")))
    except TrtbenchError:
        return [plain]
    table = Table(
        ("rank", "tensor", "split", "shape", "dtype", "bytes"),
        [
            (row.rank, row.tensor, row.split, " × ".join(map(str, row.shape)), row.dtype, row.bytes)
            for row in plan
        ],
        title=title,
    )  # fmt: skip
    return [shard_treemap(plan, theme=theme), Folded(table)]


def _speed_figures(benches: Sequence[Result], theme: str) -> list[Any]:
    from .figures import itl_over_position, latency_distribution, memory, side_by_side, throughput_over_batch

    chosen: list[Any] = list(benches)
    # Hugging Face is what the others are held against.
    chosen.sort(key=lambda bench: bench.backend != "huggingface")
    drawn = [side_by_side(chosen, theme=theme)] if len(chosen) > 1 else []
    drawn += [latency_distribution(chosen, theme=theme), itl_over_position(chosen, theme=theme)]
    if any(len({point.batch_size for point in bench.points}) > 1 for bench in chosen):
        drawn.append(throughput_over_batch(chosen, theme=theme))
    return [*drawn, memory(chosen, theme=theme)]


def _first(result: Result, metric: str) -> tuple[str, float | None]:
    """Return the first configuration with a metric, and its value."""
    for name, value in result.metrics.items():
        if name.rsplit(".", 1)[-1] == metric and value is not None:
            return name.partition(".")[0], float(value)
    return "", None
