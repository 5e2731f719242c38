"""The journal's database on PostgreSQL: one holder by a lease row, every transaction checks and renews it.

`journal` uses it where `execute.database` names one. Each holder has an epoch; whoever lost the lease cannot write any
more and sends nothing after it has noticed, which it does before its next request at the latest. A second connection
holds a lock per epoch for as long as the process lives, so that a later holder can see that an earlier one is dead.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import psycopg
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlmodel import create_engine

from consumers.execute.journal_store import Cursor, JournalFailed, make_tables
from infra.errors import AlreadyRunning, Fenced

LEASE = "execute"
LOCK = 0x6F62  # the first key of our advisory locks; the second is an epoch, 0 for making the tables
NOW = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"
PATIENCE_S = 0.2
STATEMENT_MS = 5_000
SHARE = 0.5
"""Of the lease: after so much without a renewal the holder asks before it sends."""


class PostgresStore:
    """Two connections: one that writes, one whose life is the proof that this process lives."""

    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(
        self,
        address: str,
        lease_s: float = 5.0,
        *,
        wait: Callable[[float], bool] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Waits for the lease while `wait(seconds)` is False; without `wait` it raises `AlreadyRunning` at once."""
        self._lease_s = lease_s
        self._now_s = now_s
        self._renewed_s = self._begun_s = 0.0
        name = make_url(address).render_as_string(hide_password=True)
        try:
            _make_tables(address)
            self.connection = self._connect(address)
            self._witness = self._connect(address)
            self.epoch = self._take(name, wait)
            self._witness.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK, self.epoch))
        except (psycopg.Error, SQLAlchemyError) as error:
            raise JournalFailed(f"the order journal {name} cannot be opened ({error}): nothing is sent") from error

    def _connect(self, address: str) -> psycopg.Connection[tuple[Any, ...]]:
        """Statements end by themselves; a stopped process does not keep a transaction, and so the lease, open."""
        idle_ms = max(100, int(self._lease_s * 1000))
        options = (
            f"-c statement_timeout={STATEMENT_MS} -c idle_in_transaction_session_timeout={idle_ms}"
            " -c synchronous_commit=on -c application_name=observator-execute"
        )
        plain = make_url(address).set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(plain, autocommit=True, connect_timeout=5, options=options)

    def _take(self, name: str, wait: Callable[[float], bool] | None) -> int:
        self.connection.execute(
            "INSERT INTO lease(name, epoch, renewed_ms) VALUES (%s, 0, 0) ON CONFLICT DO NOTHING", (LEASE,)
        )
        while True:
            began_s = self._now_s()
            row = self.connection.execute(
                f"UPDATE lease SET epoch = epoch + 1, renewed_ms = {NOW}"  # noqa: S608 - a constant
                f" WHERE name = %s AND renewed_ms < {NOW} - %s RETURNING epoch",
                (LEASE, int(self._lease_s * 1000)),
            ).fetchone()
            if row is not None:
                self._renewed_s = began_s
                return int(row[0])
            if wait is None or wait(PATIENCE_S):
                self.connection.close()
                self._witness.close()
                raise AlreadyRunning(f"another order executor holds the lease of {name}: stop it first")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Cursor:
        """One statement."""
        return self.connection.execute(_spelled(statement), values)

    def executemany(self, statement: str, values: Iterable[Sequence[Any]]) -> Cursor:
        """One statement for each row of values."""
        cursor = self.connection.cursor()
        cursor.executemany(_spelled(statement), values)
        return cursor

    def begin(self) -> None:
        """Start a transaction with the lease's row: no other holder can come in between, and it is renewed."""
        began_s = self._now_s()
        self.connection.execute("BEGIN")
        cursor = self.connection.execute(
            f"UPDATE lease SET renewed_ms = {NOW} WHERE name = %s AND epoch = %s",  # noqa: S608 - a constant
            (LEASE, self.epoch),
        )
        if not cursor.rowcount:
            self._renewed_s = -math.inf
            raise Fenced("another order executor took the journal over: this one sends nothing any more")
        self._begun_s = began_s

    def commit(self) -> None:
        """On disk, and the lease renewed, when this returns."""
        self.connection.execute("COMMIT")
        self._renewed_s = self._begun_s

    def rollback(self) -> None:
        """Forget an open transaction; a broken connection has forgotten it by itself."""
        if self.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            return
        try:
            self.connection.execute("ROLLBACK")
        except psycopg.Error:
            self.connection.close()

    def must_hold(self) -> None:
        """Ask the database where the last renewal is not fresh: the process may have been stopped for long."""
        if self._now_s() - self._renewed_s > self._lease_s * SHARE:
            self.renew()

    def renew(self) -> None:
        """A transaction that changes nothing else. Fails where the witness is gone: a later holder would take this
        process, which lives, for dead.
        """
        self._witness.execute("SELECT 1")
        self.begin()
        self.commit()

    def is_gone(self, epoch: int) -> bool:
        """Ourselves, or a process whose lock went with its connection."""
        if epoch == self.epoch:
            return True
        row = self._witness.execute("SELECT pg_try_advisory_lock(%s, %s)", (LOCK, epoch)).fetchone()
        if row is None or not row[0]:
            return False
        self._witness.execute("SELECT pg_advisory_unlock(%s, %s)", (LOCK, epoch))
        return True

    def close(self) -> None:
        """Give the lease back, so that the next executor need not wait; never fails."""
        try:
            self.rollback()
            self.connection.execute(
                "UPDATE lease SET renewed_ms = 0 WHERE name = %s AND epoch = %s", (LEASE, self.epoch)
            )
        except psycopg.Error:
            pass  # the lease runs out by itself
        finally:
            self.connection.close()
            self._witness.close()


@cache
def _spelled(statement: str) -> str:
    """The journal's statements as this driver wants them."""
    return statement.replace("?", "%s")


def _make_tables(address: str) -> None:
    """One executor at a time: two that start together must not make the same table."""
    engine = create_engine(
        make_url(address).set(drivername="postgresql+psycopg"), poolclass=NullPool, connect_args={"connect_timeout": 5}
    )
    try:
        with engine.connect() as guard:
            guard.execute(text(f"SELECT pg_advisory_lock({LOCK}, 0)"))
            make_tables(engine)
    finally:
        engine.dispose()
