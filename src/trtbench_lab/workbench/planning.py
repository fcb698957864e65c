"""Plan a model before anything is fetched or built."""

from __future__ import annotations

from pathlib import Path

from ..benchmark.planner import PlanCheck, PlanResult, gpu_named
from ..benchmark.planner import plan as plan_model
from ..benchmark.planner.checks import LINK, checks_of, predicted_for
from ..benchmark.planner.gpus import THIS
from ..benchmark.result import BenchResult
from ..errors import SpecError, TrtbenchError
from ..progress import ProgressSink, phase
from ..results.database import ResultsDatabase
from ..specs.requests import PlanSpec
from .keeping import keep
from .labels import label_of
from .places import HUB_ID, model_dir_from
from .written import check_ending, write_result

_RECENT = 200  # stored plans and benchmarks that are looked through


def plan(spec: PlanSpec, *, progress: ProgressSink | None = None) -> PlanResult:
    """Return what a model will need and reach, and keep it; of a hub's model only config.json is fetched."""
    output = Path(spec.output).expanduser() if spec.output is not None else None
    if output is not None:
        check_ending(output)
    result = keep(predicted(spec, progress=progress))
    if output is not None:
        _write(output, result)
    return result


def predicted(spec: PlanSpec, *, progress: ProgressSink | None = None) -> PlanResult:
    """Return the plan of a request, with what was measured of the same; nothing is kept or written."""
    if len(spec.gpu) > 1 and not spec.target:
        raise SpecError(
            f"{len(spec.gpu)} GPUs are named, and one is planned.",
            where="gpu",
            remedy="Add --target, for which all are weighed, or name one.",
        )
    for name in spec.gpu:
        if name.lower() != THIS:
            gpu_named(name)  # before anything is fetched
    folder, label = _config_place(spec.model, progress)
    measures = any(name.lower() == THIS for name in spec.gpu)
    with phase("measure this machine" if measures else "plan", progress):
        result = plan_model(
            folder,
            gpu=spec.gpu[0],
            other_gpus=spec.gpu[1:],
            tp_size=spec.mapping.tp_size,
            pp_size=spec.mapping.pp_size,
            quantization=spec.quant,
            kv_cache_dtype=spec.kv_cache_dtype,
            group_size=spec.group_size,
            quantize_lm_head=spec.quantize_lm_head,
            dtype=spec.dtype,
            backend=spec.backend,
            batch_size=spec.batch_size,
            input_len=spec.input_len,
            output_len=spec.output_len,
            max_batch_size=spec.max_batch_size,
            max_seq_len=spec.max_seq_len,
            target=spec.target or None,
            label=label,
            name=spec.name,
        )
    return result.replace(spec=spec.to_dict(), checks=_earlier(result))


def _config_place(model: str, progress: ProgressSink | None) -> tuple[Path, str | None]:
    """Return where config.json lies, and the model's name."""
    path = Path(model).expanduser()
    if path.exists() or model.startswith("demo") or HUB_ID.fullmatch(model) is None or model.count("/") != 1:
        folder = path if path.is_file() else model_dir_from(model, progress=progress)
        return folder, label_of(folder.parent if folder.is_file() else folder)
    from ..intake.hub import download

    return Path(download(model, include=["config.json"], progress=progress).directory), model


def _earlier(plan: PlanResult) -> list[PlanCheck]:
    """Return what was measured of the same already, beside what is predicted now."""
    found: list[PlanCheck] = []
    try:
        database = ResultsDatabase()
        for row in database.query(kind="bench", limit=_RECENT):
            if not any(f"{item.label}.itl_ms_p50" in row.metrics for item in plan.predictions):
                continue
            bench = database.get(row.id)
            if isinstance(bench, BenchResult) and bench.samples.get(LINK) == plan.link:
                labels = [point.label for point in bench.points]
                found += checks_of(bench, predicted_for(plan.link, [plan], labels))
    except TrtbenchError:  # a history that cannot be read must not cost a person the plan
        return []
    return found[:20]


def stored_plans() -> list[PlanResult]:
    """Return the plans in the history, newest first; none where it cannot be read."""
    try:
        database = ResultsDatabase()
        results = [database.get(row.id) for row in database.query(kind="plan", limit=_RECENT)]
    except TrtbenchError:
        return []
    return [result for result in results if isinstance(result, PlanResult)]


def _write(path: Path, result: PlanResult) -> None:
    def html(target: Path) -> None:
        from ..reports import write_report

        write_report(target, result.title, [result], subtitle="From config.json alone; every number is predicted")

    write_result(path, result, html)
