"""The market as requests see it: books, imbalance and forecast from the log; books over REST where the feed is stale.

`runner` names the markets that matter now and calls `step`; everything is read from the tails of the topics. The time
of the market comes from here too. Nothing is kept beyond the newest record per market.
"""

import difflib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from consumers.execute.requests.clock import RequestClock
from infra.errors import ExchangeUnavailable
from infra.log import Log, Reader, Record, Slot, partition_of, slots_of
from streams import topics
from streams.market.features import NAMES, SCHEMA
from streams.market.patience import Outlook
from streams.messages import Features, Market, OrderBook, Signal, key_of

logger = logging.getLogger(__name__)

EXCHANGE = "upbit"
FRESH_MS = 3_000
"""Older than this nothing of the feed is used."""
READING_S = 0.5
ASK_EVERY_S = 1.0
BATCH = 500
MOST_BATCHES = 20
"""Of one step: a flood must not hold up what is due."""
DEPTH = 5
_TAILS = {"orderbooks": 300, "features": 100, "signals": 400}
"""Topics that are followed, and how many records before the end the reading of a partition begins."""
_IMBALANCE = NAMES.index("imbalance_l5")

Level = tuple[float, float]


class Book(NamedTuple):
    """An order book, best level first, and the computer's time at which it was true."""

    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    wall_ms: int


class _Seen(NamedTuple):
    value: float
    wall_ms: int


Ask = Callable[[Sequence[str]], dict[str, Book]]
"""Books of some markets over REST; raises `ExchangeUnavailable`."""


