"""One SQLite file shared by processes: versions, migrations, transactions, and its failures in plain words."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ResultsError
from ..storage import storage_error

APPLICATION_ID = 0x54724C42  # "TrLB": tells this file from any other SQLite database
BUSY_TIMEOUT_S = 30.0

# One script a version, run in order; a released script is never edited, a new one is appended. A metric's value has no
# declared type, so that counts come back as integers and measurements as reals.
MIGRATIONS = (
    """
    CREATE TABLE results (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        schema_version INTEGER NOT NULL,
        created_at TEXT NOT NULL,
        backend TEXT NOT NULL,
        model TEXT,
        name TEXT,
        payload TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX results_by_time ON results (created_at);
    CREATE TABLE metrics (
        result_id TEXT NOT NULL REFERENCES results (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        value,
        PRIMARY KEY (result_id, name)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE tags (
        result_id TEXT NOT NULL REFERENCES results (id) ON DELETE CASCADE,
        tag TEXT NOT NULL,
        PRIMARY KEY (result_id, tag)
    ) WITHOUT ROWID;
    """,
)


class SqliteFile:
    """The file at `path`, opened afresh for each transaction and so safe across threads, forks and processes."""

    def __init__(self, path: Path):
        self.path = path

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """Open the file, do the body as one transaction, close the file; a body that raises changes nothing."""
        connection = None
        try:
            connection = self._connect()
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except OSError as error:
            raise storage_error(error, self.path, "open the results database") from error
        finally:
            if connection is not None:
                connection.close()  # rolls back what was not committed

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            if connection.execute("PRAGMA user_version").fetchone()[0] != len(MIGRATIONS):
                self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Bring a new or older file to this version; two processes that do so at once queue for the write lock."""
        self._refuse_foreign(connection)
        _use_write_ahead_log(connection)
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for script in MIGRATIONS[version:]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")

    def _refuse_foreign(self, connection: sqlite3.Connection) -> None:
        # One read transaction for the three looks: between them another process may finish making the file.
        connection.execute("BEGIN")
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        connection.execute("COMMIT")
        if application != APPLICATION_ID and (tables or version):
            raise ResultsError(
                "This SQLite file belongs to another program.",
                where=str(self.path),
                remedy="Choose another path for the results.",
            )
        if version > len(MIGRATIONS):
            raise ResultsError(
                f"The database has layout version {version}; this release knows versions up to {len(MIGRATIONS)}.",
                where=str(self.path),
                remedy="Upgrade trtbench-lab, or keep this release's runs elsewhere by setting TRTBENCH_HOME.",
            )

    def _translated(self, error: sqlite3.Error) -> ResultsError:
        text = str(error)
        if "locked" in text or "busy" in text:
            return ResultsError(
                f"The database is held by another process for over {BUSY_TIMEOUT_S:.0f} s.",
                where=str(self.path),
                remedy="Close the program that holds a transaction open on it, then try again; nothing was changed.",
            )
        if "unable to open" in text or "readonly" in text:
            return ResultsError(
                "The database cannot be opened for writing.",
                where=str(self.path),
                remedy="Check the permissions of the file and its folder, or set TRTBENCH_HOME to a folder of yours.",
            )
        if "full" in text:
            return ResultsError(
                "The disk is full: the run was not stored; all earlier ones are.",
                where=str(self.path),
                remedy="Free some space and store it again with ResultsDatabase().add(result).",
            )
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError):
            return self.damaged(error)
        return ResultsError(f"The database refused the operation: {text}.", where=str(self.path))

    def damaged(self, error: Exception) -> ResultsError:
        """Return the error of a file whose content cannot be read, with what may still be saved."""
        return ResultsError(
            f"The database is damaged: {error}.",
            where=str(self.path),
            remedy="Move the file aside (`sqlite3 FILE .recover` may save most runs); the next run starts a new one.",
        )


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch the journal; SQLite does not queue for this lock, so another process that does the same is waited for."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")  # stays "delete" on file systems without shared memory
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
