"""What came since the last write of the views, coalesced: the newest book per market, rows of everything else.

Filled and emptied by `consumers.views`. Pure: it knows messages and rows, neither the log nor a database.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgspec

from consumers import view_rows as rows
from consumers.trade.reasons import WORDS
from consumers.trade.state import MARKET_VIEW
from infra.log import Record, Slot
from infra.tables import views as t
from streams import messages as m
from streams import topics

KEPT_TRADES = 200
"""Trades kept per market."""
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

_NO_ROW = (m.CancelIntent, m.Heartbeat, m.Hole, m.RequestTold, m.KeyTold, m.AccountPaused)


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
        elif not isinstance(message, _NO_ROW):
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


def words() -> Batch:
    """The words of all reasons as a batch: pages do not import this room."""
    batch = Batch()
    batch.rows[t.ReasonTextTable] = [
        {"reason": str(reason), "english": english, "korean": korean} for reason, (english, korean) in WORDS.items()
    ]
    return batch
