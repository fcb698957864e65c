"""The training set: stories and prose as token rows, generated and packed by worker processes.

A row holds whole texts one after another and starts at a text's start, as every prompt does. Later texts of a row train
the later positions, so that prompts of up to 1,024 tokens meet trained position embeddings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from trtbench_lab.demo.corpus import make_prose, make_record

from .tokenizer import END_OF_TEXT, MAX_POSITIONS, PROMPT_ENDING

PADDING, ARTICLE, SUMMARY, PROSE = range(4)
"""What a token belongs to; the loss weighs these apart."""

CHUNK_RECORDS = 2000
PROSE_EVERY = 3  # one piece of prose for three articles: about 1 token in 9
_OPEN_ROWS = 48


@dataclass(frozen=True)
class PackedRows:
    """Token ids (rows, 1024) as uint16, and of the same shape the part that each token belongs to as uint8."""

    tokens: np.ndarray
    parts: np.ndarray


def build_rows(tokenizer_file: Path, *, split: str, num_records: int, seed: int, workers: int) -> PackedRows:
    """Generate `num_records` stories (and a third as many pieces of prose) and pack them into rows."""
    starts = range(0, num_records, CHUNK_RECORDS)
    counts = [min(CHUNK_RECORDS, num_records - start) for start in starts]
    jobs = (starts, counts, repeat(split), repeat(seed), repeat(str(tokenizer_file)))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            chunks = list(pool.map(_pack_chunk, *jobs))
    else:
        chunks = list(map(_pack_chunk, *jobs))
    return PackedRows(np.concatenate([tokens for tokens, _ in chunks]), np.concatenate([parts for _, parts in chunks]))


def _pack_chunk(start: int, count: int, split: str, seed: int, tokenizer_file: str) -> tuple[np.ndarray, np.ndarray]:
    tokenizer = Tokenizer.from_file(tokenizer_file)
    end = tokenizer.token_to_id(END_OF_TEXT)
    rows = list(_pack(_texts(tokenizer, end, range(start, start + count), split, seed)))
    tokens = np.full((len(rows), MAX_POSITIONS), end, dtype=np.uint16)
    parts = np.full((len(rows), MAX_POSITIONS), PADDING, dtype=np.uint8)
    for index, (row_tokens, row_parts) in enumerate(rows):
        tokens[index, : len(row_tokens)] = row_tokens
        parts[index, : len(row_parts)] = row_parts
    return tokens, parts


def _texts(
    tokenizer: Tokenizer, end: int, indices: range, split: str, seed: int
) -> Iterator[tuple[list[int], list[int]]]:
    for index in indices:
        record = make_record(split, index, seed=seed)
        # Prompt and summary are tokenized apart: at inference the prompt ends before the summary's first token, so a
        # merge across that border would never be seen.
        prompt = tokenizer.encode(record["article"] + PROMPT_ENDING).ids
        summary = [*tokenizer.encode(record["highlights"]).ids, end]
        yield prompt + summary, [ARTICLE] * len(prompt) + [SUMMARY] * len(summary)
        if index % PROSE_EVERY == 0:
            prose = [*tokenizer.encode(make_prose(split, index, seed=seed)).ids, end]
            yield prose, [PROSE] * len(prose)


def _pack(texts: Iterator[tuple[list[int], list[int]]]) -> Iterator[tuple[list[int], list[int]]]:
    """Put each text into the open row that it fills best."""
    rows: list[tuple[list[int], list[int]]] = []
    for tokens, parts in texts:
        fitting = [row for row in rows if len(row[0]) + len(tokens) <= MAX_POSITIONS]
        if fitting:
            row = max(fitting, key=lambda row: len(row[0]))
            row[0].extend(tokens)
            row[1].extend(parts)
            continue
        rows.append((list(tokens), list(parts)))
        if len(rows) > _OPEN_ROWS:
            fullest = max(range(len(rows)), key=lambda index: len(rows[index][0]))
            yield rows.pop(fullest)
    yield from rows
