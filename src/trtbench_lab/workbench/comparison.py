"""Generate the same with an engine and with Hugging Face, side by side."""

from __future__ import annotations

from ..evaluation.compare import CompareResult
from ..evaluation.compare import compare as compare_sides
from ..progress import ProgressSink
from ..runtime import ModelRunner
from ..specs.requests import CompareSpec
from .inputs import inputs_for
from .keeping import keep
from .loading import hf_dir_for, hf_runner_for, open_engine


def compare(spec: CompareSpec, *, progress: ProgressSink | None = None) -> CompareResult:
    """Return texts, first divergence with both margins, logit differences, latency and memory of both sides."""
    engine = open_engine(spec.engine_dir)
    hf_dir_for(engine, spec.hf_model_dir, progress=progress)
    inputs = inputs_for(spec, engine)
    hf = hf_runner_for(
        engine, spec.hf_model_dir, spec.hf_dtype, trust_remote_code=spec.trust_remote_code, progress=progress
    )
    with ModelRunner.from_engine(engine) as runner:
        result = compare_sides(
            runner,
            hf,
            inputs.token_ids,
            spec.sampling,
            tokenizer=inputs.tokenizer,
            texts=inputs.texts,
            truncation=spec.truncation,
            num_runs=spec.num_runs,
            warm_up=spec.warm_up,
            model=engine.name,
            name=spec.name,
            progress=progress,
        )
    return keep(result)
