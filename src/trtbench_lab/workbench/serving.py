"""Measure an engine under requests that arrive by themselves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..benchmark.serving import ServingRequest, random_workload, run_serving
from ..benchmark.serving_result import ServingResult
from ..errors import RequestError, SpecError
from ..progress import ProgressSink, phase
from ..runtime import LLM
from ..runtime.inflight.request_file import read_requests
from ..runtime.text import encode_prompts
from ..specs.requests import BenchSpec
from .keeping import keep
from .labels import quantization_label
from .loading import open_engine, tokenizer_for


def bench_serving(spec: BenchSpec, *, progress: ProgressSink | None = None) -> ServingResult:
    """Run the serving benchmark of `spec` and return its result."""
    if spec.test_hf:
        raise SpecError(
            "Hugging Face has no running batch to send requests to.",
            where="test_hf",
            remedy="Compare with it by --mode static.",
        )
    path = Path(spec.bench.dataset).expanduser() if spec.bench.dataset is not None else None
    requests = None if path is None else read_requests(path, limit=spec.bench.num_requests)
    engine = open_engine(spec.engine_dir, spec.gpu_weights_percent)
    started = time.perf_counter()
    with phase("load the engine", progress):
        llm = LLM(engine, tokenizer=False, config=spec.inflight)
    load_s = time.perf_counter() - started
    with llm:
        if requests is None or path is None:
            workload = random_workload(spec.bench, llm.limits.vocab_size)
        else:
            needs_text = any(request.text is not None for request in requests)
            tokenizer = tokenizer_for(engine, spec.tokenizer_dir, required=needs_text)
            workload = [_settled(request, tokenizer, path, spec) for request in requests]
        build = engine.config.build_config
        facts = {
            "dtype": build.compute_dtype,
            "quantization": quantization_label(engine.config.pretrained_config),
            "compute_capability": (engine.config.gpu or {}).get("compute_capability"),
            "engine_load_s": load_s,
            "build_s": engine.config.build_seconds,
            "weights_bytes": llm.memory().get("weights_bytes"),
        }
        result = run_serving(
            llm.batcher, spec.bench, workload, model=engine.name, name=spec.name, facts=facts, progress=progress
        )
    return keep(result)


def _settled(request: Any, tokenizer: Any, path: Path, spec: BenchSpec) -> ServingRequest:
    where = f"{path}, line {request.line}"
    ids = request.token_ids if request.text is None else encode_prompts(tokenizer, [request.text])[0]
    output_length = request.sampling.get("max_new_tokens", request.sampling.get("max_tokens"))
    if output_length is None:
        output_length = spec.bench.input_output_len[0][1]
    if isinstance(output_length, bool) or not isinstance(output_length, int) or output_length < 1:
        raise RequestError(f"Its output length is {output_length!r}.", where=where, remedy="Give a number above 0.")
    return ServingRequest(ids, output_length)
