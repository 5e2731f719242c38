"""What a run did, folded from the log's own records: the demo's live view and its summary. Pure; sends nothing.

`consumers.demo` feeds it records in offset order per partition. Repeated records change no count except `records`.
"""

from collections import Counter, deque
from typing import Any, Literal, NamedTuple

import msgspec

from consumers.trade.people import ALL_ACCOUNTS
from consumers.trade.state import MARKET_VIEW, Shadow
from consumers.watched_orders import WatchedOrders
from infra.log import Record
from streams import topics
from streams.messages import (
    AccountState,
    FeedEvent,
    Halt,
    Heartbeat,
    Hole,
    ModelEvent,
    OrderEvent,
    Refusals,
    Signal,
    Veto,
    Warmed,
    key_of,
)

DATA = ("orderbooks", "trades")
DERIVED = ("features", "signals", "order-intents", "order-events")
READ = (*DATA, *DERIVED, "feed-events", "controls", "model-events", "dead-letters", "account-states")
"""The topics whose records it wants."""
_SAME_CLOCK_MS = 60_000
_ALL_LIVE_MS = 30_000
_NO_REFUSALS = {"rows", "signals"}
"""What predict counts beside its refusals."""
_LATENCIES_KEPT = 200_000


class _Shadowed(msgspec.Struct):
    """The one part of an account's state that is looked at."""

    shadow: Shadow = msgspec.field(default_factory=Shadow)


class _Datum(msgspec.Struct, gc=False):
    """The few fields of a book or trade that are looked at: decoding thirty levels costs ten times as much."""

    type: str
    exchange: str
    source: str
    session: int
    market: str = ""
    exchange_ms: int = 0
    origin: str = "stream"


class _Row(msgspec.Struct, gc=False):
    """The few fields of a feature row that are looked at."""

    exchange: str
    market: str
    bin_ms: int
    n_books: int
    mid: float | None


class Forecast(NamedTuple):
    """A model's expectation beside what a trade needed then."""

    expected_bp: float
    market: str
    horizon_ms: int | None
    needed_bp: float | None
    """Both fees, spread, slippage and threshold as `trade` counted them; None where it told none."""


class _Seen:
    """Newest bin per key: says whether a record is new."""

    def __init__(self) -> None:
        self.newest: dict[object, int] = {}

    def is_new(self, key: object, bin_ms: int) -> bool:
        if bin_ms <= self.newest.get(key, -1):
            return False
        self.newest[key] = bin_ms
        return True


