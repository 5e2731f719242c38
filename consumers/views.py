"""Keeps the pages' database (`infra.tables.views`) equal to the log: idempotent upserts, offsets in the same commit.

Called by the supervisor through `run`. Only the newest book and features of a market are written, twice a second. It
decides nothing, and losing its file loses nothing.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Table, func
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlmodel import Session, text

from consumers import view_rows as rows
from consumers.trade.inputs import behind
from consumers.trade.reasons import WORDS
from consumers.trade.state import MARKET_VIEW
from infra.errors import Retry, TopicMissing
from infra.log import Log, Publisher, Reader, Record, Slot, slots_of
from infra.settings import Settings
from infra.tables import views as t
from infra.watchdog import Watchdog
from streams import messages as m
from streams import topics

logger = logging.getLogger(__name__)

TAILS = {
    "orderbooks": 20_000, "trades": 20_000, "features": 20_000, "signals": 60_000, "markets": 5_000,
    "feed-events": 5_000, "dead-letters": 0, "order-intents": None, "order-events": None, "account-states": None,
    "balances": None,
}  # fmt: skip
"""What is read, and how many records per partition a new database begins with (None: all there are)."""
KEPT_TRADES = 200
KEPT_ROWS = {"mid": 300_000, "signal": 100_000, "veto": 20_000, "feed_event": 5_000}
_BATCH = 5_000
_READ_S = 0.1
_WRITE_EVERY_S = 0.5
_PRUNE_EVERY_S = 10.0
_RETRY_S = 1.0
_LATEST = frozenset({"orderbooks", "markets", "account-states"})
"""Topics of which only the newest record per key counts."""

Row = dict[str, Any]
_TABLES: dict[type, tuple[type[t.ViewTable], Callable[[Any], Row]]] = {
    m.Signal: (t.SignalTable, rows.signal_row),
    m.OrderBook: (t.BookTable, rows.book_row),
    m.Market: (t.NameTable, rows.name_row),
    m.Balance: (t.BalanceTable, rows.balance_row),
}
_PLACED: dict[type, tuple[type[t.ViewTable], Callable[[Any, str, int, int], Row]]] = {
    m.Veto: (t.VetoTable, rows.veto_row),
    m.FeedEvent: (t.FeedEventTable, rows.feed_event_row),
}


class Batch:
    """What came since the last write, coalesced."""

    def __init__(self) -> None:
        self.next: dict[Slot, int] = {}
        self.records: Counter[str] = Counter()
        self.marks: Counter[str] = Counter()
        self.append_ms: dict[str, int] = {}
        self.event_ms: dict[str, int] = {}
        self.latest: dict[tuple[str, str], Record] = {}
        self.features: dict[str, m.Features] = {}
        self.trades: dict[str, deque[Row]] = {}
        self.rows: dict[type[t.ViewTable], list[Row]] = {}
        self.orders: dict[str, Row] = {}
        self.dead: list[tuple[Record, str]] = []

    def add(self, record: Record) -> None:
        """Take one record."""
        topic = record.topic
        self.next[record.slot] = record.offset + 1
        self.append_ms[topic] = max(self.append_ms.get(topic, 0), record.append_ms)
        if not record.key and topic in ("orderbooks", "trades"):
            self.marks[topic] += 1
            return
        self.records[topic] += 1
        if topic in _LATEST:
            self.latest[(topic, record.key)] = record
        elif topic != "dead-letters" and (message := self._decoded(record)) is not None:
            self._take(record, message)

    def finish(self) -> None:
        """Read the newest records of those topics of which only they count."""
        for record in self.latest.values():
            if (message := self._decoded(record)) is not None:
                self._take(record, message)
        self.latest.clear()
        for features in self.features.values():
            self._put(t.MarketTable, rows.market_row(features))
        for kept in self.trades.values():
            self.rows.setdefault(t.TradeTable, []).extend(kept)

    def _decoded(self, record: Record) -> Any:
        try:
            return topics.decode(record.topic, record.value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.dead.append((record, str(error)))
            return None

    def _put(self, table: type[t.ViewTable], row: Row) -> None:
        self.rows.setdefault(table, []).append(row)

    def _take(self, record: Record, message: Any) -> None:
        event_ms = getattr(message, "bin_ms", 0) or getattr(message, "exchange_ms", 0) or message.event_ms
        self.event_ms[record.topic] = max(self.event_ms.get(record.topic, 0), event_ms)
        kind = type(message)
        if kind in _TABLES:
            table, to_row = _TABLES[kind]
            self._put(table, to_row(message))
        elif kind in _PLACED:
            table, to_placed = _PLACED[kind]
            self._put(table, to_placed(message, record.topic, record.partition, record.offset))
        elif isinstance(message, m.Trade):
            kept = self.trades.setdefault(m.key_of(message.exchange, message.market), deque(maxlen=KEPT_TRADES))
            kept.append(rows.trade_row(message))
        elif isinstance(message, m.Features):
            self._on_features(message)
        elif isinstance(message, m.AccountState):
            self._on_account(record, message)
        elif isinstance(message, m.OrderIntent):
            self._change_order(rows.intent_row(message))
        elif not isinstance(message, m.CancelIntent | m.Heartbeat | m.Hole):
            self._on_order_event(message)

    def _on_features(self, features: m.Features) -> None:
        key = m.key_of(features.exchange, features.market)
        earlier = self.features.get(key)
        if earlier is None or features.bin_ms >= earlier.bin_ms:
            self.features[key] = features
        if features.mid is not None:
            self._put(t.MidTable, rows.fields(features, "exchange", "market", "bin_ms", "mid"))

    def _on_account(self, record: Record, state: m.AccountState) -> None:
        if state.account == MARKET_VIEW:
            return
        try:
            found = rows.account_rows(state)
        except msgspec.MsgspecError as error:
            self.dead.append((record, str(error)))
            return
        for table, more in found.items():
            self.rows.setdefault(table, []).extend(more)

    def _on_order_event(self, event: m.OrderEvent) -> None:
        self._change_order(rows.order_change(event))
        if isinstance(event, m.OrderFilled):
            self._put(t.FillTable, rows.fill_row(event))

    def _change_order(self, change: Row) -> None:
        self.orders.setdefault(change["intent_id"], {}).update(change)


class Views:
    """Reads, coalesces and writes. One per database."""

    def __init__(self, log: Log, engine: Engine) -> None:
        self._engine = engine
        self._publisher: Publisher = log.publisher()
        self._log = log
        self._positions = starting_points(log, engine)
        self._reader: Reader = log.reader(self._positions)
        self._batch = Batch()
        self._write(_words())

    def read(self, timeout_s: float = _READ_S) -> bool:
        """Take what is there; whether there was anything."""
        records = self._reader.read(_BATCH, timeout_s)
        for record in records:
            self._batch.add(record)
            self._positions[record.slot] = record.offset + 1
        return bool(records)

    def write(self) -> None:
        """Write what was taken, with the offsets, as one commit. Unreadable records become dead letters first."""
        batch, self._batch = self._batch, Batch()
        if not batch.next:
            return
        batch.finish()
        for record, reason in batch.dead:
            letter = m.DeadLetter.of(
                "views", record.topic, record.partition, record.offset, record.key, reason, record.value
            )  # fmt: skip
            self._publisher.publish("dead-letters", "views", m.encode(letter))
        if batch.dead:
            self._publisher.flush()
        self._write(batch)

    def prune(self) -> None:
        """Let go of what is beyond the bounds."""
        with self._engine.begin() as connection:
            for table, kept in KEPT_ROWS.items():
                sql = f"DELETE FROM {table} WHERE rowid <= (SELECT max(rowid) FROM {table}) - :kept"  # noqa: S608 - own names
                connection.execute(text(sql), {"kept": kept})
            connection.execute(text(_PRUNE_TRADES), {"kept": KEPT_TRADES})

    def behind(self) -> str | None:
        """What could be read but is not; asked from the watchdog's thread."""
        return behind(self._log, dict(self._positions))

    def close(self) -> None:
        """Let go of the log and the file."""
        self._reader.close()
        self._publisher.close()
        self._engine.dispose()

    def _write(self, batch: Batch) -> None:
        with self._engine.begin() as connection:
            for account in {row["account"] for row in batch.rows.get(t.AccountTable, [])}:
                connection.execute(text("DELETE FROM position WHERE account = :account"), {"account": account})
            for table, found in batch.rows.items():
                if found:
                    connection.execute(_upsert(table), found)
            for change in batch.orders.values():
                connection.execute(_upsert(t.OrderTable, tuple(change)), change)
            _count(connection, batch)


