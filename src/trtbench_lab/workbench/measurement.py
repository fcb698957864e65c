"""Measure an engine, and Hugging Face beside it, by one clock."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..benchmark import BenchResult, decode_read_bytes, read_bandwidth, run_static
from ..benchmark.planner.checks import LINK, PREDICTED, link_of, machine_name, predicted_for
from ..benchmark.serving_result import ServingResult
from ..benchmark.side_by_side import BenchCsv, BenchPair
from ..engine import Engine
from ..progress import ProgressSink, phase
from ..runtime import ModelRunner
from ..specs import QuantConfig
from ..specs.requests import BenchSpec
from ..storage import staged_file
from .keeping import keep
from .labels import quantization_label
from .loading import hf_dir_for, hf_runner_for, open_engine
from .planning import stored_plans


def bench(
    spec: BenchSpec, *, progress: ProgressSink | None = None
) -> BenchResult | BenchPair | BenchCsv | ServingResult:
    """Run the static-batch benchmark (with `test_hf` return both sides), or the serving benchmark."""
    if spec.bench.mode == "serving":
        from .serving import bench_serving

        return bench_serving(spec, progress=progress)
    engine = open_engine(spec.engine_dir, spec.gpu_weights_percent)
    if spec.test_hf:
        # Before anything is measured: a missing model must not cost a person the engine's half.
        hf_dir_for(engine, spec.hf_model_dir, progress=progress)
    started = time.perf_counter()
    with phase("load the engine", progress):
        runner = ModelRunner.from_engine(engine)
    load_s = time.perf_counter() - started
    label = engine.name
    with runner:
        facts = _facts(engine, runner, load_s)
        measured = run_static(runner, spec.bench, model=label, name=spec.name, facts=facts, progress=progress)
        ours = keep(_beside_plans(measured, engine))
    if not spec.test_hf:
        return _shown(spec, ours)
    hf = hf_runner_for(
        engine, spec.hf_model_dir, spec.hf_dtype, trust_remote_code=spec.trust_remote_code, progress=progress
    )
    plain = engine.config.pretrained_config.replace(quantization=QuantConfig())
    hf_facts = {
        "dtype": hf.dtype,
        "weights_bytes": hf.memory()["weights_bytes"],
        "decode_read_bytes": decode_read_bytes(plain, compute_dtype=hf.dtype),
        "read_bandwidth_bytes_per_s": facts["read_bandwidth_bytes_per_s"],
    }
    theirs = run_static(hf, spec.bench, model=hf.name, name=spec.name, facts=hf_facts, progress=progress)
    return _shown(spec, BenchPair(engine=ours, huggingface=keep(theirs)))


def _beside_plans(result: BenchResult, engine: Engine) -> BenchResult:
    """Return the result with its key, and with what plans of the same had predicted."""
    config, dtype = engine.config.pretrained_config, engine.config.build_config.compute_dtype
    link = link_of(config, dtype, machine_name(), result.backend)
    predicted = predicted_for(link, stored_plans(), [point.label for point in result.points])
    added = {LINK: link, **({PREDICTED: predicted} if predicted else {})}
    return result.replace(samples={**result.samples, **added})


def _facts(engine: Engine, runner: ModelRunner, load_s: float) -> dict[str, Any]:
    config = engine.config.pretrained_config
    weights_bytes = runner.memory().get("weights_bytes")
    compute_dtype = engine.config.build_config.compute_dtype
    return {
        "dtype": compute_dtype,
        "quantization": quantization_label(config),
        "compute_capability": (engine.config.gpu or {}).get("compute_capability"),
        "engine_load_s": load_s,
        "build_s": engine.config.build_seconds,
        "weights_bytes": weights_bytes,
        # Ranks that share layers read side by side; stages one after the other.
        "decode_read_bytes": decode_read_bytes(config, compute_dtype=compute_dtype) // config.mapping.tp_size,
        "read_bandwidth_bytes_per_s": read_bandwidth(runner.device).bytes_per_s,
    }


def _shown(spec: BenchSpec, result: BenchResult | BenchPair) -> BenchResult | BenchPair | BenchCsv:
    """Write the CSV file where one is asked for, and return the view that is asked for."""
    table = BenchCsv(result=result)
    if spec.output_csv is not None:
        with staged_file(Path(spec.output_csv).expanduser()) as staging:
            staging.write_text(f"{table!r}\n", encoding="utf-8")
    return table if spec.csv else result
