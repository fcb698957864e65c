"""Calibration tokens of a model folder: its own tokenizer over texts that somebody gives, or the demo corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..specs import CalibrationConfig
from .tokens import CalibrationTokens, calibration_tokens

if TYPE_CHECKING:
    from ..checkpoint.source import TensorSource


def tokens_for(
    source: TensorSource,
    texts: Sequence[str] | None,
    asked: CalibrationConfig,
    *,
    trust_remote_code: bool = False,
) -> CalibrationTokens:
    """Return the tokens to calibrate `source` on, in rows no longer than the model's positions.

    Parameters
    ----------
    source
        An opened Hugging Face folder, with its tokenizer.
    texts
        The texts; None takes the demo corpus' validation split.
    asked
        How many rows, how long, which seed; `calib_dataset` is the name that is recorded.
    trust_remote_code
        Let the tokenizer run code from the folder.

    Raises
    ------
    QuantizationError
        When there is not one row of text.
    IntakeError
        When the folder has no tokenizer.
    """
    from ..intake.tokenizer import load_tokenizer

    name = asked.calib_dataset
    if texts is None:
        texts = demo_texts()
    elif name == CalibrationConfig().calib_dataset:
        name = "texts"
    tokenizer = load_tokenizer(source.directory, trust_remote_code=trust_remote_code)
    limit = int(source.config.get("max_position_embeddings") or source.config.get("n_positions") or 0)
    length = min(asked.calib_max_seq_length, limit) if limit else asked.calib_max_seq_length
    return calibration_tokens(
        texts, tokenizer, size=asked.calib_size, length=length, seed=asked.calib_seed, source=name
    )


def demo_texts(split: str = "validation") -> list[str]:
    """Return one text a record of a shipped split of the demo corpus: the article and its highlights."""
    from ..demo import demo_corpus_path
    from ..demo.corpus import read_records

    return [f"{record['article']}\n{record['highlights']}" for record in read_records(demo_corpus_path(split))]