_PRUNE_TRADES = """
DELETE FROM trade WHERE rowid IN (
  SELECT id FROM (
    SELECT rowid AS id, row_number() OVER (
      PARTITION BY exchange, market ORDER BY exchange_ms DESC, trade_id DESC
    ) AS place FROM trade
  ) WHERE place > :kept
)"""


def _words() -> Batch:
    """The words of all reasons as a batch: pages do not import this room."""
    batch = Batch()
    batch.rows[t.ReasonTextTable] = [
        {"reason": str(reason), "english": english, "korean": korean} for reason, (english, korean) in WORDS.items()
    ]
    return batch


def _count(connection: Connection, batch: Batch) -> None:
    """Move offsets and statistics."""
    if batch.next:
        offsets = [{"topic": s.topic, "partition": s.partition, "next": offset} for s, offset in batch.next.items()]
        connection.execute(_upsert(t.OffsetTable), offsets)
    for topic, append_ms in batch.append_ms.items():
        new = insert(_table(t.StageTable)).values(
            topic=topic,
            records=batch.records[topic],
            marks=batch.marks[topic],
            last_event_ms=batch.event_ms.get(topic, 0),
            last_append_ms=append_ms,
        )
        old = _table(t.StageTable).c
        added = {
            "records": old.records + new.excluded.records,
            "marks": old.marks + new.excluded.marks,
            "last_event_ms": func.max(old.last_event_ms, new.excluded.last_event_ms),
            "last_append_ms": func.max(old.last_append_ms, new.excluded.last_append_ms),
        }
        connection.execute(new.on_conflict_do_update(index_elements=["topic"], set_=added))


