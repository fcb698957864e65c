"""The history browser: what its buttons do is done in the database, and deleting can be taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.reports.samples import bench, comparison, serving
from tests.widgets.messages import press

from trtbench_lab.errors import ResultsError
from trtbench_lab.results import Comparison, ResultsDatabase
from trtbench_widgets.history_browser import HistoryBrowser


@pytest.fixture
def database(tmp_path: Path) -> ResultsDatabase:
    database = ResultsDatabase(tmp_path / "r.sqlite")
    for i, name in enumerate(("slow", "Fast", "middle")):
        made = {"created_at": f"2001-01-0{i + 1}T00:00:00.000Z"}
        database.add(bench(name=name, itl_ms=(4.0, 1.0, 2.0)[i], **made))
    database.add(serving("torch", created_at="2001-01-04T00:00:00.000Z"))
    return database


@pytest.fixture
def browser(database: ResultsDatabase) -> HistoryBrowser:
    return HistoryBrowser(database=database.path)


def names(browser: HistoryBrowser) -> list[str]:
    return [row["name"] or row["kind"] for row in browser.rows]


def test_newest_first_and_sorted_by_any_column(browser: HistoryBrowser):
    assert names(browser) == ["serving", "middle", "Fast", "slow"]
    browser.sort = ["name", "asc"]
    assert names(browser) == ["serving", "Fast", "middle", "slow"]
    browser.sort = ["backend", "desc"]
    assert names(browser)[0] == "serving"


def test_a_metric_is_a_column_of_its_own_and_runs_without_it_stand_last(browser: HistoryBrowser):
    browser.filters = {**browser.filters, "metric": "b1_i16_o8.itl_ms_p50"}
    for direction, expected in (("asc", ["Fast", "middle", "slow"]), ("desc", ["slow", "middle", "Fast"])):
        browser.sort = ["metric", direction]
        assert names(browser) == [*expected, "serving"]
    assert browser.rows[-1]["metric"] == "n/a"
    assert float(browser.rows[0]["metric"]) > 3.5


def test_filters_narrow_and_untick_what_is_no_longer_listed(browser: HistoryBrowser):
    browser.selected = [row["id"] for row in browser.rows]
    browser.filters = {**browser.filters, "kind": "bench"}
    assert len(browser.rows) == len(browser.selected) == 3
    browser.filters = {**browser.filters, "text": "FA"}
    assert names(browser) == ["Fast"]
    assert browser.summary == "1 of 4 runs"
    browser.filters = {**browser.filters, "kind": "", "text": "", "since": "7d"}
    assert names(browser) == []


def test_ids_are_found_by_their_first_letters_and_not_by_chance(tmp_path: Path):
    database = ResultsDatabase(tmp_path / "r.sqlite")
    for id, name in (("00fa00000000", "slow"), ("fa1100000000", "quick"), ("000000000000", "Fabulous")):
        database.add(bench().replace(id=id, name=name))
    browser = HistoryBrowser(database=database.path)
    browser.filters = {**browser.filters, "text": "fa"}
    assert names(browser) == ["Fabulous"]
    browser.filters = {**browser.filters, "text": "fa11"}
    assert names(browser) == ["quick"]


def test_deleting_is_taken_back_with_tags_and_samples(browser: HistoryBrowser, database: ResultsDatabase):
    before = {row.id: database.get(row.id) for row in database.query()}
    browser.selected = [browser.rows[0]["id"], browser.rows[2]["id"]]
    press(browser, "tag", tag="keep me")
    press(browser, "delete")
    assert len(database.query()) == 2
    assert browser.undo_text == "2 runs deleted."
    assert browser.selected == []
    press(browser, "undo")
    assert {row.id: database.get(row.id) for row in database.query()} == before
    assert [row.tags for row in database.query(tag="keep me")] == [("keep me",)] * 2
    assert browser.undo_text == ""


def test_tags_are_put_filtered_by_and_taken_off(browser: HistoryBrowser):
    first = browser.rows[0]["id"]
    browser.selected = [first]
    press(browser, "tag", tag=" baseline ")
    assert browser.choices["tag"] == ["baseline"]
    browser.filters = {**browser.filters, "tag": "baseline"}
    assert [row["id"] for row in browser.rows] == [first]
    press(browser, "untag", tag="baseline", id=first)
    assert browser.rows == []


def test_a_wrong_tag_is_said_in_the_notice(browser: HistoryBrowser):
    browser.selected = [browser.rows[0]["id"]]
    press(browser, "tag", tag="a,b")
    assert "is no tag" in browser.notice
    press(browser, "reload")
    assert browser.notice == ""


def test_opening_shows_tables_and_figures_and_gives_the_result(browser: HistoryBrowser, database: ResultsDatabase):
    wanted = next(row["id"] for row in browser.rows if row["name"] == "Fast")
    press(browser, "open", id=wanted)
    assert browser.opened == database.get(wanted)
    assert browser.detail["id"] == wanted
    assert len(browser.detail["panels"]) >= 3
    assert "Latency" in browser.detail["html"]
    press(browser, "close")
    assert browser.detail == {}


def test_deleting_what_is_open_closes_it(browser: HistoryBrowser):
    id = browser.rows[0]["id"]
    browser.reopen(id)
    browser.delete([id])
    assert browser.detail == {}


def test_ticked_runs_are_compared_in_the_order_of_the_table(browser: HistoryBrowser):
    benches = [row["id"] for row in browser.rows if row["kind"] == "bench"]
    browser.selected = list(reversed(benches))
    press(browser, "compare")
    assert isinstance(browser.opened, Comparison)
    assert list(browser.opened.ids) == benches
    assert len(browser.detail["panels"]) == 1
    browser.selected = benches[:1]
    press(browser, "compare")
    assert "cannot be compared" in browser.notice


def test_a_run_that_cannot_be_read_is_not_deleted(browser: HistoryBrowser, database: ResultsDatabase):
    with pytest.raises(ResultsError):
        browser.delete([browser.rows[0]["id"], "gone"])
    assert len(database.query()) == 4


def test_texts_of_a_run_cannot_put_markup_into_the_page(database: ResultsDatabase):
    result = comparison().replace(name="<img src=x onerror=alert(1)>")
    database.add(result)
    browser = HistoryBrowser(database=database.path)
    browser.reopen(result.id)
    assert "<img" not in browser.detail["html"]
    assert "a &lt;b&gt; c" in browser.detail["html"]


def test_an_empty_history_is_no_fault(tmp_path: Path):
    browser = HistoryBrowser(database=tmp_path / "none.sqlite")
    assert browser.rows == []
    assert browser.summary == "0 of 0 runs"
    assert "No run is stored" in browser._repr_mimebundle_()[0]["text/html"]
