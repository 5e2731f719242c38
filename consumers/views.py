"""Keeps the pages' database (`infra.tables.views`) equal to the log: idempotent upserts, offsets in the same commit.

Called by the supervisor through `run`. Only the newest book and features of a market are written, twice a second. It
decides nothing, and losing its file loses nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache

from sqlalchemy import Connection, Engine, Table, func
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlmodel import Session, text

from consumers.trade.inputs import behind
from consumers.view_batch import KEPT_TRADES, Batch, words
from infra.errors import Retry, TopicMissing
from infra.log import Log, Publisher, Reader, Slot, slots_of
from infra.settings import Settings
from infra.tables import view_questions as questions
from infra.tables import views as t
from infra.watchdog import Watchdog
from streams import messages as m

logger = logging.getLogger(__name__)

TAILS = {
    "orderbooks": 20_000, "trades": 20_000, "features": 20_000, "signals": 60_000, "markets": 5_000,
    "feed-events": 5_000, "dead-letters": 0, "order-intents": None, "order-events": None, "account-states": None,
    "balances": None,
}  # fmt: skip
"""What is read, and how many records per partition a new database begins with (None: all there are)."""
KEPT_ROWS = {"mid": 300_000, "signal": 100_000, "veto": 20_000, "feed_event": 5_000}
_BATCH = 5_000
_READ_S = 0.1
_WRITE_EVERY_S = 0.5
_PRUNE_EVERY_S = 10.0
_RETRY_S = 1.0


class Views:
    """Reads, coalesces and writes. One per database."""

    def __init__(self, log: Log, engine: Engine) -> None:
        self._engine = engine
        self._publisher: Publisher = log.publisher()
        self._log = log
        self._positions = starting_points(log, engine)
        self._reader: Reader = log.reader(self._positions)
        self._batch = Batch()
        self._write(words())

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

    def prune(self, beat: Callable[[], None]) -> None:
        """Let go of what is beyond the bounds, table by table; `beat` after each: a busy disk takes seconds for all."""
        for table, kept in KEPT_ROWS.items():
            self._delete(f"DELETE FROM {table} WHERE rowid <= (SELECT max(rowid) FROM {table}) - :kept", kept)  # noqa: S608 - own names
            beat()
        self._delete(_PRUNE_TRADES, KEPT_TRADES)
        beat()

    def behind(self) -> str | None:
        """What could be read but is not; asked from the watchdog's thread."""
        return behind(self._log, dict(self._positions))

    def close(self) -> None:
        """Let go of the log and the file."""
        self._reader.close()
        self._publisher.close()
        self._engine.dispose()

    def _delete(self, sql: str, kept: int) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(sql), {"kept": kept})

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
        stored = questions.offsets(session)
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
                watchdog.beat()
                written_s = now_s
            if now_s - pruned_s >= _PRUNE_EVERY_S:
                views.prune(watchdog.beat)
                pruned_s = now_s
        views.write()
    finally:
        watchdog.stop()
