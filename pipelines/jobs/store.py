"""The SQLite table of all jobs: what was requested, in which order, the last progress, and the outcome."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dreamtune.errors import JobError

FILE = "queue.sqlite"
_VERSION = 1
_PATIENCE = 20.0
"""Seconds to wait for another process that writes."""
_TABLE = """
create table if not exists job (
    id integer primary key autoincrement,
    kind text not null,
    title text not null,
    config text not null,
    out text not null,
    cwd text not null,
    created real not null,
    state text not null,
    place integer not null default 0,
    attempt integer not null default 0,
    stop integer not null default 0,
    started real, finished real,
    phase text, done integer, total integer, eta real, message text
)
"""


@dataclass(frozen=True)
class Row:
    """A job as recorded in the table; :mod:`~dreamtune.pipelines.jobs.state` knows whether that is still true."""

    id: int
    kind: str
    title: str
    config: str
    """JSON of the settings that were set; the rest is left to presets."""
    out: str
    cwd: str
    """Folder it was submitted from, to which paths in `config` are relative."""
    created: float
    state: str
    """queued, started, done, failed, interrupted or cancelled."""
    place: int
    """Queued jobs start in the order of these."""
    attempt: int
    """How often it was started."""
    stop: int
    """0, 1 when it is asked to stop, 2 when at once."""
    started: float | None
    finished: float | None
    phase: str | None
    done: int | None
    total: int | None
    eta: float | None
    message: str | None


_COLUMNS = ", ".join(field.name for field in fields(Row))


class JobStore:
    """Reads and changes the table. Each call is independent, so any thread or process may make it.

    Every method raises JobError where the file is damaged, of a newer version, or cannot be written.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / FILE

    def rows(self, where: str = "1", *values: Any) -> list[Row]:
        """Rows for which the SQL condition holds, the queue's order first, then by number. Writes nothing."""
        if not self.path.is_file():
            return []
        with self._open() as connection:
            return _select(connection, where, *values)

    def get(self, number: int) -> Row | None:
        """The row of one job, or None."""
        return next(iter(self.rows("id = ?", number)), None)

    @contextmanager
    def writing(self) -> Iterator[Changes]:
        """Change several things at once or none: nobody else writes within the block."""
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # prompts and paths are their owner's
            if os.stat(self.path).st_mode & 0o077:  # made by SQLite itself, which follows the umask
                os.chmod(self.path, 0o600)
        except OSError as error:
            raise JobError(
                f"cannot use the jobs folder {self.home}: {error.strerror}; set DREAMTUNE_JOBS to a writable folder"
            ) from None
        with self._open() as connection:
            connection.execute("begin immediate")
            try:
                yield Changes(connection)
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def update(self, number: int, where: str = "1", **values: Any) -> bool:
        """Set columns of one job if the SQL condition holds; say whether it did."""
        with self.writing() as changes:
            return changes.update(number, where, **values)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)) as connection:
                self._prepare(connection)
                yield connection
        except sqlite3.Error as error:
            raise JobError(
                f"cannot use the queue {self.path}: {error}; if this persists, move the file away (it contains no job "
                "results)"
            ) from None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("pragma user_version").fetchone()[0]
        if version == _VERSION:
            return
        if version:
            raise JobError(
                f"the queue {self.path} was made by a newer dreamtune: update dreamtune, or move the file away"
            )
        with suppress(sqlite3.OperationalError):  # two at once: the other one does it
            connection.execute("pragma journal_mode=wal")  # readers and the one writer do not wait for each other
        connection.execute(_TABLE)
        connection.execute(f"pragma user_version={_VERSION}")


class Changes:
    """One transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, where: str = "1", *values: Any) -> list[Row]:
        """As :meth:`JobStore.rows`."""
        return _select(self._connection, where, *values)

    def add(self, **values: Any) -> int:
        """A new job at the end of the queue; returns its number."""
        values |= {"state": "queued", "place": self.last_place() + 1}
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        cursor = self._connection.execute(f"insert into job ({names}) values ({marks})", list(values.values()))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def update(self, number: int, where: str = "1", **values: Any) -> bool:
        """As :meth:`JobStore.update`."""
        columns = ", ".join(f"{name} = ?" for name in values)
        cursor = self._connection.execute(
            f"update job set {columns} where id = ? and ({where})", [*values.values(), number]
        )
        return cursor.rowcount > 0

    def last_place(self) -> int:
        """The largest place of any job."""
        return self._connection.execute("select coalesce(max(place), 0) from job").fetchone()[0]


def _select(connection: sqlite3.Connection, where: str, *values: Any) -> list[Row]:
    found = connection.execute(f"select {_COLUMNS} from job where {where} order by place, id", values)
    return [Row(*values) for values in found]
