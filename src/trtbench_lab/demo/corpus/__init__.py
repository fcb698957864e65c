"""A news corpus in the cnn_dailymail schema, written by a seeded generator with held-out names.

Every person, place and organisation is coined from syllables, and each coined word belongs to exactly one split, so a
model can name the people of a held-out article only by copying them.
"""

from __future__ import annotations

from .generator import make_prose, make_record, make_records
from .names import split_of_word
from .records import Record, entities, entity_accuracy, read_records, write_records

SPLITS: tuple[str, ...] = ("train", "validation", "test")

__all__ = [
    "SPLITS",
    "Record",
    "entities",
    "entity_accuracy",
    "make_prose",
    "make_record",
    "make_records",
    "read_records",
    "split_of_word",
    "write_records",
]
