"""The database behind the journal, as little of it as the journal needs; here as an SQLite file with a file lock.

`journal` writes one SQL for both forms (the other one is `journal_postgres`). A commit that returns is on disk (WAL,
synchronous=FULL). Exactly one executor holds the file, by a lock that ends with the process.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlmodel import create_engine

import infra.tables.execution_keys  # noqa: F401 - its tables are made with the others
from infra.errors import AlreadyRunning, Stop
from infra.tables.execution import ExecutionTable


class JournalFailed(Stop):
    """The journal cannot be opened or written: nothing may be sent."""


class Cursor(Protocol):
    """What a statement gives."""

    @property
    def rowcount(self) -> int:
        """Rows changed."""

    def fetchall(self) -> list[Any]:
        """All rows, as tuples."""


class Database(Protocol):
    """What statements are given to inside a transaction; `?` stands for a value."""

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Cursor:
        """One statement."""

    def executemany(self, statement: str, values: Iterable[Sequence[Any]]) -> Cursor:
        """One statement for each row of values."""


class Store(Database, Protocol):
    """One connection to the journal's database; the journal calls it from one thread at a time."""

    errors: tuple[type[Exception], ...]
    """What its statements raise when the database fails."""
    epoch: int
    """Number of this holder; 0 where a file lock proves that every earlier one is dead."""

    def begin(self) -> None:
        """Start a transaction; raises `Fenced` where another executor took the journal over."""

    def commit(self) -> None:
        """Make it durable."""

    def rollback(self) -> None:
        """Forget it, where one is open."""

    def must_hold(self) -> None:
        """Raise `Fenced` unless this process is still the one that may send."""

    def renew(self) -> None:
        """Stay the holder for another while; raises `Fenced`."""

    def is_gone(self, epoch: int) -> bool:
        """Whether whoever sent under `epoch` sends nothing any more: ourselves, or proven dead."""

    def close(self) -> None:
        """Let go."""


class SqliteStore:
    """A file; several threads may share the connection, one at a time."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)
    epoch = 0

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = _lock(path.with_suffix(".lock"))
        try:
            self.connection = _open(path)
        except (sqlite3.Error, SQLAlchemyError) as error:
            os.close(self._lock_file)
            raise JournalFailed(f"the order journal {path} cannot be opened ({error}): nothing is sent") from error

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Cursor:
        """One statement."""
        return self.connection.execute(statement, values)

    def executemany(self, statement: str, values: Iterable[Sequence[Any]]) -> Cursor:
        """One statement for each row of values."""
        return self.connection.executemany(statement, values)

    def begin(self) -> None:
        """Start a transaction."""
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """On disk when this returns."""
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """Forget an open transaction."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def must_hold(self) -> None:
        """The file lock cannot be lost."""

    def renew(self) -> None:
        """The file lock needs no renewal."""

    def is_gone(self, epoch: int) -> bool:  # noqa: ARG002 - there are no epochs here
        """The file lock says so: nobody else runs."""
        return True

    def close(self) -> None:
        """Close the database and let the lock go."""
        self.connection.close()
        os.close(self._lock_file)


def make_tables(engine: Engine) -> None:
    """Create what is missing: tables, and the columns and indexes that an older version did not have."""
    ExecutionTable.metadata.create_all(engine)
    known = inspect(engine)
    quote = engine.dialect.identifier_preparer.quote
    for table in ExecutionTable.metadata.sorted_tables:
        names = {column["name"] for column in known.get_columns(table.name)}
        with engine.begin() as connection:
            for column in table.columns:
                if column.name in names:
                    continue
                kind = column.type.compile(engine.dialect)
                default = column.default.arg if column.default is not None else None  # type: ignore[attr-defined]  # a plain value
                value = f" NOT NULL DEFAULT '{default}'" if default is not None else ""
                connection.execute(
                    text(f"ALTER TABLE {quote(table.name)} ADD COLUMN {quote(column.name)} {kind}{value}")
                )
            for index in table.indexes:
                index.create(connection, checkfirst=True)


def _open(path: Path) -> sqlite3.Connection:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    try:
        make_tables(engine)
    finally:
        engine.dispose()
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _lock(path: Path) -> int:
    """Take the file lock of the one executor; the system lets it go when the process ends, however it ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise AlreadyRunning(
            f"another order executor holds {path}: there can be one per journal, stop it first"
        ) from error
    return handle
