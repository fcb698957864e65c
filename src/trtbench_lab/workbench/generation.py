"""Generate text with an engine."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RequestError, SpecError
from ..progress import ProgressSink, phase
from ..results.steps import RunStep
from ..runtime import ModelRunner
from ..runtime.streaming import TextStream
from ..runtime.text import decode_outputs, end_and_pad_id, new_tokens_of, words_from_text
from ..runtime.timing import GenerationTiming
from ..specs.requests import RunSpec
from ..storage import staged_file
from .inputs import inputs_for
from .keeping import keep
from .loading import open_engine


def run(
    spec: RunSpec, *, progress: ProgressSink | None = None, on_text: Callable[[str], None] | None = None
) -> RunStep:
    """Generate for the prompts of `spec` and return texts, tokens and times.

    Parameters
    ----------
    on_text
        Called with each new piece of the first prompt's text as it comes, when ``spec.streaming`` is set.
    """
    if spec.prompts is not None:
        from .prompt_file import run_prompt_file

        return run_prompt_file(spec, progress=progress, on_text=on_text)
    if spec.output_jsonl is not None:
        raise SpecError(
            "output_jsonl is for the requests of a file.", where="output_jsonl", remedy="Give them with --prompts."
        )
    engine = open_engine(spec.engine_dir, spec.gpu_weights_percent)
    with ModelRunner.from_engine(engine) as runner:
        inputs = inputs_for(spec, engine)
        tokenizer, token_ids = inputs.tokenizer, inputs.token_ids
        options = _options(spec, tokenizer)
        with phase("generate", progress, total=spec.sampling.max_new_tokens, unit="token") as current:
            if spec.streaming:
                outputs = _streamed(runner, token_ids, options, tokenizer, spec, on_text, current.advance)
            else:
                outputs = runner.generate(token_ids, **options)
        _write_outputs(spec, outputs)
        rows, beams = outputs["sequence_lengths"].shape
        output_ids = [[new_tokens_of(outputs, row, beam) for beam in range(beams)] for row in range(rows)]
        if tokenizer is not None:
            texts = decode_outputs(tokenizer, outputs)
        else:
            texts = [[" ".join(map(str, ids)) for ids in of_row] for of_row in output_ids]
        timing: GenerationTiming = outputs["timing"]
        return keep(
            RunStep(
                backend=runner.backend,
                model=engine.name,
                name=spec.name,
                spec=spec.to_dict(),
                engine_dir=str(engine.directory),
                prompts=inputs.texts,
                texts=texts,
                output_ids=output_ids,
                input_lengths=[int(length) for length in outputs["input_lengths"]],
                ttft_ms=timing.ttft_ms,
                latency_ms=timing.latency_ms or 0.0,
                notes=[*engine.emulations, *outputs["notes"]],
                samples={"token_times_ms": [(t - timing.started_ns) / 1e6 for t in timing.token_ns]},
            )
        )


def _options(spec: RunSpec, tokenizer: Any) -> dict[str, Any]:
    """Return the keywords of `ModelRunner.generate`."""
    options: dict[str, Any] = {"sampling_config": spec.sampling, "truncation": spec.truncation}
    if tokenizer is not None:
        end_id, pad_id = end_and_pad_id(tokenizer)
        if spec.sampling.end_id is None:
            options["end_id"] = end_id
        if spec.sampling.pad_id is None:
            options["pad_id"] = pad_id
    for name in ("stop_words", "bad_words"):
        words = getattr(spec, name)
        if words:
            if tokenizer is None:
                raise RequestError(
                    f"{name} are texts, and there is no tokenizer.", where=name, remedy="Give --tokenizer_dir."
                )
            options[name] = words_from_text(tokenizer, words)
    if spec.output_logits_npy is not None:
        options["output_logits"] = True
    return options


def _streamed(
    runner: ModelRunner,
    token_ids: list[list[int]],
    options: dict[str, Any],
    tokenizer: Any,
    spec: RunSpec,
    on_text: Callable[[str], None] | None,
    advance: Callable[[], None],
) -> Any:
    """Generate step by step, handing on the first prompt's text that will not change any more."""
    stream = TextStream(tokenizer) if tokenizer is not None and on_text is not None else None
    outputs: Any = None
    handed, pending = 0, ""
    for step, outputs in enumerate(runner.generate(token_ids, streaming=True, **options), start=1):
        advance()
        if stream is None or on_text is None:
            continue
        tokens = new_tokens_of(outputs, 0)
        pending += "".join(stream.put(token) for token in tokens[handed:])
        handed = len(tokens)
        if pending and step % spec.streaming_interval == 0:
            on_text(pending)
            pending = ""
    if stream is not None and on_text is not None and (pending := pending + stream.finish()):
        on_text(pending)
    return outputs


def _write_outputs(spec: RunSpec, outputs: Any) -> None:
    """Write the files that were asked for."""
    if spec.output_csv is not None:
        with staged_file(Path(spec.output_csv).expanduser()) as staging, open(staging, "w", newline="") as handle:
            rows, beams = outputs["sequence_lengths"].shape
            csv.writer(handle).writerows(new_tokens_of(outputs, r, b) for r in range(rows) for b in range(beams))
    arrays = {spec.output_npy: "output_ids", spec.output_logits_npy: "generation_logits"}
    for target, key in arrays.items():
        if target is not None:
            import numpy as np

            with staged_file(Path(target).expanduser()) as staging, open(staging, "wb") as handle:
                np.save(handle, outputs[key].cpu().numpy())