class Watch:
    """The fold.

    `live_from` is what begins the live time: `warm` (the end of the warm-up) or `connected` (a feed without one).
    `least_needed_bp` is what any trade needs by the settings alone (both fees and the threshold).
    """

    def __init__(
        self, *, live_from: Literal["warm", "connected"], lateness_ms: int, speed: float, least_needed_bp: float
    ) -> None:
        self._live_from = live_from
        self._lateness_ms = lateness_ms
        self._speed = speed
        self.least_needed_bp = least_needed_bp
        self.records: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.unreadable = 0
        self.late: Counter[str] = Counter()
        self.markets: set[str] = set()
        self.rows: Counter[str] = Counter()
        self.rows_with_book: Counter[str] = Counter()
        self.mids: dict[str, float] = {}
        self.first_fed_ms = self.fed_ms = self.featured_ms = self.signalled_ms = 0
        self.caught_up_ms = 0
        """Newest heartbeat when all markets were live: signals of earlier bins were behind and tell no latency."""
        self.warm_event_ms: int | None = None
        self.live_append_ms: int | None = None
        self.first_signal_append_ms: int | None = None
        self.all_live_append_ms: int | None = None
        """When every market had given its first live signal; a market that gives none is waited for `_ALL_LIVE_MS`."""
        self._live_markets: set[str] = set()
        self.ended_ms: int | None = None
        self.halts: dict[str, Halt] = {}
        """The newest word on each account, or on all of them by `ALL_ACCOUNTS`; told by a person or by a demo."""
        self.newest_derived_ms = 0
        self.events: deque[FeedEvent] = deque(maxlen=50)
        self.best_signal: Signal | None = None
        self.best_veto: Veto | None = None
        self.needed: dict[str, float] = {}
        self.vetoes: Counter[str] = Counter()
        self.reason_now: dict[str, str] = {}
        self.refused_signals: Counter[str] = Counter()
        self.refused_windows: dict[str, int] = {}
        self.models: set[str] = set()
        self.model_events: deque[ModelEvent] = deque(maxlen=10)
        self.orders = WatchedOrders()
        self.shadows: dict[str, Shadow] = {}
        self.latencies: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._closed: dict[tuple[str, int, str], tuple[int, int, int]] = {}
        self._beats: dict[tuple[str, int], int] = {}
        self._row_seen = _Seen()
        self._signal_seen = _Seen()
        self._datum = msgspec.json.Decoder(_Datum)
        self._row = msgspec.json.Decoder(_Row)
        self._shadowed = msgspec.json.Decoder(_Shadowed)

    def apply(self, record: Record) -> None:
        """Fold one record; what cannot be read is counted."""
        self.records[record.topic] += 1
        if record.topic in DERIVED:
            self.newest_derived_ms = max(self.newest_derived_ms, record.append_ms)
        try:
            if record.topic in DATA:
                self._on_datum(record)
            elif record.topic == "features":
                self._on_row(self._row.decode(record.value))
            elif record.topic == "account-states":
                self._on_state(topics.decode(record.topic, record.value))
            else:
                self._on_message(record, topics.decode(record.topic, record.value))
        except msgspec.DecodeError:
            self.unreadable += 1

    def quantile(self, share: float) -> float | None:
        """Milliseconds from a bin's end to its signal's place in the log that `share` of the live signals kept."""
        if not self.latencies:
            return None
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def largest(self) -> Forecast | None:
        """The largest forecast and what a trade in that market needed; the veto's own pair where it is as large."""
        signal, veto = self.best_signal, self.best_veto
        if veto is not None and (signal is None or (veto.best_expected_bp or 0.0) >= signal.expected_bp):
            key = key_of(veto.exchange, veto.market)
            needed = veto.needed_bp if veto.needed_bp is not None else self.needed.get(key)
            return Forecast(veto.best_expected_bp or 0.0, veto.market, veto.horizon_ms, needed)
        if signal is None:
            return None
        needed = self.needed.get(key_of(signal.exchange, signal.market))
        return Forecast(signal.expected_bp, signal.market, signal.horizon_ms, needed)

    def lag_seconds(self, stage: str) -> float | None:
        """How far a stage's newest bin lies behind the feed's newest heartbeat, in market time."""
        newest = {"features": self.featured_ms, "signals": self.signalled_ms}[stage]
        return (self.fed_ms - newest) / 1000 if newest and self.fed_ms else None

    def halts_on(self, account: str) -> list[Halt]:
        """What halts an account now, its own halt and the one of all."""
        found = (self.halts.get(name) for name in (account, ALL_ACCOUNTS))
        return [halt for halt in found if halt is not None and halt.kind != "lifted"]

    def late_share(self) -> float:
        """Late records as a share of all books and trades."""
        data = self.counts["orderbooks"] + self.counts["trades"]
        return sum(self.late.values()) / data if data else 0.0

    def summary(self) -> dict[str, Any]:
        """Everything that the run's summary says, as numbers."""
        orders, best = self.orders, self.largest()
        return {
            "counts": {
                "orderbooks": self.counts["orderbooks"],
                "trades": self.counts["trades"],
                "backfilled_trades": self.counts["backfill"],
                "features": self.counts["features"],
                "signals": self.counts["signals"],
                "intents": len(orders.intents),
                "fills": orders.fills,
                "dead_letters": self.records["dead-letters"],
                "holes": self.counts["holes"],
                "unreadable": self.unreadable,
            },
            "records": dict(self.records),
            "late": {"records": sum(self.late.values()), "share": self.late_share(), **self.late},
            "markets": len(self.markets),
            "rows": dict(sorted(self.rows.items())),
            "rows_with_book": {market: self.rows_with_book[market] for market in sorted(self.rows)},
            "markets_without_book": sorted(m for m in self.markets if not self.rows_with_book[m]),
            "forecast": {
                "largest_bp": best.expected_bp if best else None,
                "market": best.market if best else None,
                "horizon_ms": best.horizon_ms if best else None,
                "needed_bp": best.needed_bp if best else None,
                "least_needed_bp": self.least_needed_bp,
            },
            "orders": {
                "entries_filled": orders.filled(entries=True),
                "exits_filled": orders.filled(entries=False),
                **{name: len(found) for name, found in orders.outcomes.items()},
                "rejections": dict(orders.rejections),
            },
            "money": orders.money(self.mids),
            "older_rule": {
                "trades": sum(shadow.trades for shadow in self.shadows.values()),
                "result": float(sum(shadow.result for shadow in self.shadows.values())),
            },
            "latency_ms": {
                "p50": self.quantile(0.5),
                "p99": self.quantile(0.99),
                "signals": len(self.latencies),
                "behind_at_the_start": self.counts["catching_up"],
            },
            "vetoes": dict(self.vetoes.most_common()),
            "refused_signals": dict(self.refused_signals.most_common()),
            "refused_windows": self.refused_windows,
            "models": sorted(self.models),
        }

    def _on_datum(self, record: Record) -> None:
        datum = self._datum.decode(record.value)
        if datum.type == "heartbeat":
            self._on_heartbeat(record, topics.decode(record.topic, record.value))
        elif datum.type == "hole":
            self.counts["holes"] += isinstance(topics.decode(record.topic, record.value), Hole)
        else:
            self.counts[record.topic] += 1
            self.markets.add(key_of(datum.exchange, datum.market))
            self.counts["backfill"] += datum.origin == "backfill"
            session, complete_ms, closed_ms = self._closed.get(
                (record.topic, record.partition, datum.source), (0, 0, 0)
            )
            is_judged = datum.origin == "stream" and datum.session == session
            if is_judged and complete_ms <= datum.exchange_ms < closed_ms:
                self.late[record.topic] += 1

    def _on_heartbeat(self, record: Record, beat: Heartbeat) -> None:
        self.markets.update(key_of(beat.exchange, market) for market in beat.markets)
        self.fed_ms = max(self.fed_ms, beat.event_ms)
        self.first_fed_ms = self.first_fed_ms or beat.event_ms
        place = (record.topic, record.partition, beat.source)
        if beat.session >= self._closed.get(place, (0, 0, 0))[0]:
            self._closed[place] = (beat.session, beat.complete_from_ms, beat.event_ms)
        self._beats.setdefault((record.topic, beat.event_ms), record.append_ms)
        if len(self._beats) > 2_000:
            for old in list(self._beats)[:1_000]:
                del self._beats[old]

    def _on_row(self, row: _Row) -> None:
        key = key_of(row.exchange, row.market)
        if not self._row_seen.is_new(key, row.bin_ms):
            return
        self.counts["features"] += 1
        self.rows[key] += 1
        self.rows_with_book[key] += row.n_books > 0
        self.featured_ms = max(self.featured_ms, row.bin_ms)
        if row.mid is not None:
            self.mids[key] = row.mid

    def _on_state(self, state: AccountState) -> None:
        if state.account != MARKET_VIEW:
            self.shadows[state.account] = self._shadowed.decode(state.state).shadow

    def _on_message(self, record: Record, message: Any) -> None:
        if isinstance(message, Signal):
            self._on_signal(record, message)
        elif isinstance(message, FeedEvent):
            self._on_feed_event(record, message)
        elif isinstance(message, Warmed):
            self._on_warm(record.append_ms, message.event_ms)
        elif isinstance(message, Halt):
            self.halts[message.account] = message
        elif isinstance(message, Refusals):
            self.refused_windows = {why: n for why, n in message.counts.items() if why not in _NO_REFUSALS}
        elif isinstance(message, ModelEvent):
            self.model_events.append(message)
        elif isinstance(message, Veto):
            self._on_veto(message)
        elif record.topic == "order-intents":
            self.orders.on_intent(message)
        elif isinstance(message, OrderEvent):
            self.orders.on_event(message)

    def _on_feed_event(self, record: Record, event: FeedEvent) -> None:
        self.events.append(event)
        if event.kind == "warm":
            self._on_warm(record.append_ms, event.event_ms)
        elif event.kind == "connected" and self._live_from == "connected" and self.live_append_ms is None:
            self.live_append_ms = record.append_ms
        elif event.kind == "ended" and self.ended_ms is None:
            self.ended_ms = record.append_ms

    def _on_warm(self, append_ms: int, event_ms: int) -> None:
        if self.warm_event_ms is None:
            self.warm_event_ms = event_ms
            if self._live_from == "warm":
                self.live_append_ms = append_ms

    def _on_signal(self, record: Record, signal: Signal) -> None:
        key = (signal.exchange, signal.market, signal.horizon_ms)
        if not self._signal_seen.is_new(key, signal.bin_ms):
            return
        self.counts["signals"] += 1
        self.signalled_ms = max(self.signalled_ms, signal.bin_ms)
        self.models.add(signal.model_id)
        if signal.refusal:
            self.refused_signals[signal.refusal] += 1
        if self._live_from == "warm" and (self.warm_event_ms is None or signal.bin_ms <= self.warm_event_ms):
            return
        self._note_live(key_of(signal.exchange, signal.market), record.append_ms)
        if self.best_signal is None or signal.expected_bp > self.best_signal.expected_bp:
            self.best_signal = signal
        if self.all_live_append_ms is None or signal.bin_ms < self.caught_up_ms:
            self.counts["catching_up"] += 1
            return
        latency = self._latency_ms(signal.bin_ms, record.append_ms)
        if latency is not None:
            self.latencies.append(latency)

    def _note_live(self, market: str, append_ms: int) -> None:
        """A live signal of a market: the stages come through the warm-up partition by partition, not all at once."""
        if self.first_signal_append_ms is None:
            self.first_signal_append_ms = append_ms
        if self.all_live_append_ms is not None:
            return
        self._live_markets.add(market)
        is_late = append_ms - self.first_signal_append_ms >= _ALL_LIVE_MS
        if is_late or self._live_markets >= self.markets:
            self.all_live_append_ms = append_ms
            self.caught_up_ms = self.fed_ms

    def _latency_ms(self, bin_ms: int, append_ms: int) -> float | None:
        """By the exchange's clock where it agrees with ours, else from the bin's heartbeat, plus the lateness."""
        if abs(append_ms - bin_ms) < _SAME_CLOCK_MS:
            return float(append_ms - bin_ms)
        beats = [self._beats[topic, bin_ms] for topic in DATA if (topic, bin_ms) in self._beats]
        return append_ms - min(beats) + self._lateness_ms / self._speed if beats else None

    def _on_veto(self, veto: Veto) -> None:
        key = key_of(veto.exchange, veto.market)
        self.vetoes[veto.reason] += 1
        self.reason_now[f"{veto.account} {key}"] = veto.reason
        if veto.needed_bp is not None:
            self.needed[key] = veto.needed_bp
        if veto.best_expected_bp is None:
            return
        if self.best_veto is None or veto.best_expected_bp > (self.best_veto.best_expected_bp or 0.0):
            self.best_veto = veto
