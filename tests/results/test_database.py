"""The database keeps every run, from several processes at once, and says what is wrong with a file."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.results.samples import school

from trtbench_lab import storage
from trtbench_lab.errors import ResultsError
from trtbench_lab.results import ResultsDatabase, sqlite_file

ROOT = Path(__file__).parents[2]

WRITER = """
import sys
from tests.results.samples import school
from trtbench_lab.results import ResultsDatabase
sys.stdin.readline()  # all writers begin together, on a file that none of them has made yet
database = ResultsDatabase(sys.argv[1])
for i in range(int(sys.argv[3])):
    database.add(school(name=f"{sys.argv[2]}-{i}"))
"""


@pytest.fixture
def database(tmp_path: Path) -> ResultsDatabase:
    return ResultsDatabase(tmp_path / "räume und mehr" / "results.sqlite")


def test_it_lies_in_the_home_folder_by_default(own_home: Path):
    assert ResultsDatabase().path == storage.home_dir() / "results.sqlite"
    assert not ResultsDatabase().path.exists()


def test_what_is_added_comes_back(database: ResultsDatabase):
    result = school()
    assert database.add(result) == result.id
    assert database.get(result.id) == result
    assert database.get(result.id[:6]) == result


def test_adding_again_replaces(database: ResultsDatabase):
    result = school()
    database.add(result)
    database.add(result.replace(name="evening"))
    assert len(database.query()) == 1
    assert database.get(result.id).name == "evening"


def test_several_processes_write_at_once_and_nothing_is_lost(tmp_path: Path):
    path, writers, runs = tmp_path / "new" / "results.sqlite", 4, 25
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(i), str(runs)],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True,
        )
        for i in range(writers)
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * writers, errors
    names = {row.name for row in ResultsDatabase(path).query(limit=None)}
    assert names == {f"{i}-{j}" for i in range(writers) for j in range(runs)}


@pytest.mark.parametrize("attempt", range(3))  # the first moments of a new file are where threads can collide
def test_threads_share_one_instance(database: ResultsDatabase, attempt: int):
    start = threading.Barrier(4)
    threads = [
        threading.Thread(target=lambda: [start.wait(), *(database.add(school()) for _ in range(5))]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(database.query(limit=None)) == 20


def test_queries_filter_sort_and_limit(database: ResultsDatabase):
    database.add(school(created_at="2026-01-01T00:00:00.000Z", backend="torch", name="a"))
    database.add(school(created_at="2026-03-01T12:00:00.000Z", model="llama-2-7b", name="b[1]"))
    database.add(school(created_at="2026-02-01T00:00:00.000Z", name=None))

    def names(**filters) -> list[str | None]:
        return [row.name for row in database.query(**filters)]

    assert names() == ["b[1]", None, "a"]
    assert names(limit=1) == ["b[1]"]
    assert names(limit=0) == []
    assert names(backend="torch") == ["a"]
    assert names(model="llama*") == ["b[1]"]
    assert names(name="b[1]") == ["b[1]"]
    assert names(name="b[1*") == ["b[1]"]
    assert names(name="b1") == []
    assert names(kind="school", since="2026-01-15") == ["b[1]", None]
    assert names(since=datetime(2026, 3, 1, 12, tzinfo=UTC)) == ["b[1]"]
    assert names(since="2026-03-01T12:30:00+01:00") == ["b[1]"]
    assert names(backend="x' OR '1'='1") == []


def test_queries_by_span_of_time(database: ResultsDatabase):
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    database.add(school(created_at=hour_ago.isoformat(timespec="milliseconds").replace("+00:00", "Z")))
    assert len(database.query(since="90m")) == 1
    assert len(database.query(since="30m")) == 0
    assert len(database.query(since=timedelta(days=1))) == 1


def test_wrong_filters_are_plain_errors(database: ResultsDatabase):
    with pytest.raises(ResultsError, match="'yesterday' is neither a date nor a span"):
        database.query(since="yesterday")
    with pytest.raises(ResultsError, match="limit is -1"):
        database.query(limit=-1)


def test_unknown_and_ambiguous_ids(database: ResultsDatabase):
    database.add(school(id="aa0000000001"))
    database.add(school(id="aa0000000002"))
    with pytest.raises(ResultsError, match="no run 'bb'"):
        database.get("bb")
    with pytest.raises(ResultsError, match="no run ''"):
        database.get("")
    with pytest.raises(ResultsError, match="'aa' begins several ids: aa0000000001, aa0000000002"):
        database.get("aa")


def test_delete(database: ResultsDatabase):
    first, second = school(), school()
    database.add(first)
    database.add(second)
    assert database.delete([first.id, "nobody"]) == 1
    assert database.query().ids == [second.id]
    with sqlite3.connect(database.path) as connection:
        assert {row[0] for row in connection.execute("SELECT result_id FROM metrics")} == {second.id}


def test_a_result_of_a_lost_class_can_still_be_listed(database: ResultsDatabase):
    result = school()
    database.add(result)
    with sqlite3.connect(database.path) as connection:
        connection.execute("UPDATE results SET kind = 'future', payload = replace(payload, 'school', 'future')")
    assert database.query(kind="future")[0].metrics["latency_ms_mean"] == 40.0
    with pytest.raises(ResultsError, match="kind 'future' are unknown"):
        database.get(result.id)


def test_missing_numbers_are_listed_as_missing(database: ResultsDatabase):
    database.add(school(latency_ms=None, tokens_per_sec=0.0))
    metrics = database.query()[0].metrics
    assert metrics == {"latency_ms_mean": None, "tokens_per_sec": 0.0, "count": 7}
    assert [type(value) for value in metrics.values()] == [type(None), float, int]


# ---- damaged and foreign files ---------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_refused_and_kept(database: ResultsDatabase):
    database.path.parent.mkdir()
    database.path.write_bytes(b"not a database, but someone's notes\n" * 100)
    before = database.path.read_bytes()
    for attempt in (lambda: database.add(school()), database.query):
        with pytest.raises(ResultsError, match=r"damaged.*\n.*aside"):
            attempt()
    assert database.path.read_bytes() == before


def test_a_truncated_database_is_refused(database: ResultsDatabase):
    for _ in range(60):
        database.add(school())
    whole = database.path.read_bytes()
    database.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResultsError, match="damaged"):
        database.query(limit=None)


def test_a_payload_that_was_cut_is_refused(database: ResultsDatabase):
    result = school()
    database.add(result)
    with sqlite3.connect(database.path) as connection:
        connection.execute("UPDATE results SET payload = substr(payload, 1, 50)")
    with pytest.raises(ResultsError, match="damaged"):
        database.get(result.id)


def test_another_programs_database_is_refused_and_kept(database: ResultsDatabase):
    database.path.parent.mkdir()
    with sqlite3.connect(database.path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    before = database.path.read_bytes()
    with pytest.raises(ResultsError, match="belongs to another program"):
        database.add(school())
    assert database.path.read_bytes() == before


def test_a_newer_layout_is_refused_and_kept(database: ResultsDatabase):
    database.add(school())
    with sqlite3.connect(database.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ResultsError, match=r"layout version 99.*\n.*Upgrade"):
        database.query()
    with sqlite3.connect(database.path) as connection:
        assert connection.execute("SELECT count(*) FROM results").fetchone() == (1,)


def test_an_older_layout_is_migrated_and_keeps_its_runs(database: ResultsDatabase, monkeypatch: pytest.MonkeyPatch):
    result = school()
    database.add(result)
    step = "ALTER TABLE results ADD COLUMN stars INTEGER"
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", (*sqlite_file.MIGRATIONS, step))
    assert database.get(result.id) == result
    with sqlite3.connect(database.path) as connection:
        assert connection.execute("SELECT stars FROM results").fetchall() == [(None,)]
        assert connection.execute("PRAGMA user_version").fetchone() == (len(sqlite_file.MIGRATIONS),)


def test_a_migration_that_fails_changes_nothing(database: ResultsDatabase, monkeypatch: pytest.MonkeyPatch):
    result = school()
    database.add(result)
    scripts = (
        *sqlite_file.MIGRATIONS,
        "ALTER TABLE results ADD COLUMN stars INTEGER; ALTER TABLE nowhere ADD COLUMN x",
    )
    with monkeypatch.context() as patched:
        patched.setattr(sqlite_file, "MIGRATIONS", scripts)
        with pytest.raises(ResultsError):
            database.query()
    assert database.get(result.id) == result


def test_a_held_database_is_said_to_be_held(database: ResultsDatabase, monkeypatch: pytest.MonkeyPatch):
    database.add(school())
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.1)
    holder = sqlite3.connect(database.path, isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(ResultsError, match="held by another process"):
            database.add(school())
        assert len(database.query()) == 1  # readers do not wait for a writer
    finally:
        holder.close()
    database.add(school())


def test_a_failed_store_leaves_the_earlier_runs(database: ResultsDatabase, monkeypatch: pytest.MonkeyPatch):
    database.add(school())
    bad = school()
    monkeypatch.setattr(type(bad), "metrics", property(lambda self: {"a": object()}))
    with pytest.raises(ResultsError):
        database.add(bad)
    monkeypatch.undo()
    assert len(database.query()) == 1


def test_a_folder_that_may_not_be_written(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    from trtbench_lab.errors import StorageError

    with pytest.raises((ResultsError, StorageError), match="results database"):
        ResultsDatabase(blocked / "results.sqlite").add(school())


def test_a_path_that_is_a_folder(tmp_path: Path):
    with pytest.raises(ResultsError, match="cannot be opened"):
        ResultsDatabase(tmp_path).add(school())


def test_a_read_only_file(database: ResultsDatabase):
    database.add(school())
    if os.geteuid() == 0:
        # Root may write anything, so the same refusal is asked of SQLite itself.
        error = database._file._translated(sqlite3.OperationalError("attempt to write a readonly database"))
        assert "cannot be opened for writing" in str(error)
    else:
        database.path.chmod(stat.S_IRUSR)
        with pytest.raises(ResultsError, match="cannot be opened for writing"):
            database.add(school())


def test_a_full_disk_is_named(database: ResultsDatabase):
    error = database._file._translated(sqlite3.OperationalError("database or disk is full"))
    assert "disk is full" in str(error)
    assert "Free some space" in str(error)


def test_tags_find_runs_and_outlive_storing_again(database: ResultsDatabase):
    first, second = school(), school()
    database.add(first)
    database.add(second)
    database.tag([first.id, second.id], "baseline", " to keep ")
    database.untag(second.id, "baseline", "never there")
    database.add(first.replace(name="evening"))
    assert [row.id for row in database.query(tag="baseline")] == [first.id]
    tags = {row.id: row.tags for row in database.query()}
    assert tags == {first.id: ("baseline", "to keep"), second.id: ("to keep",)}
    assert "baseline, to keep" in repr(database.query())
    database.delete(first.id)
    assert len(database.query(tag="baseline")) == 0


@pytest.mark.parametrize("tag", ["", "  ", "a,b", "a\nb"])
def test_a_tag_is_a_word_or_a_few(database: ResultsDatabase, tag: str):
    result = school()
    database.add(result)
    with pytest.raises(ResultsError, match="is no tag"):
        database.tag(result.id, tag)


def test_tagging_a_run_that_is_not_there_says_so(database: ResultsDatabase):
    with pytest.raises(ResultsError, match="There is no run 'nothing'"):
        database.tag("nothing", "x")


def test_a_file_of_before_tags_is_migrated(database: ResultsDatabase, monkeypatch: pytest.MonkeyPatch):
    result = school()
    with monkeypatch.context() as patched:
        patched.setattr(sqlite_file, "MIGRATIONS", sqlite_file.MIGRATIONS[:1])
        with sqlite_file.SqliteFile(database.path).transaction(write=True):
            pass
    database.add(result)
    database.tag(result.id, "old file")
    assert database.query()[0].tags == ("old file",)
