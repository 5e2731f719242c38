"""A source and its session: which records market data, heartbeats and holes become, in which partition, in which order.

Pure: no I/O, times are passed in (`now_ns` is monotonic, `wall_ns` our wall clock). `producers.upbit.feed` publishes
what it returns, in that order; `producers.upbit.replay_source` runs it over recordings. It never drops a record
silently: what it cannot place raises `BadMessage`.

Order in every partition of both topics: a heartbeat at `complete_from_ms`, then data with a heartbeat at each grid
boundary once the exchange's estimated time has passed it by the lateness. After a break: a `Hole`, then a heartbeat
at the new `complete_from_ms`, then as before.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from infra.errors import BadMessage
from infra.log import partition_of
from producers.upbit.clock import ExchangeClock
from streams.messages import FeedEvent, Heartbeat, Hole, Message, OrderBook, Trade, encode, key_of

BOOKS = "orderbooks"
TRADES = "trades"
JUMP_LIMIT_MS = 60_000
"""A message this far ahead of the exchange's estimated time needs a second one that says the same."""
IDS_PER_MARKET = 1024

FeedKind = Literal["connected", "disconnected", "hole", "stale", "recovered", "refused", "ended", "warm"]


class Output(NamedTuple):
    """One record to publish."""

    topic: str
    partition: int
    key: str
    value: bytes


class Stretch(NamedTuple):
    """[`from_ms`, `to_ms`) of market time."""

    from_ms: int
    to_ms: int


class _Lane:
    """One partition of one topic: what the session has said in it."""

    def __init__(self, topic: str, partition: int, markets: list[str]) -> None:
        self.topic = topic
        self.partition = partition
        self.markets = markets
        self.count = 0
        self.closed_ms = 0
        self.complete_from_ms = 0


class _Place(NamedTuple):
    """Where a market's records go."""

    key: str
    books: _Lane
    trades: _Lane


class TradeIds:
    """The last trade ids per market, so that a trade that comes twice is published once.

    A back-filled trade gives way to the stream: only the stream's trades enter features.
    """

    def __init__(self, per_market: int = IDS_PER_MARKET) -> None:
        self._per_market = per_market
        self._stream: dict[str, dict[int, None]] = {}
        self._backfill: dict[str, dict[int, None]] = {}

    def remember(self, market: str, trade_id: int) -> None:
        """Take note of a trade that an earlier session published."""
        ids = self._backfill.setdefault(market, {})
        ids[trade_id] = None
        if len(ids) > self._per_market:
            del ids[next(iter(ids))]

    def is_new(self, trade: Trade) -> bool:
        """Whether the trade was not seen yet; from now on it was."""
        stream = self._stream.setdefault(trade.market, {})
        if trade.trade_id in stream:
            return False
        ids = stream
        if trade.origin == "backfill":
            ids = self._backfill.setdefault(trade.market, {})
            if trade.trade_id in ids:
                return False
        ids[trade.trade_id] = None
        if len(ids) > self._per_market:
            del ids[next(iter(ids))]
        return True


