"""Results for figures: benchmarks on a written clock, a comparison and a scored summarisation with chosen numbers."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from tests.benchmark.fakes import FakeRunner, Limits

from trtbench_lab.benchmark import BenchResult, run_static
from trtbench_lab.benchmark.memory import MemoryFigures
from trtbench_lab.benchmark.serving_result import ServedRequest, ServingResult, StepColumns
from trtbench_lab.evaluation.bootstrap import Interval
from trtbench_lab.evaluation.compare_result import CompareResult, PromptComparison, SideMemory, SideOutput
from trtbench_lab.evaluation.divergence import LogitDifference
from trtbench_lab.evaluation.rouge import RougeScores
from trtbench_lab.evaluation.summarize_result import ArticleOutcome, SideScore, SummarizeResult
from trtbench_lab.specs import BenchConfig

WIDE = Limits(max_batch_size=None, max_input_len=None, max_seq_len=None)


def bench(
    backend: str = "onnxruntime", *, itl_ms: float = 2.0, runs: int = 5, batch_size: str = "1;4", **facts: Any
) -> BenchResult:
    """A benchmark of 16 tokens in and 8 out whose gaps scatter around `itl_ms`."""
    noise = random.Random(7)

    def gaps_ms(call: int, length: int) -> list[float]:
        return [5 * itl_ms, *(itl_ms * noise.uniform(0.9, 1.2) for _ in range(length - 1))]

    runner = FakeRunner(gaps_ms, WIDE)
    runner.backend = backend
    config = BenchConfig(batch_size=batch_size, input_output_len="16,8", num_runs=runs, duration_s=0.0, warm_up=1)
    labels = {key: facts.pop(key) for key in ("model", "name") if key in facts}
    measured = run_static(runner, config, **{"model": "gpt2", **labels}, facts=facts)
    # This process's own memory depends on the tests that ran in it before; with it a figure's unit.
    memory = MemoryFigures(process_rss_peak_bytes=300 << 20)
    return measured.replace(points=[dataclasses.replace(point, memory=memory) for point in measured.points])


def serving(backend: str = "onnxruntime", *, requests: int = 6, **facts: Any) -> ServingResult:
    """Requests a tenth of a second apart, each with 5 tokens; the first failed."""
    served = [
        ServedRequest(
            input_length=8,
            output_length=5,
            sent_ns=i * 100_000_000,
            token_ns=[] if i == 0 else [i * 100_000_000 + (40 + 7 * t + i) * 1_000_000 for t in range(5)],
            error="it failed" if i == 0 else None,
        )
        for i in range(requests)
    ]
    steps = StepColumns(
        submitted_ns=[0, 50_000_000],
        known_ns=[40_000_000, 90_000_000],
        planning_ns=[1000, 2000],
        decode_rows=[0, 2],
        prompt_tokens=[8, 8],
        running=[1, 2],
        waiting=[3, 0],
        blocks_in_use=[1, 2],
    )
    labels = {"model": "gpt2", "slo_ms": {"ttft": 50.0}, **facts}
    return ServingResult(backend=backend, requests=served, steps=steps, **labels)


def comparison() -> CompareResult:
    """Two prompts, two runs; the engine is twice as fast."""

    def side(scale: int) -> SideOutput:
        runs = [[scale * (10 + 3 * i) * 1_000_000 for i in range(5)] for _ in range(2)]
        return SideOutput(tokens=[1, 2, 3, 4, 5], text="a <b> c", finish_reason="length", token_ns=runs)

    logits = LogitDifference(positions=5, max_abs=1e-5, mean_abs=1e-6, logit_range=20.0, top1_agreement=100.0)
    prompt = PromptComparison(
        prompt="Once", prompt_tokens=[9], engine=side(1), hf=side(2), divergence=None, logits=logits
    )
    return CompareResult(
        backend="onnxruntime",
        model="gpt2",
        prompts=[prompt, prompt],
        hf_model="gpt2",
        hf_dtype="float32",
        engine_memory=SideMemory(weights_bytes=100 << 20, kv_cache_bytes=5 << 20, process_rss_peak_delta_bytes=7 << 20),
        hf_memory=SideMemory(weights_bytes=120 << 20, kv_cache_bytes=None, process_rss_peak_delta_bytes=30 << 20),
        num_runs=2,
    )


def summary(backend: str = "onnxruntime", *, rouge1: float = 60.0, name: str | None = None) -> SummarizeResult:
    """Both sides scored on two articles; Hugging Face has 61."""

    def score(backend: str, value: float, latency_ms: float) -> SideScore:
        interval = Interval(mean=value, median=value, low=value - 4, high=value + 3, n=2, resamples=1000)
        scores = RougeScores(per_article={"rouge1": [value, value]}, intervals={"rouge1": interval, "rougeL": interval})
        return SideScore(
            backend=backend,
            rouge=[scores],
            entity_accuracy=[90.0],
            batch_latency_ms=[latency_ms, latency_ms],
            output_tokens=50,
        )

    article = ArticleOutcome(id="1", prompt_tokens=10, reference="r", entities=[], engine_texts=["e"], hf_texts=["h"])
    return SummarizeResult(
        backend=backend,
        model="gpt2",
        name=name,
        engine=score(backend, rouge1, 100.0),
        hf=score("huggingface", 61.0, 250.0),
        articles=[article, article],
    )
