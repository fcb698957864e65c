"""Files of requests: one JSON object a line, in the names that several tools use, or what prepare_dataset.py writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import RequestError, TrtbenchError
from .params import sampling_of

_TEXT = ("prompt", "text", "input_text", "input")
# trtllm-bench calls the token ids of a prompt "logits".
_IDS = ("input_ids", "prompt_token_ids", "token_ids", "logits")
_LENGTH = ("output_tokens", "output_len", "output_length")
_NAME = ("task_id", "request_id", "id", "custom_id")
# Known to other tools, and without meaning here.
_PASSED_OVER = ("input_len", "input_length", "delay", "arrival_time", "lora_name")
_MOST_SHOWN = 8


@dataclass(frozen=True)
class FileRequest:
    """One request of a file.

    Attributes
    ----------
    line
        Its line, from 1 (its place in the list, where the file is one JSON document).
    text, token_ids
        The prompt, as one of the two.
    sampling
        Sampling fields of its own, by the names used there.
    name
        What the file calls it, or None.
    """

    line: int
    text: str | None
    token_ids: list[int] | None
    sampling: dict[str, Any] = field(default_factory=dict)
    name: Any = None

    @property
    def prompt(self) -> str | list[int]:
        """Text or token ids."""
        return self.text if self.text is not None else list(self.token_ids or ())


def read_requests(path: Path, *, limit: int | None = None) -> list[FileRequest]:
    """Return the requests of a file.

    Parameters
    ----------
    path
        ``.jsonl``: an object a line with ``prompt`` (text) or ``input_ids`` (token ids), optionally ``output_tokens``
        and sampling fields, at its top level or under ``sampling_params``; or one JSON document with ``samples``, as
        TensorRT-LLM's prepare_dataset.py writes it.
    limit
        Most requests to read.

    Raises
    ------
    RequestError
        When the file cannot be read or holds no request; or for its faulty lines, all of them named by number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"The file of requests cannot be read: {error}.", where=str(path), remedy="Give a UTF-8 file of JSON lines."
        ) from error
    requests: list[FileRequest] = []
    faults: list[str] = []
    for line, content in _objects(text, path):
        if limit is not None and len(requests) == limit:
            break
        try:
            requests.append(_request(line, content))
        except TrtbenchError as error:
            faults.append(f"line {line}: {error.what}" + (f" {error.remedy}" if error.remedy else ""))
    if faults:
        shown = "\n  ".join(faults[:_MOST_SHOWN])
        more = f"\n  and {len(faults) - _MOST_SHOWN} more lines" if len(faults) > _MOST_SHOWN else ""
        raise RequestError(
            f"{len(faults)} of the file's lines are no requests:\n  {shown}{more}",
            where=str(path),
            remedy='Write an object a line, for example {"prompt": "Once upon a time", "max_tokens": 32}.',
        )
    if not requests:
        raise RequestError("The file holds no request.", where=str(path), remedy="Write one JSON object a line.")
    return requests


def _objects(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    if text.lstrip().startswith("{") and '"samples"' in text:
        try:
            document = json.loads(text)
        except json.JSONDecodeError:
            document = None  # JSON lines of which one speaks of samples
        if isinstance(document, dict) and isinstance(document.get("samples"), list):
            yield from enumerate(document["samples"], start=1)
            return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                yield number, error


def _request(line: int, content: Any) -> FileRequest:
    if isinstance(content, json.JSONDecodeError):
        raise RequestError(f"it is no JSON ({content.msg} at column {content.colno}).")
    if isinstance(content, str):
        content = {"prompt": content}
    if not isinstance(content, Mapping):
        raise RequestError(f"it is a {type(content).__name__}, not an object.")
    fields = dict(content)
    texts = {name: fields.pop(name) for name in _TEXT if name in fields}
    ids = {name: fields.pop(name) for name in _IDS if name in fields}
    # "prompt" of token ids, as OpenAI's completions take it.
    ids |= {name: texts.pop(name) for name in list(texts) if isinstance(texts[name], list)}
    given = [*texts, *ids]
    if len(given) != 1:
        found = f"it gives {' and '.join(given)}" if given else "it has no prompt"
        raise RequestError(f"{found}; one of prompt (text) and input_ids (token ids) is needed.")
    name = next((fields.pop(key) for key in _NAME if key in fields), None)
    for key in _PASSED_OVER:
        fields.pop(key, None)
    sampling = _sampling(fields)
    text = next(iter(texts.values()), None)
    token_ids = next(iter(ids.values()), None)
    if texts and (not isinstance(text, str) or not text):
        raise RequestError(f"its prompt is {text!r}, not text with at least one character.")
    if ids and not _are_ids(token_ids):
        raise RequestError(f"its {next(iter(ids))} is no list of token ids.")
    return FileRequest(line, text, token_ids, sampling, name)


def _sampling(fields: dict[str, Any]) -> dict[str, Any]:
    nested = fields.pop("sampling_params", None)
    if nested is not None and not isinstance(nested, Mapping):
        raise RequestError(f"its sampling_params is {nested!r}, not an object.")
    for name in _LENGTH:
        if name in fields:
            fields.setdefault("max_new_tokens", fields.pop(name))
    sampling = {**fields, **(nested or {})}
    # Unknown names are found now, by line, and not when the request is sent. Words as text need a tokenizer: later.
    words = ("stop", "bad", "stop_words", "bad_words")
    sampling_of({name: value for name, value in sampling.items() if name not in words})
    return sampling


def _are_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in value)
    )