class Watch:
    """Follows the markets that it is told to; reads `markets` whole."""

    def __init__(self, log: Log, clock: RequestClock, now_s: Callable[[], float], ask: Ask) -> None:
        self._log = log
        self._clock = clock
        self._now_s = now_s
        self._ask = ask
        self._has_trouble = False
        self._asked_s: dict[str, float] = {}
        self._books: dict[str, Book] = {}
        self._imbalances: dict[str, _Seen] = {}
        self._forecasts: dict[tuple[str, int], _Seen] = {}
        self._markets: dict[str, Market] = {}
        self._keys: dict[str, str] = {}
        self._since_s: dict[str, float] = {}
        slots = slots_of(log, ["markets"])
        bounds = log.bounds(slots)
        self._ends = {slot: bounds[slot][1] for slot in slots}
        self._counts = {topic: log.partitions(topic) for topic in _TAILS}
        self._pulse = self._newest_features()
        self._rules = log.reader({slot: bounds[slot][0] for slot in slots})
        self._reader: Reader | None = None
        self._followed: frozenset[Slot] = frozenset()
        self._follow_slots(frozenset({self._pulse}))

    def close(self) -> None:
        """Leave."""
        self._rules.close()
        if self._reader is not None:
            self._reader.close()

    def follow(self, markets: Iterable[str]) -> None:
        """From here on these markets matter, and no others."""
        self._keys = {key_of(EXCHANGE, market): market for market in markets}
        now_s = self._now_s()
        self._since_s = {market: self._since_s.get(market, now_s) for market in self._keys.values()}
        slots = {Slot(topic, partition_of(key, count)) for topic, count in self._counts.items() for key in self._keys}
        self._follow_slots(frozenset(slots | {self._pulse}))

    def step(self) -> int:
        """Take in what has come; returns the number of records."""
        count = self._read_rules()
        for _ in range(MOST_BATCHES):
            records = self._reader.read(BATCH, 0.0) if self._reader is not None else []
            if not records:
                break
            count += len(records)
            pulses = [record for record in records if record.topic == "features"]
            for record in records:
                if record.key in self._keys or record is (pulses[-1] if pulses else None):
                    self._take(record)
        return count

    # --- what is known

    def is_ready(self, market: str) -> bool:
        """Whether what the feed has of a market can have been read: a moment after it is followed, or all is here."""
        if self._fresh_book(market) is not None and any(known == market for known, _ in self._forecasts):
            return True
        return self._now_s() - self._since_s.get(market, float("inf")) >= READING_S

    def rules(self, market: str) -> Market | None:
        """What the exchange said of a market last."""
        return self._markets.get(market)

    def is_known(self, market: str) -> bool:
        """False where the exchange's list is here and has no such market."""
        return not self._markets or market in self._markets

    def near(self, market: str, count: int = 5) -> list[str]:
        """Markets whose codes look like this one."""
        return difflib.get_close_matches(market, self._markets, count, 0.5)

    def book(self, market: str) -> Book | None:
        """A fresh book, from the feed or, at most once a second, over REST; None where neither has one."""
        return self.books([market]).get(market)

    def books(self, markets: Iterable[str]) -> dict[str, Book]:
        """Fresh books of those markets that have one; stale ones are asked for in one call."""
        wanted = set(markets)
        now_s = self._now_s()
        stale = [
            market
            for market in sorted(wanted)
            if self._fresh_book(market) is None and now_s >= self._asked_s.get(market, 0.0)
        ]
        if stale:
            self._asked_s |= dict.fromkeys(stale, now_s + ASK_EVERY_S)
            self._books |= self._answer(stale)
        found = {market: self._fresh_book(market) for market in wanted}
        return {market: book for market, book in found.items() if book is not None}

    def outlook(self, market: str) -> Outlook | None:
        """What the rule of the assistant needs; None without a fresh book."""
        book = self.book(market)
        if book is None or not book.bids or not book.asks:
            return None
        imbalance = self._fresh(self._imbalances.get(market))
        horizons = sorted(horizon for known, horizon in self._forecasts if known == market)
        forecasts = [self._fresh(self._forecasts[market, horizon]) for horizon in horizons]
        return Outlook(
            best_bid=book.bids[0][0],
            best_ask=book.asks[0][0],
            imbalance=imbalance_of(book) if imbalance is None else imbalance,
            expected_bp=next((one for one in forecasts if one is not None), None),
        )

    def _answer(self, markets: Sequence[str]) -> dict[str, Book]:
        try:
            found = self._ask(markets)
        except ExchangeUnavailable as error:
            if not self._has_trouble:
                logger.warning("no price of %s from the feed, and none over REST: %s", ", ".join(markets), error)
            self._has_trouble = True
            return {}
        self._has_trouble = False
        return found

    def _fresh_book(self, market: str) -> Book | None:
        book = self._books.get(market)
        return book if book is not None and self._is_fresh(book.wall_ms) else None

    def _fresh(self, seen: _Seen | None) -> float | None:
        return seen.value if seen is not None and self._is_fresh(seen.wall_ms) else None

    def _is_fresh(self, wall_ms: int) -> bool:
        return abs(self._clock.wall_ms() - wall_ms) < FRESH_MS

    # --- reading

    def _newest_features(self) -> Slot:
        """The partition of `features` that moved last: the market's time is read there."""
        slots = slots_of(self._log, ["features"])
        bounds = self._log.bounds(slots)
        starts = {slot: end - 1 for slot, (first, end) in bounds.items() if end > first}
        newest = slots[0], -1
        if starts:
            reader = self._log.reader(starts)
            for record in reader.read(len(starts) * 2, 1.0):
                newest = max(newest, (record.slot, record.append_ms), key=lambda pair: pair[1])
            reader.close()
        return newest[0]

    def _follow_slots(self, slots: frozenset[Slot]) -> None:
        if slots == self._followed:
            return
        before = self._reader
        starts: dict[Slot, int] = {}
        for slot, (first, end) in self._log.bounds(slots).items():
            is_read = before is not None and slot in self._followed
            starts[slot] = before.position(slot) if is_read and before else max(first, end - _TAILS[slot.topic])
        self._reader = self._log.reader(starts)
        self._followed = slots
        if before is not None:
            before.close()

    def _read_rules(self) -> int:
        """Everything of `markets` that is there; the first time all of what stood there at the start."""
        count = 0
        while True:
            is_behind = any(self._rules.position(slot) < end for slot, end in self._ends.items())
            records = self._rules.read(BATCH, 0.2 if is_behind else 0.0)
            for record in records:
                message = _decoded(record)
                if isinstance(message, Market) and message.exchange == EXCHANGE:
                    self._markets[message.market] = message
            count += len(records)
            if not records and not is_behind:
                return count

    def _take(self, record: Record) -> None:
        message = _decoded(record)
        if isinstance(message, OrderBook):
            bids, asks = _levels(message.bid_prices, message.bid_sizes), _levels(message.ask_prices, message.ask_sizes)
            self._books[message.market] = Book(bids, asks, record.append_ms)
        elif isinstance(message, Features):
            self._clock.observe(message.bin_ms, record.append_ms)
            value = message.values[_IMBALANCE] if message.schema == SCHEMA else None
            if value is not None:
                self._imbalances[message.market] = _Seen(value, record.append_ms)
        elif isinstance(message, Signal):
            self._forecasts[message.market, message.horizon_ms] = _Seen(message.expected_bp, record.append_ms)


def imbalance_of(book: Book) -> float:
    """(bids - asks) / (bids + asks) over the best five levels, as the feature `imbalance_l5`."""
    bids, asks = (sum(size for _, size in side[:DEPTH]) for side in (book.bids, book.asks))
    return (bids - asks) / (bids + asks) if bids + asks else 0.0


def _levels(prices: Sequence[float], sizes: Sequence[float]) -> tuple[Level, ...]:
    return tuple(zip(prices, sizes, strict=False))


def _decoded(record: Record) -> object:
    """The message; None for one that cannot be read: whoever owns the topic's errors tells of it."""
    try:
        return topics.decode(record.topic, record.value)
    except msgspec.DecodeError:
        return None
