"""A magic's line as words, with values from the notebook in their places."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbench_lab.errors import SpecError
from trtbench_lab.magics.words import split_line
from trtbench_lab.specs.flags import flag_table
from trtbench_lab.specs.requests import REQUESTS


class Notebook:
    """The two namespaces that IPython evaluates expressions in."""

    def __init__(self, **variables: Any):
        self.user_ns = variables
        self.user_global_ns = variables


class Engine:
    directory = "/engines/a"


ENGINE = Engine()
NOTEBOOK = Notebook(n=4, name="gpt2 medium", engine=ENGINE, prompts=["a b", "c"], torch=pytest, function=print, s="x")


def words(line: str, verb: str = "run") -> list[Any]:
    return split_line(line, NOTEBOOK, flag_table(REQUESTS[verb]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a 'b c' \"d e\"", ["a", "b c", "d e"]),
        ("--top_k $n", ["--top_k", 4]),
        ("--top_k={n}", ["--top_k", 4]),
        ("--top_k {2 * n + 1}", ["--top_k", 9]),
        ("--top_k={ {'a': 7}['a'] }", ["--top_k", 7]),
        ("out-$n", ["out-4"]),
        ("out-{n}/x", ["out-4/x"]),
        ('"say $name now"', ["say gpt2 medium now"]),
        ("$name", ["gpt2 medium"]),
        ("{engine}", [ENGINE]),
        ("$engine.directory/x", ["/engines/a/x"]),
        ("{prompts}", [["a b", "c"]]),
        ("{missing} $missing", ["{missing}", "$missing"]),
        ("{{n}} $$n", ["{n}", "$n"]),
        ("{", ["{"]),
        ("costs $5", ["costs", "$5"]),
        ("engine_dir=engine", ["--engine_dir", ENGINE]),
        ("--engine_dir=engine", ["--engine_dir", ENGINE]),
        ("engine_dir=$engine", ["--engine_dir", ENGINE]),
        ("top_k=n", ["--top_k", 4]),
        ("input_text=s", ["input_text=x"]),
        ('input_text="s"', ["input_text=s"]),
        ("input_text=prompts", ["--input_text", ["a b", "c"]]),
        ("engine_dir=torch", ["engine_dir=torch"]),
        ("engine_dir=function", ["engine_dir=function"]),
        ("engine_dir=unknown", ["engine_dir=unknown"]),
        ("colour=n", ["colour=n"]),
        ("", []),
    ],
)
def test_line_is_split_as_expected(line: str, expected: list[Any]) -> None:
    assert words(line) == expected


def test_choices_come_before_variables_of_the_same_name() -> None:
    shell = Notebook(torch="a variable", auto=3)
    table = flag_table(REQUESTS["build"])
    assert split_line("backend=torch gemm_plugin=auto", shell, table) == ["backend=torch", "gemm_plugin=auto"]  # type: ignore[arg-type]


def test_whole_specs_are_taken_by_name() -> None:
    from trtbench_lab.specs import BuildConfig

    config = BuildConfig(max_batch_size=2)
    shell = Notebook(cfg=config)
    assert split_line("build_config=cfg", shell, flag_table(REQUESTS["build"])) == ["--build_config", config]  # type: ignore[arg-type]


def test_open_quotation_mark() -> None:
    with pytest.raises(SpecError, match="quotation mark"):
        words("--input_text Soyer's life")


@settings(max_examples=200, deadline=None)
@given(line=st.text(st.sampled_from("ab n{}$'\"=-\\\ue000\ue001 0:!\n"), max_size=30))
def test_no_line_fails_in_an_unplanned_way(line: str) -> None:
    try:
        found = words(line)
    except SpecError:
        return
    assert isinstance(found, list)
