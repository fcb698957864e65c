"""Encoding and decoding undo each other, for whatever is stored."""

from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbench_lab.errors import ResultsError
from trtbench_lab.results.codec import decode, encode


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    colour: Colour
    where: PurePosixPath
    number: int | float
    either: int | str | None


@dataclass(frozen=True)
class Outer:
    inners: tuple[Inner, ...]
    table: dict[str, list[float]]
    anything: Any
    flag: bool


floats = st.floats(allow_nan=False)
inners = st.builds(
    Inner,
    colour=st.sampled_from(Colour),
    where=st.text("ab/", min_size=1).map(PurePosixPath),
    number=st.integers() | floats,
    either=st.none() | st.integers() | st.text(),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text().filter(lambda key: key != "$float"), children),
    max_leaves=10,
)
outers = st.builds(
    Outer,
    inners=st.lists(inners, max_size=3).map(tuple),
    table=st.dictionaries(st.text().filter(lambda key: key != "$float"), st.lists(floats, max_size=4), max_size=3),
    anything=plain,
    flag=st.booleans(),
)


@given(outers)
def test_decode_undoes_encode_through_strict_json(outer: Outer):
    text = json.dumps(encode(outer), allow_nan=False)
    back = decode(Outer, json.loads(text))
    assert back == outer
    assert [type(inner.number) for inner in back.inners] == [type(inner.number) for inner in outer.inners]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True)))
def test_every_float_survives(values: list[float]):
    back = decode(list[float], json.loads(json.dumps(encode(values), allow_nan=False)))
    assert len(back) == len(values)
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(values, back, strict=True))


@pytest.mark.parametrize(
    ("expected", "data"),
    [
        (Colour, "green"),
        (int, "1"),
        (float, "1.0"),
        (float, True),
        (bool, 1),
        (str, None),
        (int | str, 1.5),
        (list[int], "abc"),
        (dict[str, int], [1]),
        (tuple[int, int], [1, 2, 3]),
        (Inner, {"colour": "red"}),
        (Inner, 3),
    ],
)
def test_another_type_is_refused(expected: Any, data: Any):
    with pytest.raises(ResultsError):
        decode(expected, data, where="here")
