"""The executor's journal: what was decided, sent, answered and told, in an SQLite file or in PostgreSQL.

`desk` writes it before every request to the exchange and after every answer; `relay` publishes its outbox. A commit
that returns is on disk. Exactly one executor holds it: by a file lock that ends with the process (`journal_store`), or
by a lease that every transaction checks (`journal_postgres`). The tables are sqlmodel's (`infra.tables.execution`);
the transitions are plain SQL on one connection, the same for both databases, because each must be exactly one short
transaction whose statements are visible here, and an ORM session would flush on its own schedule.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal, localcontext
from pathlib import Path
from threading import Event, RLock

import msgspec

from consumers.execute.attempts import Burn
from consumers.execute.journal_postgres import PostgresStore
from consumers.execute.journal_rows import AttemptRow, Held, IntentRow, JournalRows, OutboxRow, halt_id, ledger_of
from consumers.execute.journal_store import Database, JournalFailed, SqliteStore, Store
from consumers.execute.venue import Execution
from infra.log import Record
from streams.messages import CancelIntent, Halt, Message, OrderEvent, OrderIntent, OrderRejected, encode

__all__ = ["AttemptRow", "Held", "IntentRow", "Journal", "JournalFailed", "OutboxRow", "halt_id"]

EVENTS = "order-events"
ZERO = Decimal(0)
_decode_intent = msgspec.json.Decoder(OrderIntent).decode


class Journal(JournalRows):
    """One connection, one lock; every public method is one transaction unless it runs inside `transaction()`."""

    def __init__(
        self, place: Path | str | Store, *, lease_s: float = 5.0, wait: Callable[[float], bool] | None = None
    ) -> None:
        """`place` is the path of the SQLite file, the address of a PostgreSQL database, for whose lease it waits while
        `wait(seconds)` is False, or a store of another kind.
        """
        self.told = Event()
        """Set whenever the outbox has something new."""
        self._mutex = RLock()
        self._depth = 0
        self._has_told = False
        self._store: Store
        if isinstance(place, Path):
            self._store = SqliteStore(place)
        elif isinstance(place, str):
            self._store = PostgresStore(place, lease_s, wait=wait)
        else:
            self._store = place
        self._fill_in()

    def close(self) -> None:
        """Close the database and let the lock or the lease go."""
        with self._mutex:
            self._store.close()

    @property
    def epoch(self) -> int:
        """Number of this holder; 0 under a file lock."""
        return self._store.epoch

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """Everything inside becomes durable together or not at all; raises `JournalFailed` when it cannot, `Fenced`
        when another executor took over.
        """
        with self._mutex:
            if self._depth:
                yield self._store
                return
            self._depth = 1
            try:
                with self._guarded():
                    self._store.begin()
                    yield self._store
                    self._store.commit()
                if self._has_told:
                    self.told.set()
            finally:
                self._store.rollback()
                self._depth = 0
                self._has_told = False

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except self._store.errors as error:
            raise JournalFailed(
                f"the order journal cannot be written ({error}): nothing is sent until its database has room and works"
            ) from error

    def must_hold(self) -> None:
        """Raise `Fenced` unless this process may still send; asked right before every request that orders something."""
        with self._mutex, self._guarded():
            self._store.must_hold()

    def renew(self) -> None:
        """Stay the holder; raises `Fenced` where another executor took over."""
        with self._mutex, self._guarded():
            self._store.renew()

    def _fill_in(self) -> None:
        """Write into the rows of an older version what newer columns and tables need."""
        with self.transaction() as db:
            for intent_id, payload in self._rows("SELECT intent_id, payload FROM intent WHERE side = ''"):
                intent = _decode_intent(payload)
                db.execute(
                    "UPDATE intent SET side = ?, strategy = ? WHERE intent_id = ?",
                    (intent.side, intent.strategy, intent_id),
                )
                db.execute("UPDATE attempt SET pocket = ? WHERE intent_id = ?", (intent.pocket, intent_id))
                for amounts in self._rows("SELECT quantity, funds, fee FROM fills WHERE intent_id = ?", intent_id):
                    self._add_held(intent, *map(Decimal, amounts))

    # --- what is to be done

    def add_intent(self, intent: OrderIntent, record: Record) -> bool:
        """Journal a decision; False where it stands there already (a duplicate delivery)."""
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO intent(intent_id, seq, account, pocket, market, purpose, side, strategy, payload, state,"
                ' attempt, uuid, refusal, topic, partition, "offset", append_ms, expires_at)'
                " VALUES (?, (SELECT COALESCE(MAX(seq), 0) + 1 FROM intent), ?, ?, ?, ?, ?, ?, ?, 'NEW', 0, '', '',"
                " ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    intent.id, intent.account, intent.pocket, intent.market, intent.purpose, intent.side,
                    intent.strategy, encode(intent),
                    record.topic, record.partition, record.offset, record.append_ms, intent.expires_ms,
                ),
            )  # fmt: skip
            return cursor.rowcount == 1

    def add_cancel(self, cancel: CancelIntent) -> bool:
        """Journal a cancellation; False where it stands there already."""
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO cancel(cancel_id, seq, intent_id, payload, state) VALUES"
                " (?, (SELECT COALESCE(MAX(seq), 0) + 1 FROM cancel), ?, ?, 'NEW') ON CONFLICT DO NOTHING",
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
                "INSERT INTO attempt(identifier, seq, pocket, epoch, intent_id, number, state, burn, uuid,"
                " executed_quantity, executed_funds, paid_fee, changed_ms)"
                " SELECT ?, (SELECT COALESCE(MAX(seq), 0) + 1 FROM attempt), pocket, ?, intent_id, ?, 'SENDING', '',"
                " '', '0', '0', '0', ? FROM intent WHERE intent_id = ?",
                (identifier, self.epoch, number, now_ms, intent_id),
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
            row = self.intent(attempt.intent_id)
            if row is not None:
                self._add_held(row.intent, execution.quantity, execution.funds, fee)

    def _add_held(self, intent: OrderIntent, quantity: Decimal, funds: Decimal, fee: Decimal) -> None:
        key = intent.account, ledger_of(intent), intent.market
        with localcontext(prec=50):
            if intent.side == "buy":
                self.correct_held(*key, bought=quantity, spent=funds + fee)
            else:
                self.correct_held(*key, sold=quantity, earned=funds - fee)

    def correct_held(
        self,
        account: str,
        ledger: str,
        market: str,
        *,
        bought: Decimal = ZERO,
        sold: Decimal = ZERO,
        spent: Decimal = ZERO,
        earned: Decimal = ZERO,
    ) -> None:
        """Add to the sums of a ledger."""
        with self.transaction() as db, localcontext(prec=50):
            where = "FROM held WHERE account = ? AND strategy = ? AND market = ?"
            rows = self._rows(f"SELECT bought, sold, spent, earned {where}", account, ledger, market)
            before = rows[0] if rows else ("0", "0", "0", "0")
            sums = [str(Decimal(old) + new) for old, new in zip(before, (bought, sold, spent, earned), strict=True)]
            db.execute(
                "INSERT INTO held(account, strategy, market, bought, sold, spent, earned) VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (account, strategy, market) DO UPDATE SET bought = excluded.bought, sold = excluded.sold,"
                " spent = excluded.spent, earned = excluded.earned",
                (account, ledger, market, *sums),
            )

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
            self._store.execute(
                "INSERT INTO outbox(topic, key, payload) VALUES (?, ?, ?)", (EVENTS, _pocket_of(event), encode(event))
            )
            if isinstance(event, OrderRejected):
                self._store.execute("UPDATE intent SET refusal = ? WHERE intent_id = ?", (event.name, event.intent_id))

    # --- outbox

    def mark_published(self, seqs: Sequence[int], now_ms: int) -> None:
        """These events were acknowledged by the log."""
        with self.transaction() as db:
            db.executemany("UPDATE outbox SET published_at = ? WHERE seq = ?", [(now_ms, seq) for seq in seqs])

    # --- halts, cursors, external orders

    def apply_halt(self, halt: Halt, *, is_in_force: bool, tell: bool = False) -> bool:
        """Note a kill switch or its end as read; False where this very one was read before. `is_in_force`: it is what
        holds for its account from now on (`halts` decides); `tell`: it goes to `controls` as well.
        """
        with self.transaction() as db:
            seen = db.execute("INSERT INTO halt_seen(id) VALUES (?) ON CONFLICT DO NOTHING", (halt_id(halt),))
            if not seen.rowcount:
                return False
            if is_in_force:
                db.execute(
                    'INSERT INTO halts(account, kind, event_ms, "by") VALUES (?, ?, ?, ?) ON CONFLICT (account)'
                    ' DO UPDATE SET kind = excluded.kind, event_ms = excluded.event_ms, "by" = excluded."by"',
                    (halt.account, halt.kind, halt.event_ms, halt.by),
                )
            if tell:
                self._has_told = True
                db.execute(
                    "INSERT INTO outbox(topic, key, payload) VALUES ('controls', ?, ?)", (halt.account, encode(halt))
                )
            return True

    def set_cursor(self, slot: str, next_offset: int) -> None:
        """Remember how far such a topic was applied."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO cursor(slot, next_offset) VALUES (?, ?)"
                " ON CONFLICT (slot) DO UPDATE SET next_offset = excluded.next_offset",
                (slot, next_offset),
            )

    def add_external(self, uuid: str, identifier: str, market: str, now_ms: int) -> bool:
        """Note an open order that is not ours; True where it is new."""
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO external(uuid, identifier, market, seen_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (uuid, identifier, market, now_ms),
            )
            return cursor.rowcount == 1


def _pocket_of(event: Message) -> str:
    return str(getattr(event, "pocket", ""))
