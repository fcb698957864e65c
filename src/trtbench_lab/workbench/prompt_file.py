"""Run a file of requests through a running batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RequestError, SpecError, TrtbenchError
from ..progress import ProgressSink, phase
from ..results.steps import RunStep
from ..runtime import LLM, EngineLimits
from ..runtime.inflight.request_file import FileRequest, read_requests
from ..runtime.llm import Generation, RequestOutput
from ..runtime.text import encode_prompts
from ..specs.requests import RunSpec
from ..storage import staged_file
from .keeping import keep
from .loading import open_engine, tokenizer_for


def run_prompt_file(
    spec: RunSpec, *, progress: ProgressSink | None = None, on_text: Callable[[str], None] | None = None
) -> RunStep:
    """Send every request of ``spec.prompts`` to a running batch, wait for all, and return texts, tokens and times.

    A line's own sampling goes over that of the spec. Lines that are no requests are found before the engine is loaded;
    a request that the engine cannot take is told in its own result, and the others run.
    """
    for name in ("output_csv", "output_npy", "output_logits_npy"):
        if getattr(spec, name) is not None:
            raise SpecError(
                f"{name} holds one batch as a table, and requests of a file differ in length.",
                where=name,
                remedy="Use --output_jsonl with --prompts.",
            )
    path = Path(spec.prompts or "").expanduser()
    requests = read_requests(path)
    engine = open_engine(spec.engine_dir, spec.gpu_weights_percent)
    needs_text = any(request.text is not None for request in requests)
    tokenizer = tokenizer_for(engine, spec.tokenizer_dir, required=needs_text)
    with LLM(engine, tokenizer=tokenizer if tokenizer is not None else False, config=spec.inflight) as llm:
        outcomes: list[Generation | TrtbenchError] = []
        for number, request in enumerate(requests):
            streams = spec.streaming and number == 0 and on_text is not None
            try:
                ids = request.token_ids if request.text is None else _encoded(spec, request.text, tokenizer)
                generation = llm.generate_async(ids, _params(spec, request), streaming=streams)
                generation.prompt = request.text
            except TrtbenchError as error:
                outcomes.append(error)
            else:
                outcomes.append(generation)
        if all(isinstance(outcome, TrtbenchError) for outcome in outcomes):
            raise RequestError(
                f"None of the {len(requests)} requests can run. Line {requests[0].line}: {outcomes[0]}", where=str(path)
            )
        with phase("generate", progress, total=len(requests), unit="request") as current:
            if spec.streaming and on_text is not None and isinstance(outcomes[0], Generation):
                for output in outcomes[0]:
                    on_text(output.text_diff)
            results: list[RequestOutput | TrtbenchError] = []
            for outcome in outcomes:
                results.append(_waited(outcome))
                current.advance()
        step = _step(spec, llm, requests, results)
    if spec.output_jsonl is not None:
        _write(Path(spec.output_jsonl).expanduser(), requests, results)
    return keep(step)


def _params(spec: RunSpec, request: FileRequest) -> dict[str, Any]:
    """The spec's sampling with the line's own over it, as one table."""
    config = spec.sampling
    given = {name: getattr(config, name) for name in config.field_names() if config.given(name)}
    given |= {name: list(getattr(spec, name)) for name in ("stop_words", "bad_words") if getattr(spec, name)}
    own = request.sampling
    said_again = {
        "max_new_tokens": ("max_tokens", "max_output_len", "max_completion_tokens"),
        "min_length": ("min_tokens", "min_new_tokens"),
        "random_seed": ("seed",),
        "stop_words": ("stop", "stop_words_list"),
        "bad_words": ("bad", "bad_words_list"),
        "end_id": ("stop_token_ids", "eos_token_id", "ignore_eos"),
        "output_log_probs": ("logprobs", "return_log_probs"),
        "num_beams": ("beam_width",),
    }
    for name, others in said_again.items():
        if any(other in own for other in others):
            given.pop(name, None)
    return {**given, "truncation": spec.truncation, **own}


def _encoded(spec: RunSpec, text: str, tokenizer: Any) -> list[int]:
    (ids,) = encode_prompts(tokenizer, [text], add_special_tokens=spec.add_special_tokens)
    if spec.max_input_length is not None:
        (ids,) = EngineLimits(vocab_size=0, max_input_len=spec.max_input_length).fitted([ids], spec.truncation, 0)
    return ids


def _waited(outcome: Generation | TrtbenchError) -> RequestOutput | TrtbenchError:
    if isinstance(outcome, TrtbenchError):
        return outcome
    try:
        return outcome.result()
    except TrtbenchError as error:
        return error


def _step(
    spec: RunSpec, llm: LLM, requests: list[FileRequest], results: list[RequestOutput | TrtbenchError]
) -> RunStep:
    done = [result for result in results if isinstance(result, RequestOutput)]
    sent = min(result.timing.sent_ns for result in done)
    last = max(result.timing.token_ns[-1] for result in done)
    notes = [
        f"line {request.line}: {result}"
        for request, result in zip(requests, results, strict=True)
        if isinstance(result, TrtbenchError)
    ]
    notes += llm.engine.emulations
    notes += list(dict.fromkeys(note for result in done for note in result.notes))
    notes.append(f"Requests shared a running batch. {llm.pool}")
    return RunStep(
        backend=llm.backend,
        model=llm.engine.name,
        name=spec.name,
        spec=spec.to_dict(),
        engine_dir=str(llm.engine.directory),
        prompts=[result.prompt for result in done],
        texts=[[result.text] for result in done],
        output_ids=[[result.outputs[0].token_ids] for result in done],
        input_lengths=[len(result.prompt_token_ids) for result in done],
        ttft_ms=min((result.timing.token_ns[0] - sent) / 1e6 for result in done),
        latency_ms=(last - sent) / 1e6,
        notes=notes,
        samples={
            "request_ttft_ms": [result.timing.ttft_ms for result in done],
            "request_latency_ms": [result.timing.latency_ms for result in done],
        },
    )


def _write(path: Path, requests: list[FileRequest], results: list[RequestOutput | TrtbenchError]) -> None:
    """Write one object a request, in the file's order."""
    with staged_file(path) as staging, open(staging, "w", encoding="utf-8") as handle:
        for request, result in zip(requests, results, strict=True):
            row: dict[str, Any] = {"line": request.line}
            if request.name is not None:
                row["id"] = request.name
            if isinstance(result, TrtbenchError):
                row["error"] = str(result)
            else:
                completion = result.outputs[0]
                row |= {
                    "prompt": result.prompt,
                    "text": completion.text,
                    "token_ids": completion.token_ids,
                    "finish_reason": completion.finish_reason,
                    "input_length": len(result.prompt_token_ids),
                    "ttft_ms": result.timing.ttft_ms,
                    "latency_ms": result.timing.latency_ms,
                }
                if completion.log_probs:
                    row["log_probs"] = completion.log_probs
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