class Source:
    """One session of one source: an exchange and the markets that this process reads from it.

    `since_ms` is where an earlier session broke off: trades from there on are to be back-filled, but for those `known`
    (market, trade id), which it published. `is_wall_timed` says that the exchange keeps the time of our wall clock.
    """

    def __init__(
        self,
        exchange: str,
        name: str,
        session: int,
        markets: Iterable[str],
        *,
        grid_ms: int,
        lateness_ms: int,
        speed: float,
        partitions: int,
        since_ms: int = 0,
        known: Iterable[tuple[str, int]] = (),
        is_wall_timed: bool = False,
    ) -> None:
        self.exchange = exchange
        self.name = name
        self.session = session
        self.markets = sorted(markets)
        self._grid_ms = grid_ms
        self._lateness_ms = lateness_ms
        self._clock = ExchangeClock(speed)
        self._is_wall_timed = is_wall_timed
        self._ids = TradeIds()
        for market, trade_id in known:
            self._ids.remember(market, trade_id)
        keys = {market: key_of(exchange, market) for market in self.markets}
        spread: list[list[str]] = [[] for _ in range(partitions)]
        for market, key in keys.items():
            spread[partition_of(key, partitions)].append(market)
        books = [_Lane(BOOKS, number, named) for number, named in enumerate(spread)]
        trades = [_Lane(TRADES, number, named) for number, named in enumerate(spread)]
        self._lanes = [*books, *trades]
        self._places: dict[str, _Place] = {}
        for market, key in keys.items():
            number = partition_of(key, partitions)
            self._places[market] = _Place(key, books[number], trades[number])
        self._next_ms = 0
        self._is_live = False
        self._suspect_ms: int | None = None
        self._reason = "disconnected"
        self._since_ms = since_ms
        self._holes: list[Stretch] = []

    @property
    def is_live(self) -> bool:
        """Whether data came since the last connect: only then heartbeats are due."""
        return self._is_live

    @property
    def closed_ms(self) -> int:
        """The last boundary that a heartbeat closed, 0 before the first."""
        return max(lane.closed_ms for lane in self._lanes)

    @property
    def complete_to_ms(self) -> int:
        """Where the trades to be back-filled begin: the last boundary closed, in an earlier session if not in this."""
        return self.closed_ms or self._since_ms

    def estimate_ms(self, now_ns: int) -> int:
        """The exchange's time now, as estimated; 0 before the first message."""
        return int(self._clock.estimate_ms(now_ns)) if self._clock.largest_ms else 0

    # --- data -----------------------------------------------------------------------------------------------------

    def take(self, message: OrderBook | Trade, now_ns: int) -> list[Output]:
        """Records for one message: heartbeats that its time makes due, then itself; none for a repeated trade.

        Raises `BadMessage` for a market that was not subscribed and for a time far ahead that no second message
        confirms.
        """
        place = self._places.get(message.market)
        if place is None:
            raise BadMessage(f"market {message.market[:40]} was not subscribed")
        exchange_ms = message.exchange_ms
        outputs: list[Output] = []
        if not self._is_live or exchange_ms > self._clock.largest_ms:
            self._check_jump(exchange_ms, message.received_ns, now_ns)
            outputs = self._advance(exchange_ms, now_ns)
        if isinstance(message, Trade):
            if not self._ids.is_new(message):
                return outputs
            lane = place.trades
        else:
            lane = place.books
        lane.count += 1
        outputs.append(Output(lane.topic, lane.partition, place.key, encode(message)))
        return outputs

    def backfill(self, trades: Iterable[Trade]) -> list[Output]:
        """Records for trades fetched after a hole; those already seen are left out. They never enter features."""
        outputs = []
        for trade in trades:
            place = self._places.get(trade.market)
            if place is not None and self._is_live and self._ids.is_new(trade):
                if trade.session != self.session:  # asked for by an earlier one: readers count by who writes
                    trade = msgspec.structs.replace(trade, session=self.session)  # noqa: PLW2901 - the same trade
                place.trades.count += 1
                outputs.append(Output(TRADES, place.trades.partition, place.key, encode(trade)))
        return outputs

    def _advance(self, exchange_ms: int, now_ns: int) -> list[Output]:
        """Move the clock by a message's time, begin or resume the session, and close what is due."""
        seen_ms = max(self._clock.largest_ms, exchange_ms)
        self._clock.see(exchange_ms, now_ns)
        if not self._is_live:
            self._is_live = True
            return self._begin(seen_ms)
        if exchange_ms >= self._next_ms + self._lateness_ms:
            return self._close(self._boundary_ms(exchange_ms - self._lateness_ms))
        return []

    def _check_jump(self, exchange_ms: int, received_ns: int, now_ns: int) -> None:
        """One wrong timestamp must not close the bins of the next years: the clock never goes back.

        The first message is held against our wall clock where that means anything. A wall clock that is wrong costs
        that one message: the second agrees with it.
        """
        if self._clock.largest_ms:
            expected_ms = self._clock.estimate_ms(now_ns)
        elif self._is_wall_timed:
            expected_ms = received_ns / 1e6
        else:
            return
        if exchange_ms <= expected_ms + JUMP_LIMIT_MS:
            return
        suspect_ms, self._suspect_ms = self._suspect_ms, exchange_ms
        if suspect_ms is None or abs(exchange_ms - suspect_ms) > JUMP_LIMIT_MS:
            raise BadMessage(f"its time {exchange_ms} lies far ahead of the exchange's")

    # --- heartbeats and holes -------------------------------------------------------------------------------------

    def due_ns(self) -> int | None:
        """The monotonic time at which `tick` has something to say, None while no data flows."""
        return self._clock.due_ns(self._next_ms + self._lateness_ms) if self._is_live else None

    def tick(self, now_ns: int) -> list[Output]:
        """Heartbeats that the passing of time makes due.

        The trap: call it only when every frame that came before `now_ns` was taken, else they are late.
        """
        if not self._is_live:
            return []
        safe_ms = self._clock.estimate_ms(now_ns) - self._lateness_ms
        return self._close(self._boundary_ms(int(safe_ms))) if safe_ms >= self._next_ms else []

    def finish(self) -> list[Output]:
        """Last heartbeats of a market that ended: they close the bin of the last message."""
        if not self._is_live:
            return []
        self._is_live = False
        return self._close(self._boundary_ms(self._clock.largest_ms) + self._grid_ms)

    def on_disconnected(self, reason: str) -> None:
        """No heartbeat until data flow again: the next ones would close bins with lost data."""
        self._is_live = False
        self._suspect_ms = None
        self._reason = reason

    def holes(self) -> list[Stretch]:
        """The holes declared since the last call, for the back-fill."""
        holes, self._holes = self._holes, []
        return holes

    def _begin(self, seen_ms: int) -> list[Output]:
        """First words of a session, or after a reconnect, in every partition of both topics."""
        from_ms = self.complete_to_ms
        to_ms = max(self._boundary_ms(seen_ms) + self._grid_ms, self.closed_ms)
        outputs: list[Output] = []
        for lane in self._lanes:
            if lane.closed_ms < to_ms:
                outputs += self._reopen(lane, to_ms, self._reason)
        if 0 < from_ms < to_ms:
            self._holes.append(Stretch(from_ms, to_ms))
        self._next_ms = to_ms + self._grid_ms
        return outputs

    def _reopen(self, lane: _Lane, to_ms: int, reason: str) -> list[Output]:
        outputs = []
        if lane.closed_ms:
            hole = Hole(
                exchange=self.exchange,
                source=self.name,
                session=self.session,
                from_ms=lane.closed_ms,
                to_ms=to_ms,
                markets=lane.markets,
                reason=reason,
            )
            outputs.append(_in_band(lane, hole))
        lane.complete_from_ms = to_ms
        outputs.append(self._heartbeat(lane, to_ms))
        return outputs

    def _close(self, event_ms: int) -> list[Output]:
        """One heartbeat at `event_ms` in every partition where it says something new."""
        self._next_ms = max(self._next_ms, event_ms + self._grid_ms)
        return [self._heartbeat(lane, event_ms) for lane in self._lanes if lane.closed_ms < event_ms]

    def _heartbeat(self, lane: _Lane, event_ms: int) -> Output:
        lane.closed_ms = event_ms
        beat = Heartbeat(
            exchange=self.exchange,
            source=self.name,
            session=self.session,
            count=lane.count,
            event_ms=event_ms,
            complete_from_ms=lane.complete_from_ms,
            markets=lane.markets,
        )
        return _in_band(lane, beat)

    def _boundary_ms(self, event_ms: int) -> int:
        """The grid boundary at or before `event_ms`."""
        return event_ms // self._grid_ms * self._grid_ms

    # --- for people -----------------------------------------------------------------------------------------------

    def event(self, kind: FeedKind, text: str, now_ns: int, wall_ns: int, markets: list[str] | None = None) -> Output:
        """A feed event."""
        message = FeedEvent(
            exchange=self.exchange,
            source=self.name,
            session=self.session,
            kind=kind,
            event_ms=self.estimate_ms(now_ns),
            received_ns=wall_ns,
            text=text,
            markets=markets or [],
        )
        return Output("feed-events", 0, "", encode(message))


def _in_band(lane: _Lane, message: Message) -> Output:
    return Output(lane.topic, lane.partition, "", encode(message))
