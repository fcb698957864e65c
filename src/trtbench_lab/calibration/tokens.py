"""Text for calibration: the same inputs give the same tokens, and the checkpoint's report says which they were."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import QuantizationError

DEFAULT_SIZE = 128
DEFAULT_LENGTH = 512


@dataclass(frozen=True)
class CalibrationTokens:
    """What a model is calibrated on.

    Attributes
    ----------
    token_ids
        (size, length) int64, without padding.
    source
        Name of the text.
    seed
        Of the choice among the texts.
    digest
        ``"sha256:<hex>"`` of the token ids.
    """

    token_ids: torch.Tensor
    source: str
    seed: int
    digest: str

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return self.token_ids.numel()

    def to_dict(self) -> dict[str, Any]:
        """Return what a report keeps."""
        size, length = self.token_ids.shape
        return {"source": self.source, "size": size, "length": length, "seed": self.seed, "digest": self.digest}


def calibration_tokens(
    texts: Sequence[str] | Sequence[Sequence[int]],
    tokenizer: Any | None = None,
    *,
    size: int = DEFAULT_SIZE,
    length: int = DEFAULT_LENGTH,
    seed: int = 0,
    source: str = "texts",
) -> CalibrationTokens:
    """Cut texts, in an order drawn from `seed`, into `size` rows of `length` tokens without padding.

    Short texts follow each other in a row; the end of the last row that fits is cut off. A text that gives fewer rows
    than asked for gives those it has.

    Parameters
    ----------
    texts
        Strings, or token ids.
    tokenizer
        Needed for strings; called with ``add_special_tokens=False``.

    Raises
    ------
    QuantizationError
        When there is not one row of text.
    """
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    ids: list[int] = []
    for number in order:
        if len(ids) >= size * length:
            break
        text = texts[number]
        if isinstance(text, str):
            if tokenizer is None:
                raise QuantizationError(
                    "Texts need a tokenizer.", where="tokenizer", remedy="Give the model's tokenizer, or token ids."
                )
            ids.extend(tokenizer(text, add_special_tokens=False)["input_ids"])
        else:
            ids.extend(int(token) for token in text)
    rows = min(size, len(ids) // length)
    if rows < 1:
        raise QuantizationError(
            f"The calibration text has {len(ids)} tokens, and one row needs {length}.",
            where=source,
            remedy="Give more text, or a smaller calib_max_seq_length.",
        )
    token_ids = torch.tensor(ids[: rows * length], dtype=torch.int64).view(rows, length)
    digest = hashlib.sha256(token_ids.numpy().astype("<i8").tobytes()).hexdigest()
    return CalibrationTokens(token_ids, source, seed, f"sha256:{digest}")
