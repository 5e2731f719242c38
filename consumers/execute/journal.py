"""The executor's journal: what was decided, sent, answered and told, in SQLite (WAL, synchronous=FULL).

`desk` writes it before every request to the exchange and after every answer; `relay` publishes its outbox. A commit
that returns is on disk. Exactly one executor holds it, by a file lock that ends with the process. The tables are
sqlmodel's (`infra.tables.execution`); the transitions are plain SQL on one connection, because each must be exactly one
short transaction whose statements are visible here, and an ORM session would flush on its own schedule.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from threading import Event, RLock
from typing import Any, NamedTuple

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlmodel import create_engine

from consumers.execute.attempts import Burn
from consumers.execute.venue import Execution
from infra.errors import AlreadyRunning, Stop
from infra.log import Record
from infra.tables.execution import ExecutionTable
from streams.messages import CancelIntent, Halt, Message, OrderEvent, OrderIntent, Purpose, encode

EVENTS = "order-events"


class JournalFailed(Stop):
    """The journal cannot be opened or written: nothing may be sent."""


class IntentRow(NamedTuple):
    """An intent as journalled."""

    intent: OrderIntent
    state: str
    attempt: int
    uuid: str
    append_ms: int

    @property
    def purpose(self) -> Purpose:
        """What the order is for."""
        return self.intent.purpose


class AttemptRow(NamedTuple):
    """An identifier as journalled; amounts are what has been told in fills so far."""

    identifier: str
    intent_id: str
    number: int
    state: str
    burn: Burn
    uuid: str
    executed_quantity: Decimal
    executed_funds: Decimal
    paid_fee: Decimal


class OutboxRow(NamedTuple):
    """An event that waits to be published."""

    seq: int
    topic: str
    key: str
    payload: bytes


_ATTEMPT = "identifier, intent_id, number, state, burn, uuid, executed_quantity, executed_funds, paid_fee"
_decode_intent = msgspec.json.Decoder(OrderIntent).decode
_decode_cancel = msgspec.json.Decoder(CancelIntent).decode


class Journal:
    """One connection, one lock; every public method is one transaction unless it runs inside `transaction()`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.told = Event()
        """Set whenever the outbox has something new."""
        self._mutex = RLock()
        self._depth = 0
        self._has_told = False
        self._lock_file = _lock(path.with_suffix(".lock"))
        try:
            self._connection = _open(path)
        except (sqlite3.Error, SQLAlchemyError) as error:
            os.close(self._lock_file)
            raise JournalFailed(f"the order journal {path} cannot be opened ({error}): nothing is sent") from error

    def close(self) -> None:
        """Close the database and let the lock go."""
        with self._mutex:
            self._connection.close()
            os.close(self._lock_file)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside becomes durable together or not at all; raises `JournalFailed` when it cannot."""
        with self._mutex:
            if self._depth:
                yield self._connection
                return
            self._depth = 1
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
                if self._has_told:
                    self.told.set()
            except sqlite3.Error as error:
                raise JournalFailed(
                    f"the order journal cannot be written ({error}): nothing is sent until its disk has room and works"
                ) from error
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                self._depth = 0
                self._has_told = False

    # --- what is to be done

    def add_intent(self, intent: OrderIntent, record: Record) -> bool:
        """Journal a decision; False where it stands there already (a duplicate delivery)."""
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT OR IGNORE INTO intent(intent_id, account, pocket, market, purpose, payload, state, attempt,"
                ' uuid, topic, partition, "offset", append_ms, expires_at)'
                " VALUES (?, ?, ?, ?, ?, ?, 'NEW', 0, '', ?, ?, ?, ?, ?)",
                (
                    intent.id, intent.account, intent.pocket, intent.market, intent.purpose, encode(intent),
                    record.topic, record.partition, record.offset, record.append_ms, intent.expires_ms,
                ),
            )  # fmt: skip
            return cursor.rowcount == 1

    def add_cancel(self, cancel: CancelIntent) -> bool:
        """Journal a cancellation; False where it stands there already."""
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT OR IGNORE INTO cancel(cancel_id, intent_id, payload, state) VALUES (?, ?, ?, 'NEW')",
                (cancel.id, cancel.intent_id, encode(cancel)),
            )
            return cursor.rowcount == 1

    def end_cancel(self, cancel_id: str) -> None:
        """Nothing is left to be done for a cancellation."""
        with self.transaction() as db:
            db.execute("UPDATE cancel SET state = 'DONE' WHERE cancel_id = ?", (cancel_id,))

    # --- transitions

    def begin_attempt(self, intent_id: str, number: int, identifier: str, event: OrderEvent, now_ms: int) -> bool:
        """Journal that attempt `number` is about to be sent. Only after this returns True may the request go out;
        False where the intent is not waiting to be sent any more.
        """
        with self.transaction() as db:
            cursor = db.execute(
                "UPDATE intent SET state = 'SENDING', attempt = ? WHERE intent_id = ? AND state IN ('NEW', 'RETRY')",
                (number, intent_id),
            )
            if not cursor.rowcount:
                return False
            db.execute(
                "INSERT INTO attempt(identifier, intent_id, number, state, burn, uuid, executed_quantity,"
                " executed_funds, paid_fee, changed_ms) VALUES (?, ?, ?, 'SENDING', '', '', '0', '0', '0', ?)",
                (identifier, intent_id, number, now_ms),
            )
            self._tell([event])
            return True

    def end_intent(self, intent_id: str, state: str, event: OrderEvent) -> bool:
        """End an intent that waits to be sent (stale, refused by our own limits, cancelled in time); False where it is
        not waiting any more.
        """
        with self.transaction() as db:
            cursor = db.execute(
                "UPDATE intent SET state = ? WHERE intent_id = ? AND state IN ('NEW', 'RETRY')", (state, intent_id)
            )
            if cursor.rowcount:
                self._tell([event])
            return bool(cursor.rowcount)

    def settle(
        self,
        attempt: AttemptRow,
        *,
        attempt_state: str,
        intent_state: str | None,
        uuid: str = "",
        events: Sequence[OrderEvent] = (),
        now_ms: int = 0,
    ) -> None:
        """Write what became of an attempt, of its intent (None: unchanged), and the events that tell it."""
        with self.transaction() as db:
            db.execute(
                "UPDATE attempt SET state = ?, uuid = ?, changed_ms = ? WHERE identifier = ?",
                (attempt_state, uuid, now_ms, attempt.identifier),
            )
            if intent_state is not None:
                db.execute(
                    "UPDATE intent SET state = ?, uuid = ? WHERE intent_id = ?",
                    (intent_state, uuid, attempt.intent_id),
                )
            self._tell(events)

    def set_burn(self, identifier: str, burn: Burn) -> None:
        """Write what was learned of an identifier."""
        with self.transaction() as db:
            db.execute("UPDATE attempt SET burn = ? WHERE identifier = ?", (burn.value, identifier))

    def new_executions(self, uuid: str, executions: Iterable[Execution]) -> list[Execution]:
        """Those of an order that are not in the journal yet, each once."""
        unique = {execution.id: execution for execution in executions}
        known = {row[0] for row in self._rows("SELECT fill_id FROM fills WHERE uuid = ?", uuid)}
        return [execution for execution in unique.values() if execution.id not in known]

    def add_fill(self, attempt: AttemptRow, uuid: str, execution: Execution, fee: Decimal) -> None:
        """Journal one execution (inside a `transaction()` with its event)."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO fills(fill_id, intent_id, uuid, price, quantity, funds, fee) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    execution.id, attempt.intent_id, uuid, str(execution.price), str(execution.quantity),
                    str(execution.funds), str(fee),
                ),
            )  # fmt: skip

    def set_totals(self, identifier: str, quantity: Decimal, funds: Decimal, fee: Decimal) -> None:
        """Write what has been told in fills."""
        with self.transaction() as db:
            db.execute(
                "UPDATE attempt SET executed_quantity = ?, executed_funds = ?, paid_fee = ? WHERE identifier = ?",
                (str(quantity), str(funds), str(fee), identifier),
            )

    def tell(self, events: Sequence[OrderEvent]) -> None:
        """Put events into the outbox."""
        with self.transaction():
            self._tell(events)

    def _tell(self, events: Iterable[OrderEvent]) -> None:
        self._has_told = True
        for event in events:
            self._connection.execute(
                "INSERT INTO outbox(topic, key, payload) VALUES (?, ?, ?)", (EVENTS, _pocket_of(event), encode(event))
            )

    # --- what stands there

    def intent(self, intent_id: str) -> IntentRow | None:
        """An intent, None where it was never journalled."""
        rows = self._rows("SELECT payload, state, attempt, uuid, append_ms FROM intent WHERE intent_id = ?", intent_id)
        return IntentRow(_decode_intent(rows[0][0]), *rows[0][1:]) if rows else None

    def newest_intent(self) -> IntentRow | None:
        """The intent that came last."""
        rows = self._rows("SELECT intent_id FROM intent ORDER BY rowid DESC LIMIT 1")
        return self.intent(rows[0][0]) if rows else None

    def intents(self, *states: str) -> list[str]:
        """Ids of the intents in these states, in the order they came."""
        marks = ",".join("?" * len(states))
        statement = f"SELECT intent_id FROM intent WHERE state IN ({marks}) ORDER BY rowid"  # noqa: S608 - only question marks are put in
        return [row[0] for row in self._rows(statement, *states)]

    def attempt(self, identifier: str) -> AttemptRow | None:
        """An attempt by its identifier."""
        rows = self._rows(f"SELECT {_ATTEMPT} FROM attempt WHERE identifier = ?", identifier)  # noqa: S608 - constants
        return _attempt_row(rows[0]) if rows else None

    def attempts(self, *states: str, changed_after_ms: int = 0) -> list[AttemptRow]:
        """The attempts in these states, oldest first."""
        marks = ",".join("?" * len(states))
        rows = self._rows(
            f"SELECT {_ATTEMPT} FROM attempt WHERE state IN ({marks}) AND changed_ms >= ? ORDER BY rowid",  # noqa: S608 - constants
            *states,
            changed_after_ms,
        )
        return [_attempt_row(row) for row in rows]

    def attempts_of(self, intent_id: str) -> list[AttemptRow]:
        """All attempts of an intent, first to last."""
        rows = self._rows(f"SELECT {_ATTEMPT} FROM attempt WHERE intent_id = ? ORDER BY number", intent_id)  # noqa: S608 - constants
        return [_attempt_row(row) for row in rows]

    def has_doubt(self, account: str) -> bool:
        """Whether an attempt of this account is in doubt now."""
        return bool(self._rows("SELECT 1 FROM intent WHERE account = ? AND state = 'UNKNOWN' LIMIT 1", account))

    def lost(self, account: str) -> list[str]:
        """Intents of this account that the exchange accepted and does not know any more."""
        rows = self._rows("SELECT intent_id FROM intent WHERE account = ? AND state = 'LOST' ORDER BY rowid", account)
        return [row[0] for row in rows]

    def cancel(self, cancel_id: str) -> CancelIntent | None:
        """A cancellation that is still to be carried out."""
        rows = self._rows("SELECT payload FROM cancel WHERE cancel_id = ? AND state = 'NEW'", cancel_id)
        return _decode_cancel(rows[0][0]) if rows else None

    def cancels(self) -> list[str]:
        """Ids of the cancellations that are still to be carried out."""
        return [row[0] for row in self._rows("SELECT cancel_id FROM cancel WHERE state = 'NEW' ORDER BY rowid")]

    # --- outbox

    def unpublished(self, limit: int = 500) -> list[OutboxRow]:
        """The oldest events that wait to be published."""
        rows = self._rows(
            "SELECT seq, topic, key, payload FROM outbox WHERE published_at IS NULL ORDER BY seq LIMIT ?", limit
        )
        return [OutboxRow(*row) for row in rows]

    def mark_published(self, seqs: Sequence[int], now_ms: int) -> None:
        """These events were acknowledged by the log."""
        with self.transaction() as db:
            db.executemany("UPDATE outbox SET published_at = ? WHERE seq = ?", [(now_ms, seq) for seq in seqs])

    # --- halts, cursors, external orders

    def apply_halt(self, halt: Halt) -> None:
        """Take over a kill switch, or its end."""
        with self.transaction() as db:
            if halt.kind == "lifted":
                db.execute("DELETE FROM halts WHERE account = ?", (halt.account,))
            else:
                db.execute(
                    "INSERT OR REPLACE INTO halts(account, kind, event_ms, by) VALUES (?, ?, ?, ?)",
                    (halt.account, halt.kind, halt.event_ms, halt.by),
                )

    def halt_of(self, account: str) -> str:
        """The kind of halt that holds for an account, empty for none."""
        rows = self._rows("SELECT kind FROM halts WHERE account IN (?, '*') ORDER BY kind DESC LIMIT 1", account)
        return str(rows[0][0]) if rows else ""

    def cursor(self, slot: str) -> int:
        """Next offset to read of a topic that is read whole."""
        rows = self._rows("SELECT next_offset FROM cursor WHERE slot = ?", slot)
        return int(rows[0][0]) if rows else 0

    def set_cursor(self, slot: str, next_offset: int) -> None:
        """Remember how far such a topic was applied."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO cursor(slot, next_offset) VALUES (?, ?)", (slot, next_offset))

    def add_external(self, uuid: str, identifier: str, market: str, now_ms: int) -> bool:
        """Note an open order that is not ours; True where it is new."""
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT OR IGNORE INTO external(uuid, identifier, market, seen_ms) VALUES (?, ?, ?, ?)",
                (uuid, identifier, market, now_ms),
            )
            return cursor.rowcount == 1

    def _rows(self, statement: str, *values: str | int) -> list[tuple[Any, ...]]:
        with self._mutex:
            return self._connection.execute(statement, values).fetchall()


def _attempt_row(row: tuple[Any, ...]) -> AttemptRow:
    identifier, intent_id, number, state, burn, uuid, quantity, funds, fee = row
    return AttemptRow(
        identifier, intent_id, number, state, Burn(burn), uuid, Decimal(quantity), Decimal(funds), Decimal(fee)
    )


def _pocket_of(event: Message) -> str:
    return str(getattr(event, "pocket", ""))


def _open(path: Path) -> sqlite3.Connection:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    try:
        ExecutionTable.metadata.create_all(engine)
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