def _table(model: type[t.ViewTable]) -> Table:
    found: Table = t.ViewTable.metadata.tables[str(model.__tablename__)]
    return found


@cache
def _upsert(model: type[t.ViewTable], columns: tuple[str, ...] | None = None) -> Insert:
    """Insert rows, or write their columns over those that are there by primary key."""
    table = _table(model)
    keys = [column.name for column in table.primary_key.columns]
    names = [column.name for column in table.columns] if columns is None else list(columns)
    statement = insert(table)
    changed = {name: statement.excluded[name] for name in names if name not in keys}
    if model is t.SignalTable:
        return statement.on_conflict_do_nothing(index_elements=keys)
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)


def starting_points(log: Log, engine: Engine) -> dict[Slot, int]:
    """Where to go on: the stored offsets, or the tails that a new database begins with.

    A stored offset beyond the log's end means that the log is another one: everything is forgotten and built again.
    """
    slots = slots_of(log, TAILS)
    bounds = log.bounds(slots)
    with Session(engine) as session:
        stored = t.offsets(session)
    if any(stored.get((slot.topic, slot.partition), 0) > bounds[slot][1] for slot in slots):
        logger.warning("the log is not the one that the views were built from: building them again")
        with engine.begin() as connection:
            for table in t.ViewTable.metadata.tables.values():
                connection.execute(table.delete())
        stored = {}
    return {slot: _start(slot, bounds[slot], stored) for slot in slots}


def _start(slot: Slot, bounds: tuple[int, int], stored: Mapping[tuple[str, int], int]) -> int:
    first, end = bounds
    if (found := stored.get((slot.topic, slot.partition))) is not None:
        return max(found, first)
    tail = TAILS[slot.topic]
    return first if tail is None else max(first, end - tail)


def run(settings: Settings, log: Log, stop: threading.Event) -> None:
    """Keep the views until `stop` is set; after a `Retry` go on from the stored offsets."""
    while not stop.is_set():
        views: Views | None = None
        try:
            views = Views(log, t.open_views(t.path_of(settings.home)))
            _keep(views, stop)
        except (Retry, TopicMissing) as error:
            logger.warning("views start over from their stored offsets: %s", error)
            stop.wait(_RETRY_S)
        finally:
            if views is not None:
                views.close()


def _keep(views: Views, stop: threading.Event) -> None:
    """Turn until `stop`; a watchdog ends the process where it hangs."""
    watchdog = Watchdog(views.behind)
    watchdog.start()
    written_s = pruned_s = time.monotonic()
    try:
        while not stop.is_set():
            if views.read():
                watchdog.progress()
            watchdog.beat()
            now_s = time.monotonic()
            if now_s - written_s >= _WRITE_EVERY_S:
                views.write()
                written_s = now_s
            if now_s - pruned_s >= _PRUNE_EVERY_S:
                views.prune()
                pruned_s = now_s
        views.write()
    finally:
        watchdog.stop()
