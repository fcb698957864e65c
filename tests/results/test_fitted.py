"""Tables on a screen: nothing is lost, nothing is wider than the screen, and numbers stay whole."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbench_lab.results.fitted import fitted_lines, fitted_text, fitted_to
from trtbench_lab.results.render import Table, plain_document, plain_table

LAYERS = Table(
    ("layer", "module", "type", "time (ms)", "share (%)", "what it means"),
    [
        (f"layers.{i}.attention.qkv/MatMul", f"transformer.layers.{i}.attention", "MatMul", 0.25 * i, 12.5, text)
        for i, text in enumerate(("It waits for memory, not for arithmetic.", "It is as quick as it can be.", ""))
    ],
    title="Slowest layers of a decode step of a model whose name is long enough to need two lines",
    note="Times include what the profiler itself costs, about one to three microseconds a node of the network.",
)


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_a_table_fits_the_screen_and_keeps_every_word(columns):
    with fitted_to(columns):
        text = plain_table(LAYERS)
    assert max(len(line) for line in text.splitlines()) <= columns
    for word in ("0.2500", "12.50", "arithmetic.", "MatMul", "microseconds"):
        assert word in text


def test_outside_of_a_screen_text_has_one_form():
    natural = plain_table(LAYERS)
    with fitted_to(60):
        assert plain_table(LAYERS) != natural
        with fitted_to(None):
            assert plain_table(LAYERS) == natural
    assert plain_table(LAYERS) == natural


def test_a_narrow_table_is_the_same_on_a_screen():
    table = Table(("name", "value (ms)"), [("short", 1.5), ("a longer one", None)], title="Title", note="Note.")
    with fitted_to(80):
        fitted = plain_table(table)
    assert fitted == plain_table(table)


def test_columns_without_room_stand_below_after_the_columns_that_tell_rows_apart():
    rows = [["8", "60", f"{n},000,000", "4,000,000", "5,000,000"] for n in (1, 2)]
    headings = ["batch", "input", "first", "second", "third"]
    assert fitted_lines(headings, rows, [True] * 5, 40) == [
        "batch  input      first     second",
        "─────  ─────  ─────────  ─────────",
        "    8     60  1,000,000  4,000,000",
        "    8     60  2,000,000  4,000,000",
        "",
        "batch  input      first      third",
        "─────  ─────  ─────────  ─────────",
        "    8     60  1,000,000  5,000,000",
        "    8     60  2,000,000  5,000,000",
    ]


def test_long_names_break_after_their_separators():
    rows = [["transformer.layers.2.mlp.fc/MatMul", "1.5"]]
    lines = fitted_lines(["layer", "ms"], rows, [False, True], 27)
    assert lines[2:] == ["transformer.layers.2.   1.5", "mlp.fc/MatMul"]


def test_titles_and_notes_break_between_words():
    with fitted_to(40):
        text = plain_document("A title of more than forty characters, it is", "id 1", [])
    assert text.splitlines() == ["A title of more than forty characters,", "it is", "id 1"]
    assert fitted_text("a\n\nb", 40) == "a\n\nb"


WORDS = st.text("abc./-_ ", max_size=60)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS, st.integers(0, 10**9)), min_size=1, max_size=5), st.integers(50, 160))
def test_every_character_of_every_cell_is_there(rows, columns):
    with fitted_to(columns):
        text = plain_table(Table(("one", "two", "number"), rows))
    assert all(len(line) <= columns for line in text.splitlines())
    shown = sorted("".join("".join(line.split()) for line in text.splitlines()[2:]))
    wanted = sorted("".join("".join(f"{a}{b}{c:,}".split()) for a, b, c in rows))
    assert shown == wanted
