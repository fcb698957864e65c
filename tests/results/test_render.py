"""Tables as text and HTML."""

from __future__ import annotations

import pytest

from trtbench_lab.results.render import Table, format_value, html_table, plain_table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"),
        (0, "0"),
        (0.0, "0"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (39.4712, "39.47"),
        (506.69, "506.7"),
        (12345.6, "12,346"),
        (0.00123456, "0.001235"),
        (9.9999e-7, "1.000e-06"),
        (-2.5, "-2.500"),
        (float("nan"), "nan"),
        ([1, None], "1, n/a"),
        ("text", "text"),
    ],
)
def test_values_have_four_significant_digits(value, text):
    assert format_value(value) == text


def test_plain_tables_align_numbers_on_the_right():
    table = Table(("name", "value (ms)"), [("short", 1.5), ("a longer one", None)], title="Title", note="Note.")
    assert plain_table(table).splitlines() == [
        "Title",
        "name          value (ms)",
        "────────────  ──────────",
        "short              1.500",
        "a longer one         n/a",
        "Note.",
    ]


def test_html_tables_escape_every_part():
    table = Table(("<a>",), [("<b>",), ('"&',)], title="<c>", note="<d>")
    page = html_table(table)
    for raw in ("<a>", "<b>", "<c>", "<d>"):
        assert raw not in page
    assert "&quot;&amp;" in page


def test_an_empty_table_is_a_header():
    assert plain_table(Table(("a", "b"), [])).splitlines() == ["a  b", "─  ─"]
