"""Hold an engine against Hugging Face: the same generation side by side, quality with limits, or layer by layer."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from ..errors import RequestError
from ..evaluation.compare import CompareResult
from ..evaluation.compare import compare as compare_sides
from ..evaluation.layers import compare_layers
from ..evaluation.layers_result import LayersResult
from ..evaluation.quality_result import QualityResult
from ..evaluation.repeat import deterministic_mode, repeats_bit_for_bit
from ..progress import ProgressSink
from ..runtime import ModelRunner
from ..specs.requests import CompareSpec
from .inputs import inputs_for, prompts_from_file, token_ids_from_file
from .keeping import keep
from .loading import hf_dir_for, hf_runner_for, open_engine
from .places import model_dir_from
from .quality import measured_quality
from .sides import baseline_of, open_side

_SAME = "Deterministic kernels only; a second pass of the engine over the first prompt gave the same bits."
_OTHER = "Deterministic kernels only, and still a second pass of the engine over the first prompt gave other bits."


def compare(
    spec: CompareSpec, *, progress: ProgressSink | None = None
) -> CompareResult | QualityResult | LayersResult:
    """Compare an engine with Hugging Face.

    Returns
    -------
    CompareResult
        Texts, first divergence with both margins, logit differences, latency and memory of both sides.
    QualityResult
        With `quality`: perplexity, agreement, ROUGE … against a baseline, each with an interval, and the verdict.
    LayersResult
        With `per_layer` or `bisect`: hidden states against the baseline's.
    """
    with deterministic_mode() if spec.deterministic else nullcontext():
        if spec.per_layer or spec.bisect:
            return _layers(spec, progress)
        if spec.quality.is_asked:
            return _quality(spec, progress)
        return _side_by_side(spec, progress)


def _side_by_side(spec: CompareSpec, progress: ProgressSink | None) -> CompareResult:
    engine = open_engine(spec.engine_dir, spec.gpu_weights_percent)
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
        if spec.deterministic:
            same = repeats_bit_for_bit(runner, result.prompts[0].prompt_tokens)
            result = result.replace(notes=[*result.notes, _SAME if same else _OTHER])
    return keep(result)


def _quality(spec: CompareSpec, progress: ProgressSink | None) -> QualityResult:
    options = {"trust_remote_code": spec.trust_remote_code, "progress": progress}
    with (
        open_side(spec.engine_dir, gpu_weights_percent=spec.gpu_weights_percent, **options) as side,  # type: ignore[arg-type]
        baseline_of(side, spec.quality.baseline, spec.hf_model_dir, hf_dtype=spec.hf_dtype, **options) as baseline,  # type: ignore[arg-type]
    ):
        return measured_quality(
            side, baseline, spec.quality, spec.tokenizer_dir, name=spec.name, **options  # type: ignore[arg-type]
        )  # fmt: skip


def _layers(spec: CompareSpec, progress: ProgressSink | None) -> LayersResult:
    options = {"trust_remote_code": spec.trust_remote_code, "progress": progress}
    with (
        open_side(spec.engine_dir, gpu_weights_percent=spec.gpu_weights_percent, **options) as side,  # type: ignore[arg-type]
        baseline_of(side, spec.quality.baseline, spec.hf_model_dir, hf_dtype=spec.hf_dtype, **options) as baseline,  # type: ignore[arg-type]
    ):
        result = compare_layers(
            side.runner,
            baseline.runner,
            _prompts(spec, side.hf_dir or baseline.hf_dir),
            tolerance=spec.tolerance,
            bisect=spec.bisect,
            capture_bytes=spec.capture_mib << 20,
            model=side.label,
            name=spec.name,
            progress=progress,
        )
    return keep(result)


def _prompts(spec: CompareSpec, known: Path | None) -> list[list[int]]:
    """Return the prompts' token ids, in the tokens of the folder chosen or of the model that is known."""
    from ..intake.tokenizer import load_tokenizer
    from ..runtime.text import encode_prompts

    path = Path(spec.input_file).expanduser() if spec.input_file is not None else None
    if path is not None and path.suffix in (".csv", ".npy"):
        return token_ids_from_file(path)
    folder = spec.tokenizer_dir or spec.hf_model_dir or known
    if folder is None:
        raise RequestError(
            "No tokenizer is known here.", where="tokenizer_dir", remedy="Give the model's folder with --tokenizer_dir."
        )
    tokenizer = load_tokenizer(model_dir_from(str(folder)), trust_remote_code=spec.trust_remote_code)
    prompts = list(spec.input_text) if path is None else prompts_from_file(path)
    return encode_prompts(tokenizer, prompts, add_special_tokens=spec.add_special_tokens)
