"""Prompts of a request: texts or token ids, from the command line or from a file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine import Engine
from ..errors import RequestError
from ..runtime.text import encode_prompts
from ..specs.requests import CompareSpec, RunSpec
from .loading import tokenizer_for


@dataclass(frozen=True)
class Inputs:
    """What goes into a generation.

    Attributes
    ----------
    tokenizer
        None where token ids were given and no tokenizer is known.
    texts
        One a prompt; None where only its tokens are known.
    token_ids
        One list a prompt.
    """

    tokenizer: Any
    texts: list[str | None]
    token_ids: list[list[int]]


def inputs_for(spec: RunSpec | CompareSpec, engine: Engine) -> Inputs:
    """Return the prompts of a request, encoded, each checked against ``max_input_length`` where that is given."""
    path = Path(spec.input_file).expanduser() if spec.input_file is not None else None
    texts: list[str | None]
    if path is not None and path.suffix in (".csv", ".npy"):
        token_ids = token_ids_from_file(path)
        tokenizer = tokenizer_for(engine, spec.tokenizer_dir, required=False)
        texts = [tokenizer.decode(ids) if tokenizer is not None else None for ids in token_ids]
    else:
        prompts = list(spec.input_text) if path is None else prompts_from_file(path)
        tokenizer = tokenizer_for(engine, spec.tokenizer_dir)
        token_ids = encode_prompts(tokenizer, prompts, add_special_tokens=spec.add_special_tokens)
        texts = list(prompts)
    if spec.max_input_length is not None:
        token_ids = [_fitted(ids, spec.max_input_length, spec.truncation, row) for row, ids in enumerate(token_ids)]
    return Inputs(tokenizer, texts, token_ids)


def prompts_from_file(path: Path) -> list[str]:
    """Return the prompts of a text file, one a line; blank lines are passed over."""
    if path.suffix in (".json", ".jsonl"):
        raise RequestError(
            f"A {path.suffix} file holds objects, and the lines of input_file are prompts as they stand.",
            where=str(path),
            remedy="Give requests to a running batch with trtbench run --prompts FILE, or a .txt file here.",
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise RequestError(
            f"The file of prompts cannot be read: {reason or error}.",
            where=str(path),
            remedy="Give a UTF-8 text file, one prompt a line.",
        ) from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise RequestError("The file holds no prompt.", where=str(path), remedy="Write one prompt a line.")
    return prompts


def token_ids_from_file(path: Path) -> list[list[int]]:
    """Return token ids from a .csv (one prompt a line) or .npy (one prompt a row; negative values are padding)."""
    try:
        if path.suffix == ".csv":
            with open(path, newline="", encoding="utf-8") as handle:
                rows = [[int(cell) for cell in row if cell.strip()] for row in csv.reader(handle)]
        else:
            import numpy as np

            table = np.atleast_2d(np.load(path, allow_pickle=False))
            if not np.issubdtype(table.dtype, np.integer):
                raise ValueError(f"its values are {table.dtype}, not integers")
            rows = [[int(token) for token in row if token >= 0] for row in table]
    except (OSError, ValueError) as error:
        raise RequestError(
            f"The file of token ids cannot be read: {error}.",
            where=str(path),
            remedy="Give integers, one prompt a line or row.",
        ) from error
    rows = [row for row in rows if row]
    if not rows:
        raise RequestError("The file holds no token ids.", where=str(path), remedy="Write one prompt a line.")
    return rows


def _fitted(ids: list[int], longest: int, truncation: str, row: int) -> list[int]:
    if len(ids) <= longest:
        return ids
    if truncation == "error":
        raise RequestError(
            f"The prompt has {len(ids)} tokens and max_input_length is {longest}.",
            where=f"prompts[{row}]",
            remedy="Shorten it, raise --max_input_length, or cut it with --truncation left (or right).",
        )
    return ids[-longest:] if truncation == "left" else ids[:longest]
